"""CIFAR-10 in all its packings gives the same arrays, and a pickle cannot run anything."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from jaxtrain.data.cifar import BATCHES, find_cifar10, read_cifar10
from jaxtrain.data.plain_pickle import MOST_INSTRUCTIONS, read_plain_pickle
from jaxtrain.errors import WorldError

random = np.random.default_rng(0)
IMAGE = random.integers(0, 256, (6, 4, 32, 32, 3), dtype=np.uint8)  # batch, example, ...
LABEL = random.integers(0, 10, (6, 4), dtype=np.uint8)


def _records(batch):
    return np.concatenate([LABEL[batch][:, None], IMAGE[batch].transpose(0, 3, 1, 2).reshape(4, -1)], axis=1)


def _binary():
    return {f"{name}.bin": _records(i).tobytes() for i, name in enumerate(BATCHES)}


def old_pickle(data, labels):
    """A batch as Python 2 wrote it: protocol 2, byte strings, NumPy's old module names."""

    def text(s):
        return b"U" + bytes([len(s)]) + s

    numbers = b"".join(b"K" + bytes([v]) for v in labels)
    shape = b"K" + bytes([data.shape[0]]) + b"M" + data.shape[1].to_bytes(2, "little") + b"\x86"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    body = b"T" + data.size.to_bytes(4, "little") + data.tobytes()
    array += b"(K\x01" + shape + dtype + b"\x89" + body + b"tb"
    return b"\x80\x02}(" + text(b"labels") + b"](" + numbers + b"e" + text(b"data") + array + b"u."


def _python():
    return {name: old_pickle(_records(i)[:, 1:], LABEL[i]) for i, name in enumerate(BATCHES)}


