"""How the training loop gets examples: all of them on the device, or streamed there window by window.

Imports nothing of jaxtrain but `types`, `errors` and its neighbours here. Both feeds give `Arrays` and the indices into
them, so the compiled programs do not know which they were given, and the numbers are the same. The surprise: there is
no iterator whose state could be lost; what a chunk holds is a function of (key, epoch, step).
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import numpy as np

from jaxtrain.data.arrays import Arrays, Data, compiled_order, compiled_orders, put
from jaxtrain.data.memory import host_memory
from jaxtrain.errors import RequestError
from jaxtrain.types import Array

WINDOW_BYTES = 128 << 20
"""Size of a streamed window. Two are on the device; each is some hundred steps, enough to hide the copying behind."""

MAX_MEMBERS = 256
"""Members whose order (streamed: whose windows) is remembered; beyond it the oldest is computed anew."""

Chunk = tuple[Arrays, Array, int]
"""Arrays, order (i32) and a batch number b: step i of the chunk takes order[(b + i) * B : (b + i + 1) * B]."""


class Feed(Protocol):
    """What the loop asks for examples."""

    why: str
    """One clause on why the data lies where it lies."""

    def limit(self, start: int, batch_size: int) -> int:
        """Most steps that one `chunk` can give from step `start` of an epoch; 0 at its end."""
        ...

    def chunk(self, key: Array, epoch: int, start: int, num_steps: int, batch_size: int) -> Chunk:
        """The examples of steps start to start + num_steps of an epoch.

        `key` is the member's; give the same object throughout a run (a copy that is not donated), for the order of an
        epoch is remembered by it: comparing its value would fetch it from the device.
        """
        ...

    def spans(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Arrays, int, int]]:
        """The examples [start, stop) of all, as pieces (arrays, lo, hi): rows lo to hi of each, once and in order.

        A piece that is not the last holds a multiple of `batch_size`, so only the last batch of all is padded.
        """
        ...

    def close(self) -> None:
        """Let go of threads and arrays."""
        ...


def make_feed(data: Data, mode: Literal["auto", "never", "always"] = "auto", *, device: Any = None) -> Feed:
    """A feed for `data`: `always` streamed, `never`, or (`auto`) if it would take over half of the memory left.

    Raises:
      RequestError: for another mode.
    """
    streamed, why = streams(data, mode, device)
    return Streamed(data, device=device, why=why) if streamed else Resident(data, device=device, why=why)


def streams(data: Data, mode: Literal["auto", "never", "always"] = "auto", device: Any = None) -> tuple[bool, str]:
    """Whether `make_feed` would stream, and one clause on why."""
    if mode not in ("auto", "never", "always"):
        raise RequestError(f"stream is {mode!r}; expected 'auto', 'never' or 'always'")
    if mode != "auto":
        return mode == "always", f"config.stream is {mode!r}"
    return _too_large(data, jax.local_devices()[0] if device is None else device)


def _too_large(data: Data, device: Any) -> tuple[bool, str]:
    need, left = data.image.nbytes + data.label.nbytes, memory_left(device)
    if left is None:
        return False, f"the memory of {device.platform} is not known"
    streamed = need > left / 2
    compared = "more" if streamed else "less"
    return streamed, f"the data's {need / 1e6:.0f} MB are {compared} than half of the {left / 1e6:.0f} MB of memory"


def memory_left(device: Any) -> int | None:
    """Bytes free on an accelerator, None where it does not say; on a CPU all of the machine's, the host's memory."""
    if stats := device.memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
    return host_memory() if device.platform == "cpu" else None


class Resident:
    """All examples on the device, from the start. See `Feed`.

    Of a stack of members (keys of shape [M]) the examples are shared, and each member has its own order, i32[M, N].
    """

    def __init__(self, data: Data, *, device: Any = None, member_device: Any = None, why: str = ""):
        """`device` may be a sharding that puts the examples on several; `member_device` is then that of the orders."""
        self.why = why
        self._member_device = member_device
        self.arrays = put(data, device)
        self._data = data
        self._orders: dict[int, tuple[Array, int, Array]] = {}  # by id of the key (held: so no other gets its id)

    def limit(self, start: int, batch_size: int) -> int:
        return self._data.num_train // batch_size - start

    def chunk(self, key: Array, epoch: int, start: int, num_steps: int, batch_size: int) -> Chunk:
        _check_steps(self, start, num_steps, batch_size)
        return self.arrays, self._order(key, epoch), start

    def spans(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Arrays, int, int]]:
        if stop > start:
            yield self.arrays, start, stop

    def close(self) -> None:
        self._orders.clear()

    def _order(self, key: Array, epoch: int) -> Array:
        held = self._orders.pop(id(key), None)
        if held is None or held[1] != epoch:
            held = (key, epoch, self._draw(key, epoch))
        self._orders[id(key)] = held  # as the newest
        _forget_oldest(self._orders)
        return held[2]

    def _draw(self, key: Array, epoch: int) -> Array:
        if key.ndim == 0:
            return compiled_order(key, epoch, self._data.num_train)
        return jax.device_put(compiled_orders(key, epoch, self._data.num_train), self._member_device)


@dataclass(frozen=True)
class _Place:
    """A window of an epoch."""

    epoch: int
    window: int
    batch_size: int


@dataclass
class _Stream:
    """What a streamed member is at: its epoch's order, and two windows, one of them perhaps still on its way."""

    key: Array
    epoch: int = -1
    order: np.ndarray | None = None
    windows: "dict[_Place, Future[Arrays]] | None" = None


