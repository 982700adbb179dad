"""The IDX files of MNIST and Fashion-MNIST, plain or gzip-compressed.

Imports nothing of jaxtrain but `errors`. The surprise: a gzip file's checksum stands at its end, so a reader that asks
for exactly the bytes it wants never sees it (of 400 flipped bits it noticed none; read to the end, all).
"""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from jaxtrain.errors import WorldError

MAGIC = {1: 2049, 3: 2051}
"""First four bytes by number of axes: 0, 0, 8 (unsigned bytes), axes."""

LARGEST = 1 << 30
"""Bytes of content, whatever a header says. MNIST's have 47 MB, the largest of EMNIST, in the same form, 547 MB; in
gzip, which packs zeros a thousandfold, a file of 10 MB can hold 10 GB."""


def read_idx(path: Path, ndim: int) -> tuple[np.ndarray, str]:
    """The array of an IDX file of unsigned bytes, and the SHA-256 of its uncompressed content.

    Args:
      path: the file; what it is, is told by its first bytes and not by its name.
      ndim: 3 for images [N, H, W], 1 for labels [N].

    Raises:
      WorldError: for a file that is missing, truncated, damaged, too large, or something else; names it and its first
        bytes.

    References:
      http://yann.lecun.com/exdb/mnist/
    """
    expected = f"an IDX file that begins {MAGIC[ndim].to_bytes(4, 'big').hex(' ')} (or that, in gzip: 1f 8b)"
    try:
        with path.open("rb") as raw:
            start = raw.read(16)
            raw.seek(0)
            file = cast(BinaryIO, gzip.open(raw)) if start[:2] == b"\x1f\x8b" else raw
            header = file.read(4 + 4 * ndim)
            if len(header) < 4 + 4 * ndim or int.from_bytes(header[:4], "big") != MAGIC[ndim]:
                raise damaged(path, header[:16] if file is not raw else start, expected)
            shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
            num_bytes = int(np.prod(shape, dtype=object))
            says = f"{path}: its header says {' x '.join(map(str, shape))} = {num_bytes} bytes"
            if num_bytes > LARGEST:
                raise WorldError(f"{says}; at most {LARGEST} are read: delete it and fetch it again")
            body = read_at_most(file, num_bytes + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WorldError(f"{path} is damaged or cut short ({error}); delete it and fetch it again") from None
    except OSError as error:
        raise WorldError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(body) != num_bytes:
        found = f"{len(body)} bytes" if len(body) < num_bytes else "more"
        raise WorldError(f"{says} and {found} follow; delete it and fetch it again")
    sha = hashlib.sha256(header)
    sha.update(body)
    return np.frombuffer(body, np.uint8).reshape(shape), sha.hexdigest()


def read_at_most(file: BinaryIO, limit: int) -> bytearray:
    """Up to `limit` bytes, a megabyte at a time: a damaged count must not reserve what it says."""
    body = bytearray()
    while len(body) < limit and (piece := file.read(min(1 << 20, limit - len(body)))):
        body += piece
    return body


def damaged(path: Path, start: bytes, expected: str) -> WorldError:
    """The error for a file that is not what it should be: shows its first bytes."""
    found = f"begins {start.hex(' ')} ({start!r})" if start else "is empty"
    return WorldError(f"{path} {found}; expected {expected}: delete it and fetch it again")


def first_bytes(path: Path) -> bytes:
    """The first 16 bytes, for an error that shows what a file is."""
    with path.open("rb") as file:
        return file.read(16)
