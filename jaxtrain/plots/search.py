"""A search in one figure: what each hyper-parameter did to the validation metric.

Imports as `plots` says, and `hparams` for its words. The fact that surprises: trials that are off the axis, or have no
value, are gathered in a grey strip beyond it, each at its value of the hyper-parameter, for that is where it failed.
"""

import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtrain.errors import RequestError
from jaxtrain.hparams import Space
from jaxtrain.plots import style
from jaxtrain.plots.style import QUIET, TRAIN, VAL
from jaxtrain.plots.trials import Trial, Trials, word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRIP = 0.16
"""Height of the grey strip, as a share of the axis."""


def trials_figure(
    trials: Sequence[Trial],
    path: str | os.PathLike[str] | None = None,
    *,
    space: Space,
    metric: str,
    larger_is_better: bool,
    importance: Mapping[str, float] | None = None,
    title: str | None = None,
) -> "Figure":
    """A panel a hyper-parameter: its value against the validation metric of each trial.

    Complete trials are discs, coloured by their order; pruned ones are hollow, with the metric that they had when they
    were stopped. In the grey strip, triangles are trials worse than the axis goes, and crosses have no value. Choices
    are columns, with a bar at the median of their complete trials.

    Args:
      trials: "number", "params" (name -> value; a name may be missing), "value" (None or NaN: none), "state" (any word
        but "complete" and "pruned" is a failure). Other keys are not looked at.
      path: PNG (or what its ending says) to write.
      space: name -> {"low", "high", "log"} or {"values"}; a panel each, in this order.
      metric: "accuracy" (drawn in percent), "loss" or any other.
      larger_is_better: which way the metric goes.
      importance: name -> share in [0, 1], drawn as bars in a last panel; the others then go by it.
      title: above all.

    Raises:
      RequestError: no trials, or nothing was searched.
      WorldError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    if not trials or not space:
        raise RequestError(f"there is nothing to draw: {len(trials)} trials over {len(space)} hyper-parameters")
    shares = importance or {}
    names = sorted(space, key=lambda name: -shares.get(name, 0.0))
    num_panels = len(names) + bool(shares)
    num_columns = min(num_panels, 2 if num_panels == 4 else 3 if num_panels <= 6 else 4)
    num_rows = math.ceil(num_panels / num_columns)
    figure = Figure(figsize=(1.2 + 3.7 * num_columns, 1.8 + 2.9 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    drawn = Trials(trials, metric, larger_is_better)
    for index, name in enumerate(names):
        _draw_panel(panels[index], drawn, name, space[name])
        panels[index].tick_params(labelleft=index % num_columns == 0)
    for axes in panels[: len(names) : num_columns]:
        axes.set_ylabel(f"validation {style.named(metric)}")
    if shares:
        _draw_importance(panels[len(names)], {name: shares.get(name, 0.0) for name in names})
    for axes in panels[num_panels:]:
        axes.set_axis_off()
    _explain(figure, panels, drawn, num_columns)
    figure.suptitle(title or _describe(drawn, 42 * num_columns), fontsize="medium")
    style.save(figure, path)
    return figure


def _draw_panel(axes: "Axes", drawn: Trials, name: str, domain: Mapping[str, Any]) -> None:
    if "values" in domain:
        _draw_columns(axes, drawn, name, domain["values"])
        return
    axes.set_xlim(*_ends(domain))
    if domain.get("log"):
        axes.set_xscale("log")
        style.plain_decades(axes.xaxis, subs=(1,))
    _draw_points(axes, drawn, drawn.numbers_of(name))
    axes.set_xlabel(name)


def _draw_columns(axes: "Axes", drawn: Trials, name: str, choices: Sequence[Any]) -> None:
    place = drawn.places_of(name, choices)
    for index in range(len(choices)):
        values = drawn.value[drawn.complete & (place == index)]
        if values.size:
            height = np.clip(np.median(values), drawn.window.bottom, drawn.window.top)
            axes.hlines(height, index - 0.36, index + 0.36, color="black", linewidth=1.5, zorder=4)
    words = [_broken(word(choice), max(44 // len(choices), 8)) for choice in choices]
    axes.set_xticks(range(len(words)), words, fontsize="small")
    axes.set_xlim(-0.5, len(words) - 0.5)
    _draw_points(axes, drawn, place + 0.55 * drawn.spread())
    axes.set_xlabel(f"{name} (bar: median)")


def _draw_points(axes: "Axes", drawn: Trials, x: np.ndarray) -> None:
    """All trials at f64[N]; what is NaN is not drawn."""
    size = float(np.clip(2400 / x.size, 12, 42))
    inside, strip = ~drawn.beyond & ~drawn.failed, _strip(axes, drawn)
    triangle = "v" if drawn.downward else "^"
    for chosen, marker, y in ((inside, "o", drawn.value), (drawn.beyond, triangle, np.full(x.size, strip[0]))):
        at = chosen & drawn.pruned
        axes.scatter(x[at], y[at], s=0.7 * size, marker=marker, facecolors="none", edgecolors=QUIET)
        at = chosen & drawn.complete
        colours = _colormap()(drawn.number[at] / max(drawn.number.max(), 1))
        axes.scatter(x[at], y[at], s=size, marker=marker, color=colours, linewidth=0, alpha=0.9, zorder=3)
    at = drawn.failed
    axes.scatter(x[at], np.full(at.sum(), strip[1]), s=size, marker="x", color="black", linewidth=0.8)
    if drawn.best is not None:
        axes.scatter(x[drawn.best], drawn.value[drawn.best], s=200, marker="*", color=VAL, edgecolors="white", zorder=5)
    axes.grid(alpha=0.3)


def _strip(axes: "Axes", drawn: Trials) -> tuple[float, float]:
    """Make the y axis, with a grey strip beyond its worse end if it is needed; the heights of its two rows."""
    bottom, top, edge = drawn.window
    axes.set_ylim(bottom, top)
    away = STRIP * (bottom - top if drawn.downward else top - bottom)
    if drawn.beyond.any() or drawn.failed.any():
        axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= top])
        axes.set_ylim(min(bottom, edge + away), max(top, edge + away))
        axes.axhspan(edge, edge + away, color=QUIET, alpha=0.15, linewidth=0)
    return edge + 0.3 * away, edge + 0.7 * away


def _draw_importance(axes: "Axes", shares: Mapping[str, float]) -> None:
    percent = [100 * share for share in shares.values()]
    bars = axes.barh(range(len(shares)), percent, color=TRAIN, height=0.3)
    axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize="small")
    for place, name in enumerate(shares):  # above its bar, for at the axis it would push the other panels aside
        axes.text(0, place - 0.2, f" {name}", fontsize="small", va="bottom")
    axes.set(xlim=(0, 1.25 * max(*percent, 1.0)), ylim=(len(shares) - 0.6, -0.8), yticks=[])
    axes.set_xlabel("importance: share of the differences (%)")
    axes.grid(alpha=0.3, axis="x")


def _explain(figure: "Figure", panels: np.ndarray, drawn: Trials, num_columns: int) -> None:
    """The legend and the bar of colours of the whole figure."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    worse = drawn.value[drawn.beyond]
    triangle, farthest = ("v", worse.min) if drawn.downward else ("^", worse.max)
    reach = f" (to {style.text(farthest(), drawn.metric)})" if worse.size else ""
    disc = {"color": _colormap()(0.5)}
    entries = [
        (drawn.complete.sum(), "complete", "o", disc),
        (drawn.pruned.sum(), "pruned", "o", {"color": QUIET, "markerfacecolor": "none"}),
        (worse.size, f"worse than the axis shows{reach}", triangle, disc),
        (drawn.failed.sum(), "without a value", "x", {"color": "black"}),
        (int(drawn.best is not None), "the best", "*", {"color": VAL, "markersize": 11}),
    ]
    handles = [
        Line2D([], [], linestyle="none", marker=marker, label=text if marker == "*" else f"{count} {text}", **look)
        for count, text, marker, look in entries
        if count
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(num_columns + 1, 5), frameon=False)
    colours = ScalarMappable(Normalize(0, max(drawn.number.max(), 1)), _colormap())
    figure.colorbar(colours, ax=panels.tolist(), label="number of the trial", fraction=0.03, pad=0.01)


