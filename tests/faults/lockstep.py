"""A training that halts after each chunk of steps until it is told to go on, so that a fault comes where it shall.

Imports the processes. The fact that surprises: it is `scripts/train.py` in a process of its own, with its own standard
error and exit status; only `stop`, which the loop asks after each chunk, waits for a byte. What is to go wrong with
Orbax's writing is said by files in the folder that the process runs in.
"""

import errno
import os
import runpy
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import ROOT, Child, server

FAILS, WAITS, SAVES = "orbax-fails", "orbax-waits", "saves"
"""While there is a file of the first name each save fails, of the second it waits; the third has a letter for each save
that was asked for, and one for each that has ended."""


class Training:
    """A child that trains in `cwd`/run, as a test sees it. See `training`."""

    def __init__(self, cwd: Path, *args: Any):
        self.cwd, self.folder = cwd, cwd / "run"
        self._halted = self._ended = False
        self._told, self._go = (_fifo(cwd / name) for name in ("told", "go"))
        self.child: Child = server().call("lockstep:train", *args, cwd=cwd)

    def advance(self, chunks: int = 1, *, settled: bool = True, timeout: float = 120.0) -> None:
        """Let it do so many chunks, and wait until it halts; it has then not yet begun to save what it has done last.

        Args:
          chunks: how many.
          settled: wait after each until the save before it has ended.
          timeout: seconds for each.

        Raises:
          TimeoutError: it does not halt.
        """
        for _ in range(chunks):
            if self._halted:
                os.write(self._go, b"g")
            deadline = time.monotonic() + timeout
            while not select.select([self._told], [], [], 0.1)[0]:
                if self.child.has_ended() or time.monotonic() > deadline:
                    raise TimeoutError(f"it halts no more; it had printed\n{self.child.text}")
            os.read(self._told, 1)
            self._halted = True
            if settled:
                self.settle()

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until no save is in flight, well or badly ended.

        Raises:
          TimeoutError: there is always one.
        """
        deadline = time.monotonic() + timeout
        while (saves := self.saves()).count("a") > saves.count("e"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"a save is in flight; it had printed\n{self.child.text}")
            time.sleep(0.01)

    def saves(self) -> str:
        """An a for each save that was asked for, an e for each that has ended."""
        path = self.cwd / SAVES
        return path.read_text() if path.exists() else ""

    def finish(self) -> tuple[int, str]:
        """Let it run to its end: its exit status, and all it has printed."""
        os.write(self._go, b"f")
        return self.end()

    def kill(self) -> tuple[int, str]:
        """End it with SIGKILL."""
        self.child.send(signal.SIGKILL)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Wait for its end."""
        self._ended = True
        return self.child.end()

    def close(self) -> None:
        """End it if it has not ended."""
        if not self._ended:
            self.kill()
        os.close(self._told)
        os.close(self._go)

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that are on the disk now."""
        return sorted(path.name for path in (self.folder / "checkpoints").glob("0*") if path.name.isdecimal())


@contextmanager
def training(cwd: Path, *args: Any) -> Iterator[Training]:
    """`scripts/train.py ARGS` in `cwd`, halting after each chunk."""
    made = Training(cwd, *args)
    try:
        yield made
    finally:
        made.close()


def _fifo(path: Path) -> int:
    os.mkfifo(path)
    return os.open(path, os.O_RDWR)  # for both, so that neither side waits for the other to open it


# ---- in the child


def train(*args: str) -> None:
    """`scripts/train.py` with these arguments, halting."""
    import orbax.checkpoint as ocp

    from jaxtrain import run
    from jaxtrain.checkpoint import Store

    fit, told, go = run.fit, os.open("told", os.O_WRONLY), os.open("go", os.O_RDONLY)
    cwd, free = Path.cwd(), False

    def halting(stop: Callable[[], bool]) -> bool:
        nonlocal free
        if not free:
            os.write(told, b".")
            free = os.read(go, 1) == b"f"
        return stop()

    run.fit = lambda *given, stop, **named: fit(*given, **named, stop=lambda: halting(stop))
    ocp.Checkpointer.save = _troubled(ocp.Checkpointer.save, cwd)
    Store.save, Store._write = _counted(Store.save, cwd, "a", ""), _counted(Store._write, cwd, "", "e")
    path = str(ROOT / "scripts" / "train.py")
    sys.argv, sys.path[0] = [path, *args], str(ROOT / "scripts")
    runpy.run_path(path, run_name="__main__")


def _troubled(save: Callable[..., None], cwd: Path) -> Callable[..., None]:
    def troubled(*args: Any, **named: Any) -> None:
        deadline = time.monotonic() + 60
        while (cwd / WAITS).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if (cwd / FAILS).exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        save(*args, **named)

    return troubled


def _counted(function: Callable[..., Any], cwd: Path, before: str, after: str) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        _write(cwd, before)
        try:
            return function(*args)
        finally:
            _write(cwd, after)

    return counted


def _write(cwd: Path, letter: str) -> None:
    with open(cwd / SAVES, "a") as file:
        file.write(letter)
