"""The regular files in a .tar, from a stream: their names and what is in them, and nothing else.

Imports nothing of jaxtrain but its neighbours here. Nothing is ever written, so links, devices and names like ../../x
have no meaning here. The surprise: the standard library's reader is not used, for 512 bytes can have it skip a petabyte
that is not there, read by read, or search a header of its own grammar for minutes. What is read here has a bound.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from jaxtrain.data.idx import read_at_most

BLOCK = 512
CHECKSUM = slice(148, 156)
FILES, LINKS_AND_FOLDERS = (b"0", b"\0"), (b"1", b"2", b"3", b"4", b"5", b"6")
"""Kinds of entries; of the latter, devices among them, the size is meaningless and no content follows."""


def read_plain_tar(
    file: BinaryIO, wanted: Callable[[str], bool], *, largest_file: int, largest: int
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular files whose name is wanted, in their order; then `file` is read to its end.

    Names of more than 100 characters, which need an extension of the format, come cut short.

    Args:
      file: the uncompressed archive.
      largest_file: bytes; the archive is refused if a file in it has more.
      largest: bytes that may be read in all.

    Raises:
      ValueError: for what is no .tar, damaged, or larger than allowed.
      EOFError: for an archive that ends in a file.

    References:
      POSIX.1-1988, ustar interchange format
    """
    room = largest
    while (header := read_at_most(file, BLOCK)).strip(b"\0"):
        name, kind, size = _parse(bytes(header))
        padded = 0 if kind in LINKS_AND_FOLDERS else -(-size // BLOCK) * BLOCK
        room -= BLOCK + padded
        if size > largest_file or room < 0:
            raise ValueError(f"{name!r:.80} would have {size} bytes, more than there can be")
        content = read_at_most(file, padded)
        if len(content) < padded:
            raise EOFError(f"it ends in {name!r:.80}")
        if kind in FILES and wanted(name):
            yield name, bytes(content[:size])
    # To the end, where gzip has its checksum.
    while piece := file.read(1 << 20):
        room -= len(piece)
        if room < 0:
            raise ValueError(f"it has more than {largest} bytes")


def _parse(header: bytes) -> tuple[str, bytes, int]:
    """Name, kind and size from a header, whose checksum is that of its bytes with the checksum as blanks."""
    blank = header[: CHECKSUM.start] + b" " * 8 + header[CHECKSUM.stop :]
    if len(header) < BLOCK or _octal(header[CHECKSUM]) != sum(blank):
        raise ValueError("a header is damaged")
    return header[:100].partition(b"\0")[0].decode("latin-1"), header[156:157], _octal(header[124:136])


def _octal(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not digits.isdigit():
        raise ValueError(f"{field!r} is no octal number")
    return int(digits, 8)
