"""The curves of a run, and its schedule before it starts.

Imports as `plots` says. The fact that surprises: both curves are drawn without dropout, so that the gap between them is
overfitting.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import Schedule, UnitSchedule
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.optim.schedules import make_schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VAL, TEST, QUIET = "#1f77b4", "#d95f02", "#2a7f3f", "#777777"
"""Told apart by the common kinds of colour blindness; the curves also differ in their markers."""

Row = Mapping[str, Any]


def curves(
    history: Sequence[Row],
    path: str | os.PathLike[str] | None = None,
    *,
    test: Mapping[str, float] | None = None,
    watch: str | None = None,
    title: str | None = None,
) -> "Figure":
    """Loss and score of training against validation, and the learning rate below, over the epochs.

    The training curve is expected in evaluation mode, so the shaded gap is overfitting and not dropout. The score is
    accuracy where there is one, else mse. The loss is on a logarithmic axis when it falls tenfold or more.

    Args:
      history: one row an evaluation, "step" and "epoch" and any of "train/loss", "val/loss", "train/accuracy",
        "val/accuracy", ..., "learning_rate"; a value that is missing or not finite leaves a hole.
      path: PNG (or what its ending says) to write.
      test: for example {"loss": 0.05, "accuracy": 0.985}, drawn as dashed lines.
      watch: validation metric whose best epoch is marked; by default the score.
      title: above all.

    Raises:
      RequestError: an empty history.
      WorldError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    if not history:
        raise RequestError("there is nothing to draw: the history has no rows; evaluate at least once")
    score = "accuracy" if any("val/accuracy" in row or "train/accuracy" in row for row in history) else "mse"
    watch = watch or score
    best = _best_row(history, watch)
    figure = Figure(figsize=(7.5, 8.5), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.3])
    for axes, name in ((above, "loss"), (middle, score)):
        _draw_metric(axes, history, name, test or {})
        if best is not None:
            _mark_best(axes, best, name, f"best validation {watch}, epoch {best['epoch']:g}")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, fontsize="small", frameon=False)
    _draw_rate(below, history)
    figure.suptitle(title or "Training against validation (both without dropout)")
    _save(figure, path)
    return figure


def plot_schedule(
    schedule: Schedule | UnitSchedule,
    *,
    learning_rate: float = 1.0,
    num_steps: int,
    steps_per_epoch: int,
    path: str | os.PathLike[str] | None = None,
) -> "Figure":
    """The learning rate at each step of a run that has not begun yet, with the same function that the run will use.

    Args:
      schedule: a Schedule, or any function step -> factor.
      learning_rate: the peak.
      num_steps: updates in the whole run.
      steps_per_epoch: updates in an epoch.
      path: PNG (or what its ending says) to write.

    Raises:
      RequestError: a schedule that does not fit the run.
      WorldError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    # Ten thousand points are more than a figure can show, and short runs are drawn step by step.
    steps = np.unique(np.linspace(0, num_steps - 1, 10_000).astype(np.int32))
    factor = jax.vmap(make_schedule(schedule, num_steps, steps_per_epoch))(jnp.asarray(steps))
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps / steps_per_epoch, learning_rate * np.asarray(factor), color=TRAIN, drawstyle="steps-post")
    axes.set(xlabel="epoch", ylabel="learning rate", title=_describe(schedule), ylim=(0, None))
    axes.set_xlim(0, num_steps / steps_per_epoch)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3)
    to_steps, to_epochs = (lambda x: np.multiply(x, steps_per_epoch)), (lambda x: np.divide(x, steps_per_epoch))
    in_steps = axes.secondary_xaxis("top", (to_steps, to_epochs))
    in_steps.set_xlabel("step")
    _save(figure, path)
    return figure


def _draw_metric(axes: "Axes", history: Sequence[Row], name: str, test: Mapping[str, float]) -> None:
    epoch = _column(history, "epoch")
    train, val = (_shown(name) * _column(history, f"{split}/{name}") for split in ("train", "val"))
    axes.plot(epoch, train, color=TRAIN, marker="o", markersize=3, label=f"training, last {_last(train, name)}")
    axes.plot(epoch, val, color=VAL, marker="s", markersize=3, label=f"validation, last {_last(val, name)}")
    axes.fill_between(epoch, train, val, color=QUIET, alpha=0.12, linewidth=0, label="gap (wide: overfitting)")
    if name in test:
        value = _shown(name) * test[name]
        label = f"test, final weights {_last(np.array([value]), name)}"
        axes.axhline(value, color=TEST, linestyle="--", linewidth=1.2, label=label)
    if name != "accuracy":
        _log_scale(axes, np.concatenate([train, val]))
    axes.set_ylabel("accuracy (%)" if name == "accuracy" else name)
    axes.grid(alpha=0.3, which="both")


def _mark_best(axes: "Axes", best: Row, name: str, label: str) -> None:
    axes.axvline(best["epoch"], color=QUIET, linestyle=":", linewidth=1.2)
    value = _shown(name) * _column([best], f"val/{name}")
    axes.plot([best["epoch"]], value, color=VAL, marker="*", markersize=13, linestyle="none", label=label)


def _draw_rate(axes: "Axes", history: Sequence[Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    epoch, rate = _column(history, "epoch"), _column(history, "learning_rate")
    axes.plot(epoch, rate, color=QUIET, marker=".", markersize=4)
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, 1.02 * max(np.nanmax(epoch), 1)))
    if np.isfinite(rate).any():
        axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3)


def _log_scale(axes: "Axes", values: np.ndarray) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() >= 10 * values.min():
        axes.set_yscale("log")
        # Plain numbers, also between the decades: 10^-1 says little to a newcomer.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _column(history: Sequence[Row], name: str) -> np.ndarray:
    """f64[len(history)], NaN where a row has no such value."""
    values = np.array([float("nan") if row.get(name) is None else row[name] for row in history], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _best_row(history: Sequence[Row], watch: str) -> Row | None:
    column = _column(history, f"val/{watch}")
    if np.isnan(column).all():
        return None
    return history[int(np.nanargmax(column) if watch == "accuracy" else np.nanargmin(column))]


def _shown(name: str) -> float:
    """Accuracy is drawn in percent."""
    return 100.0 if name == "accuracy" else 1.0


def _last(values: np.ndarray, name: str) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "(none)"
    return f"{finite[-1]:.2f} %" if name == "accuracy" else f"{finite[-1]:.3g}"


def _describe(schedule: Schedule | UnitSchedule) -> str:
    if not isinstance(schedule, Schedule):
        return f"Schedule: {getattr(schedule, '__name__', 'a function of the step')}"
    warmup = f", warm-up of {schedule.warmup:g} {schedule.unit}" if schedule.warmup else ""
    return f"Schedule: {schedule.kind.replace('_', ' ')}{warmup}"


def _save(figure: "Figure", path: str | os.PathLike[str] | None) -> None:
    if path is None:
        return
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise WorldError(f"the figure cannot be written to {os.fspath(path)}: {error.strerror or error}") from error
