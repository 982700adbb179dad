"""The curves of a run, and its schedule before it starts.

Imports as `plots` says. The fact that surprises: both curves are drawn without dropout, so that the gap between them is
overfitting.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import Schedule, UnitSchedule
from jaxtrain.errors import RequestError
from jaxtrain.optim.schedules import make_schedule
from jaxtrain.plots import style
from jaxtrain.plots.style import QUIET, TEST, TRAIN, VAL, Row, column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    score = style.score_of(history)
    watch = watch or score
    best = _best_row(history, watch)
    figure = Figure(figsize=(7.5, 8.5), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.3])
    for axes, name in ((above, "loss"), (middle, score)):
        _draw_metric(axes, history, name, test or {})
        if best is not None:
            _mark_best(axes, best, name, f"best validation {watch}, epoch {best['epoch']:g}")
        style.legend_above(axes)
    _draw_rate(below, history)
    figure.suptitle(title or "Training against validation (both without dropout)")
    style.save(figure, path)
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
    style.save(figure, path)
    return figure


def _draw_metric(axes: "Axes", history: Sequence[Row], name: str, test: Mapping[str, float]) -> None:
    epoch = column(history, "epoch")
    train, val = (style.unit(name) * column(history, f"{split}/{name}") for split in ("train", "val"))
    axes.plot(epoch, train, color=TRAIN, marker="o", markersize=3, label=f"training, last {style.last(train, name)}")
    axes.plot(epoch, val, color=VAL, marker="s", markersize=3, label=f"validation, last {style.last(val, name)}")
    axes.fill_between(epoch, train, val, color=QUIET, alpha=0.12, linewidth=0, label="gap (wide: overfitting)")
    if name in test:
        value = style.unit(name) * test[name]
        label = f"test, final weights {style.text(value, name)}"
        axes.axhline(value, color=TEST, linestyle="--", linewidth=1.2, label=label)
    if name != "accuracy":
        style.log_scale(axes, np.concatenate([train, val]))
    axes.set_ylabel(style.named(name))
    axes.grid(alpha=0.3, which="both")


def _mark_best(axes: "Axes", best: Row, name: str, label: str) -> None:
    axes.axvline(best["epoch"], color=QUIET, linestyle=":", linewidth=1.2)
    value = style.unit(name) * column([best], f"val/{name}")
    axes.plot([best["epoch"]], value, color=VAL, marker="*", markersize=13, linestyle="none", label=label)


def _draw_rate(axes: "Axes", history: Sequence[Row]) -> None:
    epoch, rate = column(history, "epoch"), column(history, "learning_rate")
    axes.plot(epoch, rate, color=QUIET, marker=".", markersize=4)
    style.finish_epochs(axes, epoch, rate)


def _best_row(history: Sequence[Row], watch: str) -> Row | None:
    values = column(history, f"val/{watch}")
    if np.isnan(values).all():
        return None
    return history[int(np.nanargmax(values) if watch == "accuracy" else np.nanargmin(values))]


def _describe(schedule: Schedule | UnitSchedule) -> str:
    if not isinstance(schedule, Schedule):
        return f"Schedule: {getattr(schedule, '__name__', 'a function of the step')}"
    warmup = f", warm-up of {schedule.warmup:g} {schedule.unit}" if schedule.warmup else ""
    return f"Schedule: {schedule.kind.replace('_', ' ')}{warmup}"
