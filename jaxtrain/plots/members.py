"""The curves of several members of one run: their mean, its band, and each of them.

Imports as `plots` says. The fact that surprises: where early stopping ends some members, the mean goes on over the
others and may jump, because those that stop early differ from those that do not; so it is dashed from there on.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtrain.errors import RequestError
from jaxtrain.plots import style
from jaxtrain.plots.style import QUIET, TEST, TRAIN, VAL, Row, column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 16
"""More thin lines than these hide one another."""


def member_curves(
    histories: Sequence[Sequence[Row]],
    path: str | os.PathLike[str] | None = None,
    *,
    seeds: Sequence[int],
    test: Mapping[str, float] | None = None,
    ensemble: Mapping[str, float] | None = None,
    title: str | None = None,
) -> "Figure":
    """Loss and score of training against validation as mean ± standard deviation over members, and the learning rate.

    The deviation is that of a sample (divided by M - 1). Members are averaged at each epoch where they have a value, so
    histories may differ in length. A thin line is one member, for the first 16.

    Args:
      histories: of each member, rows as `curves` has them; one that is empty has diverged before its first evaluation.
      path: PNG (or what its ending says) to write.
      seeds: of the members, in the same order; for the title.
      test: mean over the members, for example {"loss": 0.05, "accuracy": 0.985}, drawn as dashed lines.
      ensemble: the same of the members' joint prediction, drawn as solid lines.
      title: above all.

    Raises:
      RequestError: no member has a row, or there is not one seed a member.
      WorldError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    if len(seeds) != len(histories):
        raise RequestError(f"{len(seeds)} seeds for {len(histories)} histories; give one a member, in the same order")
    rows = [row for history in histories for row in history]
    if not rows:
        raise RequestError("there is nothing to draw: no member has a row in its history; evaluate at least once")
    epoch = np.unique(column(rows, "epoch"))
    figure = Figure(figsize=(7.5, 9), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.3])
    for axes, name in ((above, "loss"), (middle, style.score_of(rows))):
        _draw_metric(axes, epoch, histories, name)
        _draw_test(axes, name, test or {}, line="--", label="test, mean of the members")
        _draw_test(axes, name, ensemble or {}, line="-", label="test, the ensemble")
        style.legend_above(axes, columns=2)
    rates = _table(epoch, histories, "learning_rate")
    below.plot(epoch, rates.T, color=QUIET, marker=".", markersize=4, linewidth=1)
    style.finish_epochs(below, epoch, rates)
    figure.suptitle(title or f"{_members(seeds)}: training against validation (both without dropout)")
    style.save(figure, path)
    return figure


def _draw_metric(axes: "Axes", epoch: np.ndarray, histories: Sequence[Sequence[Row]], name: str) -> None:
    splits = [style.unit(name) * _table(epoch, histories, f"{split}/{name}") for split in ("train", "val")]
    for values, what, color, marker in zip(splits, ("training", "validation"), (TRAIN, VAL), "os", strict=True):
        label = f"{what}, last {_spread(_last_values(values), name)}"
        _draw_mean(axes, epoch, values, color=color, marker=marker, label=label)
        lines = values[:MOST_LINES]
        axes.plot(epoch, lines.T, color=color, alpha=0.35, linewidth=0.7)
        ends = [np.flatnonzero(np.isfinite(line))[-1] for line in lines[_ends_early(lines)]]
        ended = lines[_ends_early(lines), ends]
        axes.plot(epoch[ends], ended, color=color, marker="D", markersize=4, markerfacecolor="white", linestyle="none")
    if len(histories) > 1:
        _explain(axes, sum(map(bool, histories)), stopped=bool(_ends_early(np.concatenate(splits)).any()))
    if name == "accuracy":
        _cut_start(axes, np.concatenate(splits))
    else:
        style.log_scale(axes, np.concatenate(splits))
        axes.set_ylabel(style.named(name))
    axes.grid(alpha=0.3, which="both")


