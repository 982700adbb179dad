"""CIFAR-10 in its binary and its python version, as files or inside the published .tar.gz.

Imports nothing of jaxtrain but `errors` and its neighbours here. The surprise: an archive is read file by file and
never extracted, for a file in it may be called ../../x.
"""

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from jaxtrain.data.idx import damaged, first_bytes
from jaxtrain.data.plain_pickle import read_plain_pickle
from jaxtrain.data.plain_tar import read_plain_tar
from jaxtrain.errors import WorldError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
RECORD = 1 + 3 * 32 * 32

SHA256 = {
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
"""Of the published batches in the binary version, into which the python version is brought first."""

LARGEST_BATCH = 64 << 20
"""Bytes; the published batches have 31 MB."""

LARGEST_ARCHIVE = 1 << 29
"""Bytes, uncompressed; the published archives have 186 MB."""

Splits = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], bool]


def find_cifar10(roots: list[Path]) -> Path | None:
    """The first folder or archive that holds CIFAR-10, of those in which it is usually kept."""
    names = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
    for root in roots:
        home = root / "cifar10"
        for place in (home, *(folder / name for folder in (home, root) for name in names)):
            if os.path.isfile(place):
                return place
            missing = _missing(place)
            if missing and len(missing) < len(BATCHES):
                raise WorldError(f"{place} lacks {', '.join(missing)} of CIFAR-10; fetch the archive again")
            if not missing:
                return place
    return None


def read_cifar10(place: Path) -> Splits:
    """Training and test (images u8[N, 32, 32, 3], labels u8[N]), and whether they are the published ones.

    Args:
      place: a folder with the batches of either version, or one of the two .tar.gz archives.

    Raises:
      WorldError: for a batch that is missing, damaged or something else.
    """
    batches = _from_archive(place) if place.is_file() else {b: _read_batch(place, b) for b in BATCHES}
    if missing := [b for b in BATCHES if b not in batches]:
        raise WorldError(f"{place} lacks {', '.join(missing)} of CIFAR-10; fetch it again")
    published = all(hashlib.sha256(batches[b].data).hexdigest() == SHA256[b] for b in BATCHES)
    return _decode(np.concatenate([batches[b] for b in BATCHES[:5]])), _decode(batches["test_batch"]), published


def _decode(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Records u8[N, 3073] (a label, then the red, green and blue planes) as images and labels."""
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].copy()


def _missing(folder: Path) -> list[str]:
    return [b for b in BATCHES if _file(folder, b) is None]


def _file(folder: Path, batch: str) -> Path | None:
    return next((p for p in (folder / f"{batch}.bin", folder / batch) if os.path.isfile(p)), None)


def _read_batch(folder: Path, batch: str) -> np.ndarray:
    path = _file(folder, batch)
    if path is None:
        raise WorldError(f"{folder} lacks {batch} of CIFAR-10; fetch the archive again")
    try:
        with path.open("rb") as file:
            return _parse(path, file.read(LARGEST_BATCH + 1))
    except OSError as error:
        raise WorldError(f"{path} cannot be read: {error.strerror or error}") from None


def _from_archive(archive: Path) -> dict[str, np.ndarray]:
    batches: dict[str, np.ndarray] = {}
    try:
        with gzip.open(archive) as unzipped:
            limits = {"largest_file": LARGEST_BATCH, "largest": LARGEST_ARCHIVE}
            for name, content in read_plain_tar(cast(BinaryIO, unzipped), lambda n: _batch_of(n) in BATCHES, **limits):
                if _batch_of(name) in batches:
                    raise ValueError(f"it holds {_batch_of(name)} twice")
                batches[_batch_of(name)] = _parse(archive / name, content)
    except (EOFError, zlib.error, ValueError, gzip.BadGzipFile) as error:
        raise WorldError(
            f"{archive} is no .tar.gz, damaged or cut short ({error}); it begins {first_bytes(archive).hex(' ')},"
            " expected 1f 8b: delete it and fetch it again"
        ) from None
    except OSError as error:
        raise WorldError(f"{archive} cannot be read: {error.strerror or error}") from None
    return batches


def _batch_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".bin")


def _parse(path: Path, content: bytes) -> np.ndarray:
    """Records u8[N, 3073] from a batch of either version."""
    if content[:1] == b"\x80":  # a pickle's first byte, and no class
        records = _records_from_pickle(path, content)
    else:
        if not content or len(content) % RECORD or len(content) > LARGEST_BATCH:
            expected = f"records of {RECORD} bytes (it has {len(content)} bytes, {len(content) % RECORD} too many)"
            raise damaged(path, content[:16], expected)
        records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if (bad := np.flatnonzero(records[:, 0] >= len(CLASS_NAMES))).size:
        raise damaged(path, content[:16], f"labels 0 to 9 (record {bad[0]} has {records[bad[0], 0]})")
    return records


def _records_from_pickle(path: Path, content: bytes) -> np.ndarray:
    batch = read_plain_pickle(path, content)
    try:
        if not isinstance(batch, dict):
            raise TypeError(f"it is a {type(batch).__name__}")
        data, labels = batch[b"data"], batch[b"labels"]
        if not isinstance(data, np.ndarray):
            raise TypeError(f"data is a {type(data).__name__}")
        if data.shape != (len(labels), RECORD - 1):
            raise ValueError(f"data {list(data.shape)} and {len(labels)} labels")
        if not all(label in range(10) for label in labels):
            raise ValueError("labels that are not 0 to 9")
        return np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, content[:16], f"a CIFAR-10 batch: data uint8[N, 3072], N labels ({error})") from None
