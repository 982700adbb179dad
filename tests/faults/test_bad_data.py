"""Data that is damaged, wrong or hostile is an error, or is announced; never is it quietly something else."""

import gzip
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import bad_files
import bad_requests
import numpy as np
import pytest
from bad_answers import answer, explore, faults, go_nowhere, of_case, refusal
from bad_files import KINDS, PICTURES, all_names, mishap, npy, npy_header, npz_file, place, zip_file
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import jaxtrain as jt
from jaxtrain.config import DataConfig
from jaxtrain.data import Data, load_data
from jaxtrain.data.folder import read_folder, read_image
from jaxtrain.errors import RequestError, WorldError


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_nowhere(tmp_path, monkeypatch)


@faults(ci=2 * len(KINDS), full=8 * len(KINDS))
def test_a_changed_data_file_is_the_same_data_or_announced_or_an_error(
    case: int, tmp_path: Path, record_property: Any
) -> None:
    name = list(KINDS)[case % len(KINDS)]
    kind, random, root = KINDS[name], of_case(case), tmp_path / "data"
    files, config, folder = kind.files(), kind.config(root), place(name, root)
    bad_files.write(folder, files)
    lines: list[str] = []
    good = load_data(config, report=lines.append)
    assert not lines  # of these sets it is known that they are right
    found = {"refused": 0, "announced": 0, "same": 0}
    for _ in range(60):
        file = list(files)[int(random.integers(len(files)))]
        what, content = mishap(files[file], random)
        (folder / file).write_bytes(content)
        lines.clear()
        data = answer(lambda: load_data(config, report=lines.append))
        same = isinstance(data, Data) and data.info.sha256 == good.info.sha256
        found["refused" if isinstance(data, Exception) else "same" if same else "announced"] += 1
        assert isinstance(data, Exception) or same or any("WARNING" in line for line in lines), f"{file}: {what}"
        assert not isinstance(data, WorldError) or file.split("/")[-1] in str(data)
        (folder / file).write_bytes(files[file])
    for key, count in found.items():
        record_property(key, count)
    assert found["refused"] > 10 and not (kind.checksum and found["announced"])


@faults(ci=3, full=4 * len(PICTURES))
def test_a_changed_picture_is_a_picture_or_an_error(case: int, tmp_path: Path, record_property: Any) -> None:
    form = list(PICTURES)[case % len(PICTURES)]
    random, files = of_case(case), PICTURES[form].files()
    file, content = next(iter(files.items()))
    bad_files.write(tmp_path, files)
    refused = 0
    for _ in range(60):
        (tmp_path / file).write_bytes(mishap(content, random)[1])
        found = answer(lambda: read_image(tmp_path / file, (8, 8, 3)))
        refused += isinstance(found, WorldError)
        assert isinstance(found, WorldError) or (found.shape == (8, 8, 3) and found.dtype == np.uint8)
    record_property("refused", refused)


