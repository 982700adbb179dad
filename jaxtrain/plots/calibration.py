"""Whether answers can be believed: of a classifier by how sure it is, of a regression by how far it is off.

Imports as `plots` says. The fact that surprises: a network that is right in 99 % can be badly calibrated where it
matters, for nearly all examples lie in the last bin; so the number in each bin is drawn too, on a logarithmic axis.
"""

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxtrain.errors import RequestError
from jaxtrain.plots import style
from jaxtrain.plots.style import QUIET, TRAIN, VAL
from jaxtrain.scores import Reliability, reliability, scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 10
"""Examples that a bin of the reliability diagram must hold to be drawn; of ten, the share that is right is known to
about 15 points either way."""

MOST_TARGETS, MOST_POINTS = 4, 5000
"""Of a regression: targets that are drawn, a row each, and examples, which else would be one blot."""


def reliability_figure(
    log_probability: ArrayLike,
    label: ArrayLike,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
) -> "Figure":
    """Accuracy against confidence, and below it how many examples have which confidence.

    Args:
      log_probability: f[N, K], natural logarithms, of a run or of an ensemble's mean.
      label: i[N], classes from 0.
      path: PNG (or what its ending says) to write.
      title: above all.

    Raises:
      RequestError: as for `scores.scores`.
      WorldError: the file cannot be written.

    References:
      Guo et al., On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599, figure 1
    """
    from matplotlib.figure import Figure

    found, bins = scores(log_probability, label), reliability(log_probability, label)
    figure = Figure(figsize=(6.5, 8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.1])
    draw_honest(above)
    draw_bins(above, bins, FEWEST, color=TRAIN, marker="o", label=f"answers, in bins of {FEWEST} or more")
    above.tick_params(labelbottom=True)
    _draw_confidences(below, bins)
    for axes in (above, below):
        style.legend_above(axes, columns=2)
        axes.grid(alpha=0.3)
    sure = np.nansum(bins.count * bins.confidence) / bins.count.sum()
    figure.suptitle(title or _describe(found.accuracy, float(sure), found.ece), fontsize="medium")
    style.save(figure, path)
    return figure


def draw_honest(axes: "Axes") -> None:
    """The panel of a reliability diagram, with the line on which confidence and accuracy agree."""
    axes.plot([0, 100], [0, 100], color="black", linewidth=0.8, label="honest: right as often as it says")
    axes.text(2, 98, "above the line: too modest", rotation=90, va="top", color=QUIET)  # no guess is so unsure
    axes.text(98, 3, "below the line: too sure", ha="right", color=QUIET)
    axes.set(xlim=(0, 104), ylim=(0, 104))
    axes.set(xlabel="confidence (%); disc area: share of the examples", ylabel="accuracy (%)")


def draw_bins(axes: "Axes", bins: Reliability, fewest: int, *, color: str, marker: str, label: str) -> None:
    """The bins that hold at least `fewest` answers."""
    full = bins.count >= fewest
    confidence, accuracy = 100 * bins.confidence[full], 100 * bins.accuracy[full]
    axes.plot(confidence, accuracy, color=color, linewidth=1, marker=marker, markersize=4, label=label)
    area = 1500 * bins.count[full] / bins.count.sum()
    axes.scatter(confidence, accuracy, s=area, color=color, alpha=0.25, linewidth=0)


