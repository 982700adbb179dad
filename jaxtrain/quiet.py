"""Orbax without what it prints of a failure that it raises as well.

Imports nothing of jaxtrain. The fact that surprises: a log filter is not enough. When one leaf fails, Orbax closes the
event loop in which the others are still read, and asyncio prints a traceback for each of them; and it leaves a thread
that logs after the failure has been raised. So for that time the loops that Orbax makes wait for their tasks, and its
threads are waited for. With orbax-checkpoint 0.12 there is no gentler way.
"""

import asyncio
import logging
import threading


class _PatientLoop(asyncio.SelectorEventLoop):
    """Closes once its tasks have ended: those of the other leaves, where one has failed."""

    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        super().close()


class _Quiet:
    """A context manager; several threads may be inside at the same time."""

    def __init__(self) -> None:
        self._lock, self._inside, self._usual = threading.Lock(), 0, asyncio.new_event_loop

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._usual, asyncio.new_event_loop = asyncio.new_event_loop, _PatientLoop
                logging.getLogger("absl").addFilter(_is_not_orbax)

    def __exit__(self, fault: type | None, *_: object) -> None:
        for thread in threading.enumerate() if fault else ():
            if type(thread).__module__.startswith("orbax."):
                threading.Thread.join(thread, 60)  # its own `join` raises
        with self._lock:
            self._inside -= 1
            if not self._inside:
                asyncio.new_event_loop = self._usual
                logging.getLogger("absl").removeFilter(_is_not_orbax)


QUIET = _Quiet()
"""Orbax is called inside of it."""


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