def _png(width: int, height: int) -> bytes:
    """A small file that claims to be a large image."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    pixels = zlib.compress(bytes(1000))
    return bad_files.PNG + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda root: (root / "a/x.png").write_bytes(b""), "begins with nothing"),
    "a page": (lambda root: (root / "a/x.jpg").write_bytes(bad_files.HTML), "damaged or no image"),
    "PostScript": (lambda root: (root / "a/x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "damaged or no image"),
    "SVG": (lambda root: (root / "a/x.png").write_bytes(b"<svg onload='alert(1)'/>"), "damaged or no image"),
    "a bomb": (lambda root: (root / "a/x.png").write_bytes(_png(60_000, 60_000)), "67,108,864"),
    "a line": (lambda root: (root / "a/x.png").write_bytes(_png(1, 70_000_000)), "67,108,864"),
    "the largest": (lambda root: (root / "a/x.png").write_bytes(_png(2**31 - 1, 2**31 - 1)), "67,108,864"),
    "no width": (lambda root: (root / "a/x.png").write_bytes(_png(0, 5)), "damaged or no image"),
    "a class without": (lambda root: (root / "c").mkdir(), "holds no images"),
    "one class": (lambda root: _remove(root / "b"), "expected one for each class, at least 2"),
    "no class": (lambda root: (_remove(root / "a"), _remove(root / "b")), "has 0 sub-folders"),
    "only in test": (
        lambda root: (shutil.copytree(root / "a", root / "train/a"), shutil.copytree(root, root / "test")),
        "sub-folders",
    ),
    "other sizes": (lambda root: (root / "a/x.ppm").write_bytes(b"P6 1 1 255\n123"), "set data.image_size"),
    "16 bits": (lambda root: (root / "a/x.pgm").write_bytes(b"P5 8 8 65535\n" + bytes(128)), "8 bits a channel"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_folder_of_images_that_cannot_be_learnt_from_is_refused(name: str, tmp_path: Path) -> None:
    spoil, expected = IMAGES[name]
    bad_files.write(tmp_path / "images", bad_files.image_files())
    spoil(tmp_path / "images")
    size = 8 if expected == "67,108,864" else None
    error = refusal(lambda: read_folder(tmp_path / "images", size, lambda _: None))
    assert expected in str(error), error


def _label(files: Mapping[str, bytes], name: str, value: int) -> dict[str, bytes]:
    """IDX files with another value as the second label of one."""
    content = bytearray(gzip.decompress(files[name]))
    content[9] = value
    return {**files, name: gzip.compress(bytes(content))}


def test_labels_out_of_range_and_counts_that_differ_are_named(tmp_path: Path) -> None:
    files = bad_files.idx_files()
    images, labels, test_images, test_labels = files
    changed = {
        "label 1 is 10; expected 0 to 9": _label(files, labels, 10),
        "label 1 is 255": _label(files, test_labels, 255),
        "has 20 labels for 200 images": {**files, labels: files[test_labels]},
        "has 200 labels for 20 images": {**files, images: files[test_images]},
    }
    for number, (expected, content) in enumerate(changed.items()):
        bad_files.write(tmp_path / f"{number}/mnist", content)
        config = DataConfig(name="mnist", dir=str(tmp_path / str(number)), download=False)
        error = refusal(lambda config=config: load_data(config))
        assert isinstance(error, WorldError) and expected in str(error), error


LABEL = np.arange(40) % 4
IMAGE = np.zeros((40, 6, 6), np.uint8)
HEADERS = [
    f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    for shape in ("(10**12,)", "(9999999999999, 6, 6)", "(-1, 6)", "(1e3,)", "('a',)", "(40, 6, 6", "(True, 6)", 9**30)
] + [
    f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': (40, 6, 6), }}"
    for dtype in ("|O", "<U9", "M8[s]", "garbage", "|V99999999999", "(1000,)f4")
]
NPZ: dict[str, dict[str, bytes]] = {
    "objects": npz_file(image=np.array([None, 1], object), label=LABEL),
    "object labels": npz_file(image=IMAGE, label=LABEL.astype(object)),
    "object names": npz_file(image=IMAGE, label=LABEL, class_names=np.array([None] * 4, object)),
    "one name": npz_file(image=IMAGE, label=LABEL, class_names=np.array("abcd")),
    "few names": npz_file(image=IMAGE, label=LABEL, class_names=np.array(["a"])),
    "tables of names": npz_file(image=IMAGE, label=LABEL, class_names=np.array([["a"]] * 4)),
    "no labels": npz_file(image=IMAGE),
    "half a test": npz_file(x_train=IMAGE, y_train=LABEL, x_test=IMAGE),
    "another test": npz_file(x_train=IMAGE, y_train=LABEL, x_test=IMAGE[:, :3], y_test=LABEL),
    "NaN": npz_file(image=np.full((40, 6), np.nan), label=LABEL),
    "columns": npz_file(image=IMAGE, label=LABEL[:, None]),
    "negative": npz_file(image=IMAGE, label=LABEL - 1),
    "nothing": zip_file({}),
    "a path": zip_file({"../image.npy": npy(IMAGE), "label.npy": npy(LABEL)}),
    "raw": zip_file({"image.npy": b"hello", "label.npy": npy(LABEL)}),
    "cut": zip_file({"image.npy": npy(IMAGE)[:60], "label.npy": npy(LABEL)}),
    **{header: zip_file({"image.npy": npy_header(header), "label.npy": npy(LABEL)}) for header in HEADERS},
    "executable": zip_file({"image.npy": npy_header("__import__('os').mkdir('canary')"), "label.npy": npy(LABEL)}),
}


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NPZ, ids=range(len(NPZ)))
def test_an_npz_that_holds_no_plain_arrays_to_learn_from_is_refused(name: str) -> None:
    bad_files.write(Path(), NPZ[name])
    refusal(lambda: load_data(DataConfig(name="npz", path="data.npz")))
    assert all_names([Path()]) == ["data.npz"]


@faults(ci=14, full=100)
def test_arrays_that_cannot_be_learnt_from_are_refused(case: int) -> None:
    for row in range(case * 5, case * 5 + 5):
        given = bad_requests.arrays(row)
        wrong = {name: value for name, value in given.items() if name not in ("images", "labels")}
        error = refusal(lambda given=given: jt.from_arrays(**given))
        assert isinstance(error, RequestError), f"{wrong}: {error}"
    explore(case, _arrays(), _is_data_or_an_error, 15)


def _arrays() -> st.SearchStrategy[Any]:
    dtypes = st.sampled_from(["u1", "f4", "f8", "i4", "i8", "u8", "?", "c8", "f2", "U2"])
    shape = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
    array = st.one_of(npst.arrays(dtypes, shape), st.just(np.arange(40) % 4), st.just(IMAGE))
    return st.tuples(array, array)


def _is_data_or_an_error(given: tuple[Any, Any]) -> None:
    data = answer(lambda: jt.from_arrays(*given))
    if isinstance(data, Data):
        assert len(data.image) == len(data.label) == len(given[0]) and np.isfinite(data.label).all()
        assert np.isfinite(data.image).all() and data.num_train > 0 and data.num_val > 0
        labels = data.label if data.info.num_classes is None else np.eye(data.info.num_classes)[data.label]
        assert labels.ndim == 2
