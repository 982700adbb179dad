"""`load_data`: where it looks, what it says, and what it gives."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

from jaxtrain.config import DataConfig
from jaxtrain.data import sources
from jaxtrain.data.digits import digits, digits_28
from jaxtrain.data.published import IDX_SETS
from jaxtrain.data.sources import cache_dir, load_data
from jaxtrain.errors import RequestError, WorldError


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """No data anywhere, and no way out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXTRAIN_DATA", raising=False)
    monkeypatch.setattr(sources, "download", _no_network)


def _no_network(urls, path, **_):
    raise WorldError(f"{path.name} could not be downloaded:\n  {urls[0]}: could not be reached")


def _write_mnist(folder, num_train=40, label=lambda n: np.arange(n) % 10, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for file, n in zip(IDX_SETS["mnist"].files, (num_train, num_train, 20, 20), strict=True):
        images = "images" in file.name
        array = np.full((n, 4, 4), 7, np.uint8) if images else label(n).astype(np.uint8)
        content = b"".join(int(i).to_bytes(4, "big") for i in (2048 + array.ndim, *array.shape)) + array.tobytes()
        path = folder / (file.name + ".gz" * packed)
        path.write_bytes(gzip.compress(content) if packed else content)


def test_digits_are_the_published_ones():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    source = digits()
    assert source.test is not None and len(source.image) == 1437 and (np.bincount(source.test[1]) == 36).all()
    ours = np.concatenate([source.image, source.test[0]]).reshape(1797, 64)
    theirs = np.rint(bunch.data * 255 / 16).astype(np.uint8)
    labelled = [
        np.c_[images, label] for images, label in [(ours, np.r_[source.label, source.test[1]]), (theirs, bunch.target)]
    ]
    np.testing.assert_array_equal(*[rows[np.lexsort(rows.T)] for rows in labelled])


def test_digits_need_no_files_and_never_change():
    data = load_data(DataConfig("digits"), report=pytest.fail)
    assert (data.num_train, data.num_val, data.num_test) == (1293, 144, 360)
    assert data.info.published and data.info.source == "embedded" and data.info.stored_shape == (8, 8, 1)
    assert data.info.sha256 == "dc6a88e50a9c54325b1f6f020443f7342f5b0701102b5a51e82ff5b047325f78"


def test_enlarged_digits_are_digits_between_their_pixels():
    small, large = digits(), digits_28()
    assert large.image.shape == (1437, 28, 28) and large.image.dtype == np.uint8
    assert (large.image.max((1, 2)) <= small.image.max((1, 2))).all()
    np.testing.assert_allclose(large.image.mean((1, 2)), small.image.mean((1, 2)), atol=4)
    np.testing.assert_array_equal(large.image[:, 0, 0], small.image[:, 0, 0])


@pytest.mark.parametrize("packed", [True, False])
def test_the_first_folder_that_has_all_files_is_taken(tmp_path, monkeypatch, packed):
    _write_mnist(tmp_path / "cache" / "jaxtrain" / "data" / "mnist", 40)
    lines = []
    assert load_data(DataConfig("mnist"), report=lines.append).num_train == 30
    _write_mnist(tmp_path / "env" / "mnist", 60, packed=packed)
    monkeypatch.setenv("JAXTRAIN_DATA", str(tmp_path / "env"))
    assert load_data(DataConfig("mnist"), report=lines.append).num_train == 50
    _write_mnist(tmp_path / "dir" / "mnist", 80)
    config = DataConfig("mnist", dir=str(tmp_path / "dir"))
    data = load_data(config, report=lines.append)
    assert data.num_train == 70 and data.info.source == str(tmp_path / "dir" / "mnist")
    assert not data.info.published and all("WARNING" in line and "not the published mnist" in line for line in lines)
    (tmp_path / "dir" / "mnist" / "t10k-images-idx3-ubyte.gz").unlink()
    assert load_data(config, report=lines.append).num_train == 50


def test_the_config_is_followed(tmp_path):
    _write_mnist(tmp_path / "mnist", 100)
    config = DataConfig("mnist", dir=str(tmp_path), val_share=0.5, preprocess="pca", num_components=3)
    data = load_data(config, report=lambda line: None)
    assert data.num_val == 50 and data.image_shape == (3,) and data.info.class_names == tuple("0123456789")


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_what_is_nowhere_is_an_error_that_says_where_and_how(tmp_path, monkeypatch, name, download):
    monkeypatch.setenv("JAXTRAIN_DATA", str(tmp_path / "env"))
    (tmp_path / "env" / name).mkdir(parents=True)
    (tmp_path / "env" / name / "train.bin").touch()
    with pytest.raises(WorldError) as error:
        load_data(DataConfig(name, dir="/nowhere", download=download), report=lambda line: None)
    message = str(error.value)
    for part in (f"/nowhere/{name} (no such folder)", f"env/{name} (has train.bin)", str(cache_dir() / name), "http"):
        assert part in message
    assert ("could not be reached" if download else "data.download is off") in message


def test_a_download_of_cifar10_is_bounded_by_its_published_size(monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "download", lambda urls, path, *, md5, size, report: asked.append((path.name, size)))
    with pytest.raises(WorldError, match="lacks data_batch_1"):
        load_data(DataConfig("cifar10"), report=lambda line: None)
    assert asked == [("cifar-10-binary.tar.gz", 170_052_171)]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_name_that_no_disk_takes_is_a_folder_that_is_not_there(name):
    with pytest.raises(WorldError, match="no such folder"):
        load_data(DataConfig(name, dir="x" * 300, download=False), report=lambda line: None)


def test_the_fallback_cannot_be_missed_and_is_recorded():
    lines = []
    data = load_data(DataConfig("mnist", fallback="digits"), report=lines.append)
    assert data.info.fallback == "digits" and data.info.name == "mnist-fallback-digits" and not data.info.published
    assert data.info.stored_shape == (28, 28, 1) and data.info.num_classes == 10
    assert "!!!!!" in lines[0] and "does NOT use MNIST" in lines[0] and "found in none of" in lines[0]


def test_the_fallback_is_not_used_where_mnist_is(tmp_path):
    _write_mnist(tmp_path / "mnist")
    data = load_data(DataConfig("mnist", dir=str(tmp_path), fallback="digits"), report=lambda line: None)
    assert data.info.fallback is None and data.info.name == "mnist"


DAMAGED = {
    "cut": (lambda folder: _cut(folder / "train-images-idx3-ubyte.gz"), "train-images-idx3-ubyte.gz is damaged"),
    "html": (lambda folder: (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"<html>"), "3c 68 74 6d"),
    "counts": (lambda folder: _write_labels(folder, 39), "39 labels for 40 images"),
    "label": (lambda folder: _write_labels(folder, 40, 10), "label 39 is 10; expected 0 to 9"),
}


def _cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def _write_labels(folder, count, last=3):
    labels = bytes([i % 10 for i in range(count - 1)] + [last])
    (folder / "train-labels-idx1-ubyte.gz").write_bytes((2049).to_bytes(4, "big") + count.to_bytes(4, "big") + labels)


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("fallback", [None, "digits"])
def test_damaged_files_stop_the_run_whatever_the_fallback(tmp_path, case, fallback):
    _write_mnist(tmp_path / "mnist")
    DAMAGED[case][0](tmp_path / "mnist")
    with pytest.raises(WorldError, match=DAMAGED[case][1]):
        load_data(DataConfig("mnist", dir=str(tmp_path), fallback=fallback), report=lambda line: None)


CONTRADICTIONS = [
    (DataConfig("npz"), "data.path is not given"),
    (DataConfig("folder"), "data.path is not given"),
    (DataConfig("npz", path=""), "data.path is not given"),
    (DataConfig("npz", path="~nobody-of-this-name/x"), "data.path is .* there is no such user"),
    (DataConfig("mnist", dir="~nobody-of-this-name"), "data.dir is .* there is no such user"),
    (DataConfig("folder", path=".", image_size=10**6), "data.image_size is 1000000"),
    (DataConfig("digits", split_seed=-1), "split_seed is -1"),
    (DataConfig("mnist", path="x"), "data.path is for npz and folder"),
    (DataConfig("mnist", image_size=3), "data.image_size"),
    (DataConfig("cifar10", fallback="digits"), "stands in for mnist only"),
    (DataConfig("digits", val_share=1.5), "val_share is 1.5"),
    (dataclasses.replace(DataConfig(), name="mnits"), "data.name is 'mnits'; expected digits"),  # pyright: ignore
]


@pytest.mark.parametrize(("config", "message"), CONTRADICTIONS)
def test_a_config_that_contradicts_itself_is_refused(config, message):
    with pytest.raises(RequestError, match=message):
        load_data(config)


def test_an_npz_file_and_a_folder_of_images_are_loaded(tmp_path):
    from PIL import Image

    image, label = np.random.default_rng(0).integers(0, 256, (8, 4, 4), dtype=np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "a.npz", image=image, label=label)
    for i in range(8):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[i]).save(path)
    one = load_data(DataConfig("npz", path=str(tmp_path / "a.npz"), val_share=0.5))
    other = load_data(DataConfig("folder", path=str(tmp_path / "images"), val_share=0.5))
    for data in (one, other):
        assert (data.num_train, data.num_val, data.num_test) == (4, 4, 0) and not data.info.published
    np.testing.assert_array_equal(np.sort(one.image, axis=0), np.sort(other.image, axis=0))
    assert other.info.class_names == ("a", "b") and one.info.source == str(tmp_path / "a.npz")


def test_info_survives_json():
    info = load_data(DataConfig("digits")).info
    assert json.loads(json.dumps(dataclasses.asdict(info)))["stored_shape"] == [8, 8, 1]
