"""The IDX reader: right bytes give the array, wrong ones an error that shows them, and no third way."""

import gzip
import hashlib

import numpy as np
import pytest

from jaxtrain.config import DataConfig
from jaxtrain.data import idx
from jaxtrain.data.idx import read_idx
from jaxtrain.data.sources import load_data
from jaxtrain.errors import WorldError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def idx_bytes(array):
    header = [2048 + array.ndim, *array.shape]
    return b"".join(n.to_bytes(4, "big") for n in header) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("array", [IMAGES, np.arange(7, dtype=np.uint8), IMAGES[:0]], ids=["images", "labels", "none"])
def test_an_idx_file_is_read_as_it_was_written(tmp_path, array, packed):
    content = idx_bytes(array)
    path = tmp_path / "file.gz"  # the name says nothing: browsers unpack and keep it
    path.write_bytes(gzip.compress(content) if packed else content)
    read, sha256 = read_idx(path, array.ndim)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8 and sha256 == hashlib.sha256(content).hexdigest()


CONTENT = idx_bytes(IMAGES)
PACKED = gzip.compress(CONTENT)
HUGE = (2051).to_bytes(4, "big") + b"\xff" * 12 + b"abc"

DAMAGED = {
    "empty": (b"", "is empty; expected an IDX file that begins 00 00 08 03"),
    "html": (b"<!DOCTYPE html><html>", "begins 3c 21 44 4f.*DOCTYPE"),
    "html packed": (gzip.compress(b"<html>Not found</html>"), "<html>"),
    "labels for images": (idx_bytes(np.arange(9, dtype=np.uint8)), "begins 00 00 08 01"),
    "header cut": (CONTENT[:11], "expected an IDX file"),
    "cut": (CONTENT[:-1], "5 x 4 x 3 = 60 bytes and 59 bytes follow"),
    "too long": (CONTENT + b"x", "60 bytes and more follow"),
    "packed cut": (PACKED[: len(PACKED) // 2], "damaged or cut short"),
    "packed without its checksum": (PACKED[:-8], "damaged or cut short"),
    "packed without its last byte": (PACKED[:-1], "damaged or cut short"),
    "packed too long": (gzip.compress(CONTENT + b"x"), "more follow"),
    "packed and then something": (PACKED + b"something", "damaged"),
    "huge count": (HUGE, "at most 1073741824 are read"),
    "huge count packed": (gzip.compress(HUGE), "at most 1073741824 are read"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named_with_what_was_found(tmp_path, case):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(DAMAGED[case][0])
    with pytest.raises(WorldError, match=DAMAGED[case][1]) as error:
        read_idx(path, 3)
    assert str(path) in str(error.value)


def test_content_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "images.gz"
    path.write_bytes(PACKED)
    monkeypatch.setattr(idx, "LARGEST", IMAGES.size)
    np.testing.assert_array_equal(read_idx(path, 3)[0], IMAGES)
    monkeypatch.setattr(idx, "LARGEST", IMAGES.size - 1)
    monkeypatch.setattr(idx, "read_at_most", pytest.fail)
    with pytest.raises(WorldError, match="its header says 5 x 4 x 3 = 60 bytes; at most 59 are read"):
        read_idx(path, 3)


def test_every_flipped_bit_of_a_gz_is_found_or_harmless(tmp_path):
    random, path, found = np.random.default_rng(0), tmp_path / "images.gz", 0
    for position in random.integers(0, 8 * len(PACKED), 200):
        damaged = bytearray(PACKED)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_idx(path, 3)[0], IMAGES)
        except WorldError:
            found += 1
    assert found > 150  # the rest hit the header's time and the like


def test_a_missing_file_is_an_error_of_the_world(tmp_path):
    with pytest.raises(WorldError, match="cannot be read: No such file"):
        read_idx(tmp_path / "none", 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_sets_are_the_published_ones(real_data, name):
    data = load_data(DataConfig(name, dir=str(real_data)), report=pytest.fail)
    assert data.info.published and (data.num_train, data.num_val, data.num_test) == (54_000, 6_000, 10_000)
    assert np.bincount(data.label[slice(*data.test)]).min() > 800
