import sys

import numpy as np
import pytest

from jaxtrain.config import Schedule
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.plots import curves, plot_schedule

HISTORY = [
    {
        "step": 10 * e,
        "epoch": e,
        "train/loss": 2.0 * 0.5**e,
        "val/loss": 2.0 * 0.5**e + 0.1,
        "train/accuracy": 1 - 0.5**e,
        "val/accuracy": 0.9 - 0.01 * abs(e - 4),
        "learning_rate": 0.1 / e,
    }
    for e in range(1, 8)
]
REGRESSION = [{k: v for k, v in row.items() if "accuracy" not in k} | {"val/mse": row["val/loss"]} for row in HISTORY]


def points(line) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def labels(axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_curves_show_what_they_were_given(tmp_path):
    figure = curves(HISTORY, tmp_path / "curves.png", test={"accuracy": 0.875})
    loss, accuracy, rate = figure.axes
    np.testing.assert_allclose(points(accuracy.lines[0])[1], [100 * row["train/accuracy"] for row in HISTORY])
    np.testing.assert_allclose(points(accuracy.lines[1])[1], [100 * row["val/accuracy"] for row in HISTORY])
    np.testing.assert_allclose(points(rate.lines[0])[1], [row["learning_rate"] for row in HISTORY])
    assert loss.get_yscale() == "log" and accuracy.get_yscale() == "linear"
    assert "test, final weights 87.50 %" in labels(accuracy) and not any("test" in label for label in labels(loss))
    assert "best validation accuracy, epoch 4" in labels(accuracy)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("watch", "best"), [(None, 7), ("loss", 7), ("mse", 7)])
def test_regression_shows_its_squared_error_and_small_is_best(watch, best):
    figure = curves(REGRESSION, watch=watch)
    assert figure.axes[1].get_ylabel() == "mse"
    assert f"best validation {watch or 'mse'}, epoch {best}" in labels(figure.axes[1])


def test_holes_and_single_rows_are_drawn(tmp_path):
    holed = [dict(row) for row in HISTORY]
    holed[2]["val/loss"], holed[3]["train/accuracy"] = float("nan"), None
    del holed[4]["learning_rate"]
    curves(holed, tmp_path / "holed.png")
    curves(HISTORY[:1], tmp_path / "one.png")
    curves([{"step": 1, "epoch": 1}], tmp_path / "none.png")


def test_schedule_is_drawn_as_the_run_will_use_it(tmp_path):
    schedule = Schedule("step", period=2)
    figure = plot_schedule(
        schedule, learning_rate=0.4, num_steps=60, steps_per_epoch=10, path=tmp_path / "schedule.png"
    )
    epoch, rate = points(figure.axes[0].lines[0])
    np.testing.assert_allclose(epoch, np.arange(60) / 10)
    np.testing.assert_allclose(rate, 0.4 * 0.5 ** (np.arange(60) // 20), rtol=1e-6)
    assert (tmp_path / "schedule.png").stat().st_size > 0


def test_schedule_may_be_a_function_and_a_run_long():
    figure = plot_schedule(lambda step: 1 / (1.0 + step), num_steps=10_000_000, steps_per_epoch=1000)
    epoch, rate = points(figure.axes[0].lines[0])
    assert len(epoch) == 10_000
    np.testing.assert_allclose(rate[-1], 1e-7, rtol=1e-5)


def test_nothing_to_draw_is_refused():
    with pytest.raises(RequestError, match="no rows"):
        curves([])


def test_a_file_that_cannot_be_written_is_the_worlds_fault(tmp_path):
    with pytest.raises(WorldError, match="cannot be written"):
        curves(HISTORY, tmp_path / "missing" / "curves.png")


def test_pyplot_is_never_loaded(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    curves(HISTORY, tmp_path / "curves.png")
    assert ("matplotlib.pyplot" in sys.modules) == before
