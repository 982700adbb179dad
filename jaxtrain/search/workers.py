"""Which of several processes that share a search are alive.

Imports files and errors. The fact that surprises: no clock is compared with another machine's. A worker of this machine
is dead when the kernel has freed its lock, at once and for certain; one of another machine when its count, which it
raises every few seconds, has stood still for two minutes of our own clock.
"""

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from jaxtrain.errors import WorldError
from jaxtrain.files import probe_writable, reason

BEAT_SECONDS = 15.0
PATIENCE_SECONDS = 120.0
"""A count that stands still for longer than this belongs to a dead worker. Eight beats, and four times the time that
a journal's lock may be held by a process that died."""


class Address(NamedTuple):
    """How to look whether a worker is alive."""

    host: str
    lock: str  # absolute path of its lock file


class Worker:
    """This process: its name, and a lock that the kernel frees whatever ends it."""

    def __init__(self, folder: Path):
        """Take a lock in `folder`, which is made if need be.

        Raises:
          WorldError: if the folder cannot be written or locked.
        """
        probe_writable(folder)
        host = socket.gethostname()
        self.name = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self.address = Address(host, str((folder / f"{self.name}.lock").absolute()))
        self._file = lock(Path(self.address.lock))

    def close(self) -> None:
        """Free the lock. The file stays: a free lock says that its worker has ended."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Heartbeat:
    """Calls `beat(count)` with a growing count, now and every few seconds, from a thread, until closed.

    `beat` passes over its own failures: an error would end the thread, and a beat that is missing is made up for by
    the next.
    """

    def __init__(self, beat: Callable[[int], None], every: float = BEAT_SECONDS):
        self._beat, self._every = beat, every
        self._ended = threading.Event()
        beat(0)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._ended.wait(self._every):
            count += 1
            self._beat(count)


class Watch:
    """Judges which workers are dead. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic, patience: float = PATIENCE_SECONDS):
        self._now, self._patience = now, patience
        self._seen: dict[str, tuple[object, float]] = {}

    def is_dead(self, name: str, address: Address | None, count: object) -> bool:
        """Whether a worker is dead, by its lock where it is of this machine, else by its count as seen so far.

        Args:
          name: of the worker, or of anything else that is to change within the time of patience.
          address: None where it is not known.
          count: as it stands now.
        """
        if address is not None and address.host == socket.gethostname():
            locked = is_locked(Path(address.lock))
            if locked is not None:
                return not locked
        before, since = self._seen.get(name, (None, 0.0))
        if name not in self._seen or before != count:
            self._seen[name] = count, self._now()
            return False
        return self._now() - since >= self._patience


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock of a file for as long as this is entered; False: another one does."""
    file = lock(path)
    try:
        yield file is not None
    finally:
        if file is not None:
            file.close()


def lock(path: Path) -> IO[str] | None:
    """Take the lock of a file, which is made if need be; None where another process holds it. Closing it frees it.

    Raises:
      WorldError: if it cannot be made or locked.
    """
    try:
        file = open(path, "a")
    except OSError as fault:
        raise WorldError(f"cannot write {path}: {reason(fault)}") from fault
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as fault:
        file.close()
        raise WorldError(f"{path} cannot be locked: {reason(fault)}; use a folder on a local disk") from fault
    return file


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock of this file; None where there is no such file."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