def _draw_mean(axes: "Axes", epoch: np.ndarray, values: np.ndarray, *, color: str, marker: str, label: str) -> None:
    """The mean with its band; dashed from the last epoch that has as many members as any."""
    mean, deviation, count = mean_and_deviation(values)
    axes.fill_between(epoch, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)
    full = np.flatnonzero(count == count.max())[-1]
    most, rest = slice(None, full + 1), slice(full, None)
    axes.plot(epoch[most], mean[most], color=color, linewidth=2, marker=marker, markersize=3, label=label)
    axes.plot(epoch[rest], mean[rest], color=color, linewidth=1.4, linestyle="--")


def _explain(axes: "Axes", num_members: int, *, stopped: bool) -> None:
    """What the legend says of both colours."""
    band = f"band: ± 1 standard deviation over {num_members} members"
    axes.fill_between([], [], [], color=QUIET, alpha=0.25, linewidth=0, label=band)
    thin = "each member" if num_members <= MOST_LINES else f"the first {MOST_LINES} members"
    axes.plot([], [], color=QUIET, alpha=0.6, linewidth=0.7, label=f"thin: {thin}")
    if stopped:
        label = "a member has ended; dashed: mean of the others"
        axes.plot([], [], color=QUIET, marker="D", markersize=4, markerfacecolor="white", linestyle="--", label=label)


def _cut_start(axes: "Axes", values: np.ndarray) -> None:
    """Leave out the steep first quarter of an accuracy f64[2 M, E], where it takes more than half of the axis."""
    start, later = (np.nanmin(part, initial=np.inf) for part in np.split(values, [values.shape[1] // 4], axis=1))
    top = np.nanmax(values, initial=-np.inf)
    cut = top - start > 2 * (top - later) > 0
    if cut:
        pad = 0.06 * (top - later)
        axes.set_ylim(later - pad, top + pad)
    below = f"; below {axes.get_ylim()[0]:.3g} not shown" if cut else ""
    axes.set_ylabel(style.named("accuracy") + below)


def _draw_test(axes: "Axes", name: str, scores: Mapping[str, float], *, line: str, label: str) -> None:
    if name in scores:
        score = style.unit(name) * scores[name]
        axes.axhline(score, color=TEST, linestyle=line, linewidth=1.2, label=f"{label} {style.text(score, name)}")


def mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over the members that have a value, f64[M, E] with holes -> mean f64[E], deviation f64[E], count i64[E].

    Where none has one, mean and deviation are NaN; the deviation of a single one is 0.
    """
    count = np.isfinite(values).sum(axis=0)
    mean = np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)
    squares = np.nansum(np.square(values - mean), axis=0)
    return mean, np.where(count > 0, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan), count


def _table(epoch: np.ndarray, histories: Sequence[Sequence[Row]], name: str) -> np.ndarray:
    """f64[M, E], NaN where a member has no such value at that epoch."""
    table = np.full((len(histories), epoch.size), np.nan)
    for line, history in zip(table, histories, strict=True):
        line[np.searchsorted(epoch, column(history, "epoch"))] = column(history, name)
    return table


def _ends_early(values: np.ndarray) -> np.ndarray:
    """bool[M], whether a member has values, but none at the last epoch."""
    return np.isfinite(values).any(axis=1) & ~np.isfinite(values[:, -1])


def _last_values(values: np.ndarray) -> np.ndarray:
    """f64[<= M], of each member its last value, wherever it ended."""
    return np.array([line[np.isfinite(line)][-1] for line in values if np.isfinite(line).any()])


def _spread(values: np.ndarray, name: str) -> str:
    """98.52 ± 0.10 %, over f64[<= M]."""
    if not values.size:
        return "(none)"
    mean, deviation, count = (part.item() for part in mean_and_deviation(values[:, None]))
    if count == 1:
        return style.text(mean, name)
    return f"{mean:.2f} ± {deviation:.2f} %" if name == "accuracy" else f"{mean:.3g} ± {deviation:.2g}"


def _members(seeds: Sequence[int]) -> str:
    """8 members (seeds 0 to 7)."""
    if len(seeds) == 1:
        return f"1 member (seed {seeds[0]})"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{len(seeds)} members (seeds {seeds[0]} to {seeds[-1]})"
    few = ", ".join(map(str, seeds[:3]))
    return f"{len(seeds)} members (seeds {few}{', ...' if len(seeds) > 3 else ''})"
