"""TensorBoard event files, written synchronously.

Imports `errors` and `files`; tensorboardX, matplotlib and tensorboard inside the functions that need them. The fact
that surprises: tensorboardX's own writer flushes the file but not its queue (of 100 points before a kill, 91 or 1 were
on disk), and two of its writers in one second truncate each other; so only its protocol buffers are used here.

References:
  TFRecord framing, https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import importlib
import io
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtrain.errors import RequestError
from jaxtrain.files import Appender, probe_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class EventWriter:
    """One event file in a folder; TensorBoard shows the files of a folder as one run.

    A point outlives a killed process once its call returns, and a power cut once `flush` does. A full disk is told in
    `errors`, and the points wait in memory until there is room.
    """

    def __init__(self, folder: str | os.PathLike[str], purge_step: int | None = None):
        """Start a new file; what earlier files hold stays.

        Args:
          folder: made if need be.
          purge_step: on resume, the first step that will be written again: TensorBoard then drops that step and later
            ones from earlier files.

        Raises:
          WorldError: if the folder cannot be written.
        """
        probe_writable(folder)
        self.folder = Path(folder)
        # Nanoseconds: unique, and in name order after the older files of the same second (a process id is neither).
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{time.time_ns()}"
        self._file = Appender(self.folder / name, exclusive=True)
        self.errors = self._file.errors
        self._put(0, file_version="brain.Event:2")
        if purge_step is not None:
            session_log = _protos().SessionLog
            self._put(purge_step, session_log=session_log(status=session_log.START))
        self.flush()

    def scalar(self, tag: str, value: Any, step: int) -> None:
        """One point of a curve; `value` is a number or an array with one element (a JAX array is fetched)."""
        self.scalars({tag: value}, step)

    def scalars(self, values: Mapping[str, Any], step: int) -> None:
        """One point of several curves, tag -> number.

        Raises:
          RequestError: if a value is not one number.
        """
        from tensorboardX import summary

        merged = summary.Summary()
        for tag, value in values.items():
            merged.MergeFrom(summary.scalar(tag, _number(tag, value)))
        self.put(merged, step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """A piece of Markdown for the TEXT tab."""
        from tensorboardX import summary

        self.put(summary.text(tag, markdown), step)

    def image(self, tag: str, image: Any, step: int = 0) -> None:
        """A picture for the IMAGES tab.

        Args:
          tag: its name.
          image: u8[H, W, C], or f32[H, W, C] in [0, 1] (clipped; NaN is black), C of 1, 3 or 4; or without C.
          step: the step it belongs to.

        Raises:
          RequestError: if the shape is another.
        """
        from tensorboardX import summary

        pixels = _pixels(tag, image)
        (height, width, channels), file = pixels.shape, _png(pixels)
        encoded = {"height": height, "width": width, "colorspace": channels, "encoded_image_string": file}
        self.put(summary.Summary(value=[{"tag": tag, "image": encoded}]), step)

    def figure(self, tag: str, figure: "Figure", step: int = 0) -> None:
        """A matplotlib figure for the IMAGES tab, drawn without pyplot."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.image(tag, np.asarray(canvas.buffer_rgba())[..., :3], step)

    def histogram(self, tag: str, edges: Any, counts: Any, step: int) -> None:
        """A distribution for the HISTOGRAMS and DISTRIBUTIONS tabs, already counted.

        Args:
          tag: its name.
          edges: f[K + 1], ascending.
          counts: [K], how many values lie between two edges.
          step: the step it belongs to.
        """
        from tensorboardX import summary

        edges, counts = np.asarray(edges, np.float64), np.asarray(counts, np.float64)
        middle = (edges[1:] + edges[:-1]) / 2  # the sums serve a mean that no tab shows
        whole = summary.histogram_raw(
            tag,
            min=edges[0],
            max=edges[-1],
            num=counts.sum(),
            sum=middle @ counts,
            sum_squares=middle**2 @ counts,
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
        )
        self.put(whole, step)

    def graph(self, graph: Any) -> None:
        """A graph for the GRAPHS tab, which shows one a folder: a GraphDef of tensorboardX, as `graph` makes it."""
        self._put(0, graph_def=graph.SerializeToString(deterministic=True))

    def put(self, summary: Any, step: int = 0) -> None:
        """Any `Summary` of tensorboardX: what its module `summary`, `charts` or `hparams` makes."""
        self._put(step, summary=summary)

    @property
    def waiting(self) -> bool:
        """Whether a point is not in the file yet."""
        return self._file.waiting

    def flush(self) -> None:
        """Wait until all points are on the disk (2 to 5 ms)."""
        self._file.sync()

    def close(self) -> None:
        """Flush and close; a second time does nothing."""
        self._file.close()

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, step: int, **what: Any) -> None:
        event = _protos().Event(wall_time=time.time(), step=int(step), **what)
        self._file.append(_record(event.SerializeToString()))


def read_scalars(folder: str | os.PathLike[str]) -> dict[str, list[tuple[int, float]]]:
    """The curves of a folder, tag -> [(step, value), ...], as TensorBoard reads them: purged steps are left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(os.fspath(folder), size_guidance={"scalars": 0})  # 0: no subsampling
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(point.step, point.value) for point in accumulator.Scalars(tag)] for tag in tags}


def _protos() -> Any:
    """Generated when imported: type checkers see no names in it."""
    return importlib.import_module("tensorboardX.proto.event_pb2")


def _record(data: bytes) -> bytes:
    """TFRecord framing: length, its checksum, the data, their checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def _number(tag: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1:
        raise RequestError(f"{tag} has shape {array.shape}; a scalar is one number: give its mean, or one tag a number")
    return float(array.reshape(()))


def _png(pixels: np.ndarray) -> bytes:
    """The file of u8[H, W, C]. As grey where it is grey, and lightly packed: tensorboardX takes four times as long."""
    from PIL import Image

    grey = pixels.shape[-1] == 1 or (pixels.shape[-1] == 3 and (pixels == pixels[..., :1]).all())
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _pixels(tag: str, image: Any) -> np.ndarray:
    """u8[H, W, C] of a picture. Floats are clipped first: tensorboardX would let them wrap around silently."""
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise RequestError(f"{tag} has shape {array.shape}; an image is [H, W] or [H, W, C] with C of 1, 3 or 4")
    if array.dtype == np.uint8:
        return array
    return (np.clip(np.nan_to_num(array.astype(np.float32)), 0, 1) * 255 + 0.5).astype(np.uint8)