def _describe(drawn: Trials, width: int) -> str:
    if drawn.best is None:
        return f"{drawn.number.size} trials, none of them complete"
    score = style.text(drawn.value[drawn.best], drawn.metric)
    head = f"{drawn.number.size} trials; best validation {drawn.metric} {score} by number {drawn.number[drawn.best]}:"
    params = ", ".join(f"{name} = {word(value)}" for name, value in drawn.params[drawn.best].items())
    return "\n".join([head, *textwrap.wrap(params.replace(" = ", "\u00a0=\u00a0"), width)])


def _colormap() -> Any:
    """Viridis without its last, yellow part, which cannot be seen on white."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, 256)))


def _broken(text: str, width: int) -> str:
    """`text` on up to four lines, broken behind punctuation: Schedule(kind='cosine') has no spaces to break at."""
    lines = [""]
    for part in re.split(r"(?<=[(,=_ ])", text):
        if len(lines[-1] + part) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join([*lines[:3], "…"] if len(lines) > 4 else lines)


def _ends(domain: Mapping[str, Any]) -> tuple[float, float]:
    """The x axis of a range, a little longer than it."""
    low, high = domain["low"], domain["high"]
    if domain.get("log"):
        margin = (high / low) ** 0.04 if high > low else 2.0
        return low / margin, high * margin
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin
