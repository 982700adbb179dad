"""What was written is on the disk, is read back as it was, and is there once after a resume."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from test_files import largest_file

from jaxtrain import events
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.events import EventWriter, read_scalars


def _accumulator(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def _decoded(folder: Path, tag: str) -> np.ndarray:
    """The last picture of a tag, u8[H, W, C]."""
    import io

    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(_accumulator(folder).Images(tag)[-1].encoded_image_string)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _write(folder: Path, steps: range, purge_step: int | None = None) -> None:
    with EventWriter(folder, purge_step) as writer:
        for step in steps:
            writer.scalar("loss", step / 2, step)


@pytest.mark.parametrize(
    "value", [0.25, 3, np.float32(0.1), np.ones((1,)), jnp.float32(-2), jnp.bfloat16(1.5), math.inf]
)
def test_scalar_comes_back_as_float32(tmp_path: Path, value: object) -> None:
    with EventWriter(tmp_path) as writer:
        writer.scalar("a/b", value, 7)
    number = float(np.asarray(value).astype(np.float32).reshape(()))
    assert read_scalars(tmp_path) == {"a/b": [(7, number)]}


def test_nan_is_a_point_too(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        writer.scalars({"loss": math.nan, "accuracy": 0.5}, 1)
    curves = read_scalars(tmp_path)
    assert math.isnan(curves["loss"][0][1]) and curves["accuracy"] == [(1, 0.5)]


def test_value_that_is_no_number_is_refused_by_its_tag(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer, pytest.raises(RequestError, match=r"loss has shape \(2,\)"):
        writer.scalar("loss", np.ones(2), 0)


@pytest.mark.parametrize("flush", [True, False])
def test_all_points_outlive_kill_9(tmp_path: Path, flush: bool) -> None:
    code = f"""
import os, sys
from jaxtrain.events import EventWriter
writer = EventWriter(sys.argv[1])
for step in range(100):
    writer.scalar("loss", step, step)
{"writer.flush()" if flush else ""}
os.kill(os.getpid(), 9)
"""
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL
    assert read_scalars(tmp_path)["loss"] == [(step, float(step)) for step in range(100)]


def test_two_writers_in_one_second_keep_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.time, "time", lambda: 1_700_000_000.0)
    with EventWriter(tmp_path) as first, EventWriter(tmp_path) as second:
        for step in range(10):
            first.scalar("first", step, step)
            second.scalar("second", step, step)
    assert {tag: len(points) for tag, points in read_scalars(tmp_path).items()} == {"first": 10, "second": 10}


@pytest.mark.parametrize("resumed_from", [0, 1, 60, 99])
def test_resumed_curve_equals_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed_from: int
) -> None:
    # All in one second, where the order of the files hangs on their names alone.
    monkeypatch.setattr(events.time, "time", lambda: 1_700_000_000.0)
    _write(tmp_path / "whole", range(120))
    _write(tmp_path / "resumed", range(100))
    _write(tmp_path / "resumed", range(resumed_from, 120), purge_step=resumed_from)
    assert read_scalars(tmp_path / "resumed") == read_scalars(tmp_path / "whole")


def test_cut_tail_costs_only_the_last_point(tmp_path: Path) -> None:
    _write(tmp_path, range(10))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    _write(tmp_path, range(10, 12))
    assert [step for step, _ in read_scalars(tmp_path)["loss"]] == [*range(9), 10, 11]


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
def test_bytes_of_an_image_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with EventWriter(tmp_path) as writer:
        writer.image("picture", image, 3)
    np.testing.assert_array_equal(_decoded(tmp_path, "picture"), image.reshape(4, 6, -1))


def test_a_picture_whose_colours_are_greys_is_stored_as_grey(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 6, 1), dtype=np.uint8)
    with EventWriter(tmp_path) as writer:
        writer.image("picture", np.repeat(grey, 3, axis=-1))
    np.testing.assert_array_equal(_decoded(tmp_path, "picture"), grey)


def test_float_image_is_clipped_and_not_wrapped(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        writer.image("picture", jnp.array([[-0.5, 0.0, 0.5, 1.0, 2.5, math.nan]]))
    assert _decoded(tmp_path, "picture")[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0]


@pytest.mark.parametrize("shape", [(3,), (4, 6, 2), (1, 4, 6, 3)])
def test_image_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with EventWriter(tmp_path) as writer, pytest.raises(RequestError, match="picture has shape"):
        writer.image("picture", np.zeros(shape, np.uint8))


def test_figure_is_drawn_at_its_size(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1), dpi=50, facecolor=(1, 0, 0))
    with EventWriter(tmp_path) as writer:
        writer.figure("curves", figure)
    pixels = _decoded(tmp_path, "curves")
    assert pixels.shape == (50, 100, 3) and pixels[0, 0].tolist() == [255, 0, 0]


def test_histogram_comes_back_with_its_edges_and_counts(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        writer.histogram("h", [-1.0, 0.0, 2.0, 3.0], [4, 0, 2], 7)
    (point,) = _accumulator(tmp_path).Histograms("h")
    value = point.histogram_value
    assert (point.step, value.min, value.max, value.num) == (7, -1, 3, 6)
    assert (list(value.bucket_limit), list(value.bucket)) == ([0, 2, 3], [4, 0, 2])


def test_text_comes_back(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        writer.text("config", "**bold** ü")
    (event,) = _accumulator(tmp_path).Tensors("config/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "**bold** ü"


def test_summary_that_tensorboardx_makes_is_written_at_its_step(tmp_path: Path) -> None:
    from tensorboardX import summary

    with EventWriter(tmp_path) as writer:
        writer.put(summary.histogram_raw("weights", 0, 2, 3, 4, 6, bucket_limits=[1, 2], bucket_counts=[1, 2]), 7)
    (event,) = _accumulator(tmp_path).Histograms("weights")
    assert event.step == 7 and event.histogram_value.bucket == [1, 2]


def test_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").touch()
    with pytest.raises(WorldError, match=f"{tmp_path}/train is a file"):
        EventWriter(tmp_path / "train")


def test_full_disk_leaves_no_hole_in_the_curve(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        with largest_file(2000):
            for step in range(200):
                writer.scalar("loss", step, step)
            writer.flush()
        assert os.path.getsize(next(tmp_path.iterdir())) <= 2000 and len(writer.errors) == 1
        writer.scalar("loss", 200, 200)
    assert read_scalars(tmp_path)["loss"] == [(step, float(step)) for step in range(201)]


def test_heavy_packages_wait_until_they_are_needed() -> None:
    code = """
import sys, jaxtrain.events, jaxtrain.checkpoint, jaxtrain.files
heavy = {"orbax", "tensorboardX", "tensorboard", "matplotlib", "PIL"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