def _draw_confidences(axes: "Axes", bins: Reliability) -> None:
    """The number of answers in each bin, and how many of them are wrong."""
    left, width = np.linspace(0, 100, len(bins.count) + 1)[:-1], 100 / len(bins.count)
    wrong = np.rint(np.nan_to_num(bins.count * (1 - bins.accuracy)))
    for count, color, label in ((bins.count, TRAIN, "all"), (wrong, VAL, "of them wrong")):
        axes.bar(left, count, 0.92 * width, align="edge", color=color, label=f"{label}: {count.sum():,.0f}")
    axes.set(yscale="log", ylim=(0.7, None), xlabel="confidence (%)", ylabel="examples")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def residual_figure(
    target: ArrayLike,
    predicted: ArrayLike,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
) -> "Figure":
    """What was predicted against what it is, and how the differences are spread; a row for each of the first 4 targets.

    Args:
      target: f[N] or f[N, T].
      predicted: of the same shape; what is not finite is left out, and the title says how often.
      path: PNG (or what its ending says) to write.
      title: above all.

    Raises:
      RequestError: shapes that differ, or nothing finite to draw.
      WorldError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    target, predicted = _as_columns(target, predicted)
    finite = np.isfinite(predicted.sum(axis=1))  # NaN and infinity stay what they are in a sum
    if not finite.any():
        raise RequestError(f"of {len(finite)} predictions none is finite; there is nothing to draw")
    num_rows = min(target.shape[1], MOST_TARGETS)
    figure = Figure(figsize=(10, 0.8 + 4.2 * num_rows), layout="constrained")
    for index, (scatter, histogram) in enumerate(figure.subplots(num_rows, 2, squeeze=False)):
        name = f"target {index}" if target.shape[1] > 1 else "target"
        _draw_agreement(scatter, target[finite, index], predicted[finite, index], name)
        _draw_residuals(histogram, predicted[finite, index] - target[finite, index])
    more = f"; the first {num_rows} of {target.shape[1]} targets" if num_rows < target.shape[1] else ""
    holes = f"; {(~finite).sum()} predictions are not finite and left out" if not finite.all() else ""
    figure.suptitle(title or f"What was predicted, and by how much it is off: {len(finite):,} examples{more}{holes}")
    style.save(figure, path)
    return figure


def _draw_agreement(axes: "Axes", target: np.ndarray, predicted: np.ndarray, name: str) -> None:
    ends = min(target.min(), predicted.min()), max(target.max(), predicted.max())
    axes.plot(ends, ends, color="black", linewidth=0.8, label="right: predicted is target")
    shown = slice(None, None, -(-len(target) // MOST_POINTS))
    count, spread = len(target[shown]), np.square(target - target.mean()).sum()
    points = f"{count:,} examples" if count == len(target) else f"{count:,} of {len(target):,} examples"
    share = f", R² {1 - np.square(predicted - target).sum() / spread:.3f}" if spread > 0 else ""
    size, alpha = float(np.clip(100 / np.sqrt(count), 3, 6)), float(np.clip(20 / np.sqrt(count), 0.25, 0.8))
    look = {"markersize": size, "alpha": alpha, "markeredgewidth": 0}
    axes.plot(target[shown], predicted[shown], "o", color=TRAIN, label=f"{points}{share}", **look)
    axes.set(xlabel=name, ylabel="predicted")
    axes.grid(alpha=0.3)
    style.legend_above(axes, columns=1)


def _draw_residuals(axes: "Axes", residual: np.ndarray) -> None:
    mean, root = residual.mean(), np.sqrt(np.square(residual).mean())
    reach = np.abs(residual).max() or 1.0
    axes.hist(residual, bins=41, range=(-reach, reach), color=TRAIN, alpha=0.7)
    axes.axvline(0, color="black", linewidth=0.8, label="right")
    label = f"mean {mean:.3g}: {'too high' if mean > 0 else 'too low'} on average"
    axes.axvline(mean, color=VAL, linewidth=1.4, linestyle="--", label=label)
    axes.axvspan(-root, root, color=QUIET, alpha=0.15, linewidth=0, label=f"± {root:.3g} (root mean square)")
    axes.set(xlabel="predicted - target", ylabel="examples")
    axes.grid(alpha=0.3)
    style.legend_above(axes, columns=1)


def _as_columns(target: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as f64[N, T]."""
    target, predicted = np.asarray(target, np.float64), np.asarray(predicted, np.float64)
    if target.shape != predicted.shape or target.ndim not in (1, 2) or not target.size:
        given = f"targets have shape {target.shape} and predictions {predicted.shape}"
        raise RequestError(f"{given}; expected the same shape, [N] or [N, T], of at least one example")
    return target.reshape(len(target), -1), predicted.reshape(len(target), -1)


def _describe(accuracy: float, sure: float, ece: float) -> str:
    off = f"{100 * abs(sure - accuracy):.2f} points too {'sure' if sure > accuracy else 'modest'}"
    head = "When it says 80 %, is it right in 80 %?"
    whole = f"It is right in {100 * accuracy:.2f} % and says {100 * sure:.2f} %: {off}"
    return f"{head}\n{whole};\nin a bin off by {100 * ece:.2f} points on average (ECE)"
