"""The learning-rate range test: which rates learn, which do not, and the one to take.

Imports as `plots` says. The fact that surprises: the lowest loss is not at the rate to take. It is reached close to
where training diverges, and a whole run is longer than the test.

References:
  Smith, Cyclical Learning Rates for Training Neural Networks, 2017, https://arxiv.org/abs/1506.01186, section 3.3
"""

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtrain.errors import RequestError
from jaxtrain.plots import style
from jaxtrain.plots.style import QUIET, TEST, TRAIN, VAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def lr_range_figure(
    learning_rates: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    path: str | os.PathLike[str] | None = None,
    *,
    suggested: float | None,
    start_loss: float,
    reason: str = "",
    num_steps: int | None = None,
    title: str | None = None,
) -> "Figure":
    """The loss after a short training with each rate, over the rates.

    The axis ends a little above the loss before training; what is worse, or not finite, is a cross at the top.

    Args:
      learning_rates: f[R], positive.
      losses: f[R], of each rate; NaN and infinity have diverged.
      path: PNG (or what its ending says) to write.
      suggested: the rate to take, drawn as a line, or None.
      start_loss: before training, drawn as a dashed line.
      reason: why this one is suggested, in a sentence or two, below the title.
      num_steps: length of the trainings, for the axis.
      title: above all.

    Raises:
      RequestError: no rates, a rate that is not positive, or not one loss a rate.
      WorldError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    rate, loss = np.asarray(learning_rates, np.float64), np.asarray(losses, np.float64)
    if rate.ndim != 1 or rate.shape != loss.shape or not rate.size or not (rate > 0).all():
        raise RequestError(f"{rate.size} rates and {loss.size} losses; give one loss a rate, and rates larger than 0")
    order = np.argsort(rate)
    rate, loss = rate[order], loss[order]
    top = start_loss + 0.25 * (start_loss - np.nanmin(loss[np.isfinite(loss)], initial=0.0))
    top = max(top, 1.05 * start_loss)
    fine = np.isfinite(loss) & (loss <= top)

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    if fine.any():
        axes.plot(rate, np.where(fine, loss, np.nan), color=TRAIN, marker="o", markersize=4, label="after training")
    if not fine.all():
        at_top, label = np.full((~fine).sum(), top), f"diverged or off the scale ({(~fine).sum()} of {rate.size})"
        axes.plot(rate[~fine], at_top, color=VAL, marker="x", linestyle="none", label=label)
    axes.axhline(start_loss, color=QUIET, linestyle="--", linewidth=1.2, label=f"before training, {start_loss:.3g}")
    if suggested is not None:
        axes.axvline(suggested, color=TEST, linewidth=1.8, label=f"suggested: {suggested:.2g}")
    style.log_scale(axes, np.append(loss[fine], top))
    axes.set_xscale("log")
    style.plain_decades(axes.xaxis, subs=(1,))
    axes.set_ylim(None, 1.04 * top)
    steps = "a short training" if num_steps is None else f"{num_steps} steps"
    axes.set(xlabel="learning rate", ylabel=f"loss after {steps}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="best", fontsize="small")
    axes.set_title("\n".join(textwrap.wrap(reason, 95)), fontsize="small", color=QUIET)
    figure.suptitle(title or "Learning-rate range test: one short training a rate")
    style.save(figure, path)
    return figure