class Streamed:
    """The examples stay on the host; windows of steps go to the device, the next one while one is used. See `Feed`.

    A window has K steps' examples, in the order they are wanted; every window has the same shape (the last of an epoch
    is padded), so one compiled program serves all.
    """

    def __init__(self, data: Data, *, device: Any = None, why: str = "", window_bytes: int = WINDOW_BYTES):
        self.why = why
        self._data, self._device = data, device
        self._preprocess = jax.device_put(data.preprocess, device)
        self._num_rows = max(1, window_bytes // max(1, (data.image.nbytes + data.label.nbytes) // len(data.label)))
        self._streams: dict[int, _Stream] = {}
        self._sequence: dict[int, Array] = {}  # 0, 1, 2, ... by length, on the device
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="jaxtrain-feed")

    def limit(self, start: int, batch_size: int) -> int:
        window = self._window_steps(batch_size)
        return min(window - start % window, self._data.num_train // batch_size - start)

    def chunk(self, key: Array, epoch: int, start: int, num_steps: int, batch_size: int) -> Chunk:
        _check_steps(self, start, num_steps, batch_size)
        steps = self._window_steps(batch_size)
        stream = self._streams.pop(id(key), None) or _Stream(key, windows={})
        self._streams[id(key)] = stream  # as the newest
        _forget_oldest(self._streams)
        here = _Place(epoch, start // steps, batch_size)
        following = _Place(epoch, here.window + 1, batch_size)
        if following.window * steps >= self._data.num_train // batch_size:
            following = _Place(epoch + 1, 0, batch_size)
        held = stream.windows or {}
        stream.windows = {p: held[p] if p in held else self._submit(stream, p) for p in (here, following)}
        return stream.windows[here].result(), self._first(steps * batch_size), start % steps

    def spans(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Arrays, int, int]]:
        whole = -(-len(self._data.label) // batch_size) * batch_size
        size = min(max(self._num_rows // batch_size, 1) * batch_size, whole)
        pieces = [slice(at, min(at + size, stop)) for at in range(start, stop, size)]
        coming = [self._worker.submit(self._gather, piece, size) for piece in pieces[:1]]
        for number, piece in enumerate(pieces):
            arrays = coming.pop().result()
            coming += [self._worker.submit(self._gather, p, size) for p in pieces[number + 1 : number + 2]]
            yield arrays, 0, piece.stop - piece.start

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)
        self._streams.clear()

    def _window_steps(self, batch_size: int) -> int:
        return max(1, min(self._num_rows // batch_size, self._data.num_train // batch_size))

    def _first(self, count: int) -> Array:
        if count not in self._sequence:
            self._sequence[count] = jax.device_put(np.arange(count, dtype=np.int32), self._device)
        return self._sequence[count]

    def _submit(self, stream: _Stream, place: _Place) -> "Future[Arrays]":
        return self._worker.submit(self._fill, stream, place)

    def _fill(self, stream: _Stream, place: _Place) -> Arrays:
        """A window's examples. On the worker's thread, the only one that touches a stream's order."""
        if stream.order is None or stream.epoch != place.epoch:
            stream.order = np.asarray(compiled_order(stream.key, place.epoch, self._data.num_train))
            stream.epoch = place.epoch
        size = self._window_steps(place.batch_size) * place.batch_size
        used = self._data.num_train // place.batch_size * place.batch_size  # the remainder is left out
        at = place.window * size
        return self._gather(stream.order[at : min(at + size, used)], size)

    def _gather(self, rows: np.ndarray | slice, size: int) -> Arrays:
        """The examples at `rows` on the device, padded with zeros to `size`."""
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        padded = (_padded(array, rows, size) for array in (self._data.image, self._data.label))
        index = np.resize(numbers, size).astype(np.int32)  # what is padded is never looked at
        image, label, index = jax.device_put((*padded, index), self._device)
        return Arrays(image, label, self._preprocess, index)


def _padded(array: np.ndarray, rows: np.ndarray | slice, size: int) -> np.ndarray:
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    if isinstance(rows, slice):
        padded[: rows.stop - rows.start] = array[rows]
    else:
        np.take(array, rows, axis=0, out=padded[: len(rows)], mode="clip")  # in place; "raise" would copy once more
    return padded


def _check_steps(feed: Feed, start: int, num_steps: int, batch_size: int) -> None:
    if not 1 <= batch_size or not 0 <= start or not 1 <= num_steps <= feed.limit(start, batch_size):
        raise ValueError(f"{num_steps} steps from step {start} (batch size {batch_size}): ask limit() for how many")


def _forget_oldest(held: dict[int, Any]) -> None:
    while len(held) > MAX_MEMBERS:
        held.pop(next(iter(held)))
