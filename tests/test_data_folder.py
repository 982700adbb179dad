"""Folders of images and .npz files: what is read, and what is refused with its name."""

import io
import os
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxtrain.data import memory
from jaxtrain.data.folder import read_folder, read_image, read_npz
from jaxtrain.errors import RequestError, WorldError


def _save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _grey(seed, shape=(6, 5)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for i in range(3):
            _save(tmp_path / name / f"{i}.png", _grey(10 * label + i))
    return tmp_path


def test_images_are_read_with_the_class_of_their_folder(tree):
    lines = []
    (tree / ".hidden").mkdir()
    (tree / "cat" / "notes.txt").write_text("no image")
    source = read_folder(tree, None, lines.append)
    assert source.class_names == ("cat", "dog") and source.test is None
    np.testing.assert_array_equal(source.label, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(source.image[4], _grey(11)[..., None])
    assert "left out 1 files" in lines[0] and "notes.txt" in lines[0]


def test_one_colour_image_makes_all_colour(tree):
    _save(tree / "cat" / "3.png", _grey(5, (6, 5, 3)))
    source = read_folder(tree, None, print)
    assert source.image.shape == (7, 6, 5, 3)
    np.testing.assert_array_equal(source.image[0], np.repeat(_grey(0)[..., None], 3, -1))
    np.testing.assert_array_equal(source.image[3], _grey(5, (6, 5, 3)))


def test_train_and_test_folders(tmp_path):
    for split, names in (("train", "ab"), ("test", "ba")):
        for name in names:
            _save(tmp_path / split / name / "0.png", _grey(ord(name)))
            _save(tmp_path / split / name / "1.png", _grey(ord(name)))
    source = read_folder(tmp_path, None, print)
    assert len(source.image) == 4 and source.test is not None and source.class_names == ("a", "b")
    np.testing.assert_array_equal(source.test[1], [0, 0, 1, 1])
    _save(tmp_path / "test" / "c" / "0.png", _grey(0))
    with pytest.raises(RequestError, match="has the class 'c'"):
        read_folder(tmp_path, None, print)


def test_sizes_that_differ_need_image_size(tree):
    _save(tree / "dog" / "3.png", _grey(0, (9, 4)))
    with pytest.raises(RequestError, match="5 x 6 and .*3.png 4 x 9; set data.image_size"):
        read_folder(tree, None, print)
    assert read_folder(tree, 8, print).image.shape == (7, 8, 8, 1)


def _header_only(path, side):
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, "big") * 2  # IHDR's width and height; then its checksum
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(content)


REFUSED = {
    "empty class": (lambda t: (t / "eel").mkdir(), RequestError, "eel holds no images"),
    "no image": (lambda t: (t / "cat" / "9.png").write_bytes(b"<html>"), WorldError, "9.png is damaged.*3c 68"),
    "empty": (lambda t: (t / "cat" / "9.png").write_bytes(b""), WorldError, "begins with nothing"),
    "PostScript": (lambda t: (t / "cat" / "9.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0"), WorldError, "9.png is"),
    "large": (lambda t: _header_only(t / "cat" / "9.png", 9_000), WorldError, "9000 x 9000 pixels"),
    "absurd": (lambda t: _header_only(t / "cat" / "9.png", 100_000), WorldError, "claims more than"),
    "16 bits": (lambda t: _save(t / "cat" / "9.png", _grey(0).astype(np.uint16)), RequestError, "9.png has mode I"),
    "cut": (
        lambda t: (t / "cat" / "1.png").write_bytes((t / "cat" / "1.png").read_bytes()[:50]),
        WorldError,
        "1.png is damaged",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named(tree, case):
    damage, kind, message = REFUSED[case]
    damage(tree)
    with pytest.raises(kind, match=message):
        read_folder(tree, None, print)


def test_no_flipped_bit_of_a_png_goes_unnoticed(tmp_path):
    random, path = np.random.default_rng(0), tmp_path / "noise.png"
    _save(path, _grey(0))
    content = path.read_bytes()
    for bit in random.integers(8 * len(content), size=300):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_image(path, (6, 5, 1))[..., 0], _grey(0))
        except WorldError:
            continue


def test_a_class_may_be_named_in_any_bytes(tree):
    (tree / "cat").rename(tree / os.fsdecode(b"c\xff"))
    assert read_folder(tree, None, print).class_names == ("c\ufffd", "dog")


def test_no_folder_and_no_classes(tmp_path):
    with pytest.raises(WorldError, match="there is no folder"):
        read_folder(tmp_path / ("x" * 300), None, print)
    with pytest.raises(WorldError, match="there is no folder"):
        read_folder(tmp_path / "none", None, print)
    with pytest.raises(RequestError, match="has 0 sub-folders"):
        read_folder(tmp_path, None, print)


@pytest.mark.parametrize("keys", [("image", "label"), ("x_train", "y_train")])
def test_an_npz_is_read_by_either_names(tmp_path, keys):
    image, label = _grey(0, (4, 3, 3)), np.arange(4) % 2
    arrays: dict = dict(zip(keys, (image, label), strict=True))
    arrays |= dict(x_test=image[:1], y_test=label[:1], class_names=np.array(["a", "b"]), other=np.zeros(3))
    np.savez(tmp_path / "a.npz", **arrays)
    source = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(source.image, image)
    np.testing.assert_array_equal(source.label, label)
    assert source.class_names == ("a", "b") and source.test is not None and len(source.test[0]) == 1


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _header(shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def _zip(path, image):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("image.npy", image)
        file.writestr("label.npy", _npy(np.zeros(40, int)))


NPZ = {
    "keys": (lambda p: np.savez(p, x=np.zeros(2)), RequestError, "holds x; expected image and label"),
    "half a test": (
        lambda p: np.savez(p, image=np.zeros((2, 2)), label=np.zeros(2), x_test=np.zeros((2, 2))),
        RequestError,
        "one of x_test and y_test",
    ),
    "objects": (
        lambda p: np.savez(p, image=np.array([{}], object), label=np.zeros(1)),
        RequestError,
        "holds Python objects",
    ),
    "npy": (lambda p: p.write_bytes(_npy(np.zeros(3))), RequestError, "single array"),
    "npy cut": (lambda p: p.write_bytes(_npy(np.zeros(3))[:-1]), RequestError, "single array"),
    "one name": (
        lambda p: np.savez(p, image=np.zeros((2, 2)), label=np.zeros(2), class_names=np.array("ab")),
        RequestError,
        r"class_names has shape \(\)",
    ),
    "no end": (lambda p: _zip(p, _header("(40, 6, 6")), WorldError, "damaged or no .npz"),
    "more than there is": (lambda p: _zip(p, _header("(9999999999999, 6)")), WorldError, "damaged or no .npz"),
    "more than can be": (lambda p: _zip(p, _header(f"({9**30},)")), WorldError, "damaged or no .npz"),
    "html": (lambda p: p.write_bytes(b"<html>"), WorldError, "damaged or no .npz"),
    "empty": (lambda p: p.write_bytes(b""), WorldError, "damaged or no .npz"),
    "missing": (lambda p: None, WorldError, "there is no file"),
}


@pytest.mark.parametrize("case", NPZ)
def test_what_is_no_npz_of_examples_is_refused(tmp_path, case):
    write, kind, message = NPZ[case]
    write(tmp_path / "a.npz")
    with pytest.raises(kind, match=message):
        read_npz(tmp_path / "a.npz")


def test_an_npz_that_the_memory_does_not_hold_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path, image, label = tmp_path / "a.npz", np.zeros((1000, 10, 10), np.uint8), np.arange(1000) % 2
    np.savez_compressed(path, image=image, label=label, other=np.zeros(10**6))  # of the other nothing is read
    need = len(_npy(image)) + len(_npy(label))
    assert path.stat().st_size < need / 10
    monkeypatch.setattr(memory, "host_memory", lambda: 2 * need)
    np.testing.assert_array_equal(read_npz(path).image, image)
    monkeypatch.setattr(memory, "host_memory", lambda: 2 * need - 1)
    monkeypatch.setattr(zipfile.ZipFile, "open", pytest.fail)
    with pytest.raises(WorldError, match="a.npz holds arrays of 0 MB, expected at most half of the 0 MB of memory"):
        read_npz(path)


def test_an_npz_that_claims_a_petabyte_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("image.npy", _npy(_grey(0, (4, 3, 3))))
        file.writestr("label.npy", _npy(np.arange(4) % 2))
        file.getinfo("image.npy").file_size = 10**15
    with pytest.raises(WorldError, match="a.npz holds arrays of 1,000,000,000 MB"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_packing_of_which_a_little_unpacks_into_gigabytes_at_once_is_refused(tmp_path, packing):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", packing) as file:
        file.writestr("image.npy", _npy(_grey(0, (4, 3, 3))))
        file.writestr("label.npy", _npy(np.arange(4) % 2))
    with pytest.raises(WorldError, match="image.npy is not packed as numpy.savez does it"):
        read_npz(tmp_path / "a.npz")


def test_flipped_bits_of_an_npz_are_found_or_harmless(tmp_path):
    path, random = tmp_path / "a.npz", np.random.default_rng(0)
    image, label = _grey(0, (4, 3, 3)), np.arange(4) % 2
    np.savez_compressed(path, image=image, label=label)
    content = path.read_bytes()
    for position in random.integers(0, 8 * len(content), 100):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            source = read_npz(path)
        except (WorldError, RequestError):
            continue
        np.testing.assert_array_equal(source.image, image)
        np.testing.assert_array_equal(source.label, label)