def _write(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _archive(path, files, inside="cifar-10-batches-bin/"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(inside + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


PACKINGS = {
    "binary": lambda root: _write(root / "cifar10", _binary()),
    "python": lambda root: _write(root / "cifar10", _python()),
    "binary below": lambda root: _write(root / "cifar10" / "cifar-10-batches-bin", _binary()),
    "python below": lambda root: _write(root / "cifar10" / "cifar-10-batches-py", _python()),
    "python beside": lambda root: _write(root / "cifar-10-batches-py", _python()),
    "binary archive": lambda root: _archive(root / "cifar10" / "cifar-10-binary.tar.gz", _binary()),
    "python archive": lambda root: _archive(root / "cifar-10-python.tar.gz", _python()),
    "archive with paths": lambda root: _archive(root / "cifar10" / "cifar-10-binary.tar.gz", _binary(), "../../out/"),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_gives_the_same_arrays(tmp_path, packing):
    root = tmp_path / "data"
    PACKINGS[packing](root)
    before = sorted(tmp_path.rglob("*"))
    place = find_cifar10([tmp_path / "none", root])
    assert place is not None
    (image, label), (test_image, test_label), published = read_cifar10(place)
    np.testing.assert_array_equal(image, IMAGE[:5].reshape(20, 32, 32, 3))
    np.testing.assert_array_equal(label, LABEL[:5].reshape(20))
    np.testing.assert_array_equal(test_image, IMAGE[5])
    np.testing.assert_array_equal(test_label, LABEL[5])
    assert not published and sorted(tmp_path.rglob("*")) == before  # nothing was extracted


def test_nothing_is_found_where_nothing_is(tmp_path):
    (tmp_path / "cifar10").mkdir()
    assert find_cifar10([tmp_path]) is None


def test_a_folder_that_lacks_a_batch_is_an_error(tmp_path):
    files = _binary()
    del files["data_batch_3.bin"]
    _write(tmp_path / "cifar10", files)
    with pytest.raises(WorldError, match="lacks data_batch_3"):
        find_cifar10([tmp_path])


def _label(content, value):
    return bytes([value]) + content[1:]


DAMAGED = {
    "empty": (lambda c: b"", "is empty"),
    "html": (lambda c: b"<html>", "<html>.*records of 3073 bytes"),
    "cut": (lambda c: c[:-1], "records of 3073"),
    "label": (lambda c: _label(c, 10), "record 0 has 10"),
    "no pickle": (lambda c: _label(c, 128), "no plain pickle"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_batch_is_named(tmp_path, case):
    damage, message = DAMAGED[case]
    files = _binary()
    files["data_batch_2.bin"] = damage(files["data_batch_2.bin"])
    _write(tmp_path / "cifar10", files)
    with pytest.raises(WorldError, match=message) as error:
        read_cifar10(tmp_path / "cifar10")
    assert "data_batch_2.bin" in str(error.value)


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: c[:-1], lambda c: b"<html>", lambda c: b""])
def test_a_damaged_archive_is_named(tmp_path, damage):
    path = tmp_path / "cifar-10-binary.tar.gz"
    _archive(path, _binary())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WorldError, match="damaged|lacks") as error:
        read_cifar10(path)
    assert str(path) in str(error.value)


def _sized(size, form):
    entry = tarfile.TarInfo("zeros")
    entry.size = size
    return gzip.compress(entry.tobuf(form))


ABSURD = {
    "a petabyte": (_sized(10**15, tarfile.GNU_FORMAT), "no octal number"),
    "gigabytes": (_sized(8**11 - 1, tarfile.USTAR_FORMAT), "would have 8589934591 bytes"),
    "zeros": (gzip.compress(bytes(1024) + b"\1" * 3000), "bytes"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_an_archive_that_claims_absurd_sizes_takes_no_time(tmp_path, monkeypatch, case):
    monkeypatch.setattr("jaxtrain.data.cifar.LARGEST_ARCHIVE", 2000)
    content, message = ABSURD[case]
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(WorldError, match=message):
        read_cifar10(tmp_path / "a.tar.gz")


def test_a_batch_that_is_there_twice_is_ambiguous(tmp_path):
    _archive(tmp_path / "a.tar.gz", {**_binary(), "again/data_batch_1.bin": _binary()["data_batch_2.bin"]})
    with pytest.raises(WorldError, match="holds data_batch_1 twice"):
        read_cifar10(tmp_path / "a.tar.gz")


def test_flipped_bits_of_an_archive_are_found_or_harmless(tmp_path):
    path, flips = tmp_path / "a.tar.gz", np.random.default_rng(0)
    _archive(path, _binary())
    content = path.read_bytes()
    expected = read_cifar10(path)[0][0]
    for position in flips.integers(0, 8 * len(content), 40):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_cifar10(path)[0][0], expected)
        except WorldError:
            continue


DOUBLED = b"\x80\x02U\x01xq\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
"""Pairs of pairs, the last of 2^60 things: to show it, to hash it or to make an array of it takes for ever."""


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(_Evil()),
        pickle.dumps(np.array([None, 1], object)),
        pickle.dumps(np.zeros(2, [("a", "f4")])),
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",
        b"\x80\x02.",
        DOUBLED + b"cnumpy\ndtype\nh\x3c\x85R.",
        DOUBLED + b"}h\x3cK\x01s.",
        b"\x80\x02}(K\x01",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
)
def test_a_pickle_of_anything_else_is_refused_and_does_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorldError, match="pickle|damaged"):
        read_plain_pickle(tmp_path / "data_batch_1", content)
    assert not list(tmp_path.iterdir())


def test_a_pickle_of_more_instructions_than_any_batch_needs_is_refused(tmp_path):
    lists = b"]" * (MOST_INSTRUCTIONS - 2)  # between the first and the last instruction
    assert read_plain_pickle(tmp_path, b"\x80\x02" + lists + b".") == []
    with pytest.raises(WorldError, match=f"more than {MOST_INSTRUCTIONS} instructions"):
        read_plain_pickle(tmp_path, b"\x80\x02" + lists + b"].")


TWO = np.zeros((2, 3072), np.uint8)
OTHER_FORMS = {
    "nothing": ({}, "b'data'"),
    "a list": ([1, 2], "it is a list"),
    "an array": (np.zeros(3, np.uint8), "it is a ndarray"),
    "a number as data": ({b"data": 3, b"labels": [1]}, "data is a int"),
    "narrow data": ({b"data": TWO[:, :5], b"labels": [0, 1]}, r"data \[2, 5\] and 2 labels"),
    "few labels": ({b"data": TWO, b"labels": [0]}, r"data \[2, 3072\] and 1 labels"),
    "a large label": ({b"data": TWO, b"labels": [0, 256]}, "labels that are not 0 to 9"),
}


@pytest.mark.parametrize("case", OTHER_FORMS)
def test_a_plain_pickle_of_another_form_is_refused(tmp_path, case):
    batch, message = OTHER_FORMS[case]
    _write(tmp_path / "cifar10", {**_python(), "test_batch": pickle.dumps(batch, protocol=4)})
    with pytest.raises(WorldError, match=f"test_batch .*expected a CIFAR-10 batch.*{message}"):
        read_cifar10(tmp_path / "cifar10")


def test_labels_of_endless_pairs_are_refused(tmp_path):
    content = DOUBLED + b"}(U\x04dataK\x01U\x06labelsh\x3cu."
    _write(tmp_path / "cifar10", {**_python(), "test_batch": content})
    with pytest.raises(WorldError, match="test_batch"):
        read_cifar10(tmp_path / "cifar10")


def test_pickles_of_todays_numpy_are_read(tmp_path):
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, 4]}
    read = read_plain_pickle(tmp_path, pickle.dumps(batch, protocol=4))
    assert read[b"labels"] == [3, 4]


@pytest.mark.slow
def test_real_cifar10_is_the_published_one(real_data):
    place = find_cifar10([real_data])
    assert place is not None
    (image, label), (test_image, _), published = read_cifar10(place)
    assert published and image.shape == (50_000, 32, 32, 3) and test_image.shape == (10_000, 32, 32, 3)
    assert (np.bincount(label) == 5000).all()
