"""What an ensemble gains over its members, and whether its probabilities can be believed.

Imports as `plots` says, and not `ensemble`: a report that was read back from JSON will do. The fact that surprises:
the average member is a level line and no curve, for company does not make a member better; only the mean gains.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtrain.plots import style
from jaxtrain.plots.calibration import FEWEST, draw_bins, draw_honest
from jaxtrain.plots.style import QUIET, TRAIN, VAL
from jaxtrain.scores import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def ensemble_figure(
    report: Mapping[str, Any], path: str | os.PathLike[str] | None = None, *, title: str | None = None
) -> "Figure":
    """Accuracy and NLL against the number of members, and the reliability diagram of the ensemble and its members.

    Args:
      report: of `ensemble.report`, or the same read back from JSON.
      path: PNG (or what its ending says) to write.
      title: above all.

    Raises:
      WorldError: the file cannot be written.

    References:
      Guo et al., On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599 (the diagram)
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.6), layout="constrained")
    accuracy, nll, reliability = figure.subplots(1, 3)
    _draw_by_size(accuracy, report, "accuracy")
    vote = 100 * report["vote"]["accuracy"]
    accuracy.axhline(vote, color=VAL, linestyle=":", linewidth=1.6, label=f"majority vote of all: {vote:.2f} %")
    accuracy.set(ylabel="accuracy (%)", title="Do more members give more right answers?")
    _draw_by_size(nll, report, "nll")
    nll.set(ylabel="NLL (nats; small is good)", title="Do more members give better probabilities?")
    _draw_reliability(reliability, report)
    for axes in (accuracy, nll, reliability):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), fontsize="small", frameon=False)
    figure.suptitle(title or _describe(report))
    style.save(figure, path)
    return figure


def _draw_by_size(axes: "Axes", report: Mapping[str, Any], name: str) -> None:
    """The mean of m members against m, and the average member with the span from the least to the greatest."""
    from matplotlib.ticker import MaxNLocator

    by_size, alone, mean = (
        style.unit(name) * _numbers(report[part][name]) for part in ("by_size", "members", "mean_member")
    )
    size, low, high = np.arange(1, by_size.size + 1), alone.min(), alone.max()
    label = f"together (mean of the probabilities): {style.text(by_size[-1], name)} with all"
    axes.plot(size, by_size, color=TRAIN, marker="o", markersize=4, label=label)
    band = f"band: {style.text(low, name)} to {style.text(high, name)}"
    label = f"one member alone: {style.text(mean.item(), name)} on average ({band})"
    axes.axhline(mean.item(), color=QUIET, linestyle="--", linewidth=1.2, label=label)
    if np.isfinite([low, high]).all():
        axes.axhspan(low, high, color=QUIET, alpha=0.12, linewidth=0)
    axes.set(xlabel="number of members", xlim=(0.5, by_size.size + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_reliability(axes: "Axes", report: Mapping[str, Any]) -> None:
    draw_honest(axes)
    alone, together = (_bins(report["reliability"][name]) for name in ("members", "mean_of_probabilities"))
    label = f"one member alone: off by {100 * report['mean_member']['ece']:.2f} points on average (ECE)"
    draw_bins(axes, alone, FEWEST * report["num_members"], color=QUIET, marker="s", label=label)
    label = f"together: off by {100 * report['mean_of_probabilities']['ece']:.2f} points on average (ECE)"
    draw_bins(axes, together, FEWEST, color=TRAIN, marker="o", label=label)
    axes.set_title("When it says 80 %, is it right in 80 %?")


def _bins(bins: Mapping[str, Any]) -> Reliability:
    return Reliability(*(_numbers(bins[name]) for name in Reliability._fields))


def _describe(report: Mapping[str, Any]) -> str:
    together, alone = (f"{100 * report[part]['accuracy']:.2f} %" for part in ("mean_of_probabilities", "mean_member"))
    examples = f"accuracy on {report['num_examples']:,} examples"
    if report["num_members"] == 1:
        return f"An ensemble of one member: {examples} {together}"
    return f"An ensemble of {report['num_members']} members: {examples} {together} together, {alone} alone on average"


def _numbers(values: Any) -> np.ndarray:
    """f64, NaN where JSON has null or a number is infinite, which leaves a hole."""
    numbers = np.array([float("nan") if value is None else float(value) for value in np.atleast_1d(values)])
    return np.where(np.isfinite(numbers), numbers, np.nan)
