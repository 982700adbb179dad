"""A published file from its mirrors: with a progress bar, retries, its checksum, and never half there.

Imports nothing of jaxtrain but `errors`; rich is imported when something is downloaded. The surprise: a server that
answers 200 with a page in HTML, or closes the connection early, looks like success to urllib; size and checksum decide.
"""

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.errors import WorldError

TIMEOUT_SECONDS = 30.0

STALE_SECONDS = 86400.0
"""A part of a file to which nothing was written for so long is of a download that was killed; one that lives writes
within TIMEOUT_SECONDS or ends. (Its process is no sign: it may be of another machine or container.)"""


class _Refused(Exception):
    """One try at one mirror failed; `final` if another try there would fail too."""

    def __init__(self, reason: str, final: bool = False):
        super().__init__(reason)
        self.final = final


def download(
    urls: Sequence[str],
    path: Path,
    *,
    md5: str,
    size: int,
    tries: int = 3,
    backoff_seconds: float = 1.0,
    report: Callable[[str], Any] = print,
) -> None:
    """Fetch a file from the first of `urls` that gives it, and put it at `path` by an atomic rename.

    Each mirror is asked once a round, for `tries` rounds, with `backoff_seconds` between the first two, twice that
    between the next. A mirror that says the file is not there (4xx) is not asked again.

    Args:
      md5: the published checksum. (It guards against damage; the readers compare SHA-256 of what they read.)
      size: published size in bytes; of an answer that is longer no more is written to the disk.

    Raises:
      WorldError: if no mirror gave it, with each one's reason; or if it cannot be written.
    """
    reasons: dict[str, str] = {}
    refused: set[str] = set()
    report(f"downloading {path.name} to {path.parent}")
    _remove_stale_parts(path)
    for attempt in range(tries):
        for url in (u for u in urls if u not in refused):
            try:
                return _fetch(url, path, md5, size)
            except _Refused as error:
                reasons[url] = str(error)
                refused |= {url} if error.final else set()
        if attempt + 1 < tries and len(refused) < len(urls):
            time.sleep(backoff_seconds * 2**attempt)
    lines = "".join(f"\n  {url}: {reason}" for url, reason in reasons.items())
    raise WorldError(f"{path.name} could not be downloaded:{lines}")


def _remove_stale_parts(path: Path) -> None:
    """Remove what killed downloads of this file left beside it."""
    with contextlib.suppress(OSError):
        for part in path.parent.glob(f"{path.name}.*.part"):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _fetch(url: str, path: Path, md5: str, size: int) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            _receive(url, file.write, md5, size, path.name)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:  # the disk: what the network raises is a _Refused by now
        raise WorldError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _receive(url: str, write: Callable[[bytes], Any], md5: str, size: int, name: str) -> None:
    """Give the body of `url` to `write`, piece by piece; raise _Refused unless size and checksum are right."""
    hasher, count, start = hashlib.md5(usedforsecurity=False), 0, b""
    with _progress(name, size) as advance:
        for piece in _pieces(url):
            start, count = start or piece[:16], count + len(piece)
            if count > size:
                raise _Refused(f"gave more than the {size} bytes expected; began {start!r}")
            hasher.update(piece)
            write(piece)
            advance(len(piece))
    if count != size:
        raise _Refused(f"gave {count} bytes, expected {size}; began {start!r}")
    if hasher.hexdigest() != md5:
        raise _Refused(f"gave {count} bytes with MD5 {hasher.hexdigest()}, expected {md5}; began {start!r}")


def _pieces(url: str) -> Iterator[bytes]:
    """The body in pieces."""
    request = urllib.request.Request(url, headers={"User-Agent": "jaxtrain"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            while piece := response.read(1 << 18):
                yield piece
    except urllib.error.HTTPError as error:
        final = 400 <= error.code < 500 and error.code not in (408, 425, 429)  # those three mean "later"
        raise _Refused(f"answered {error.code} {error.reason}", final) from None
    except urllib.error.URLError as error:
        raise _Refused(f"could not be reached ({error.reason})") from None
    except (http.client.HTTPException, OSError) as error:
        raise _Refused(f"broke off ({type(error).__name__}: {error})") from None


@contextlib.contextmanager
def _progress(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(name, total=size)
        yield lambda num_bytes: progress.update(bar, advance=num_bytes)
