"""The validation curves of several runs in one figure.

Imports the figures' style. The fact that surprises: a band is one standard deviation over a run's seeds and no
interval, so bands that overlap say nothing of whether the means differ; the sentences below the figure do.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxtrain.plots import style
from jaxtrain.plots.style import Row, column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RUNS = 10
"""Runs that are drawn: more colours than these are not told apart."""


def overlay_figure(histories: Mapping[str, Sequence[Row]]) -> "Figure | None":
    """Loss and score on validation over the epochs, a colour a run; None where no run has a curve.

    Args:
      histories: name -> one row an evaluation; of several members their mean, with "val/loss/std" and so on beside it.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    drawn = {name: rows for name, rows in histories.items() if rows}
    if not drawn:
        return None
    figure = Figure(figsize=(9, 8), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    score = style.score_of([row for rows in drawn.values() for row in rows])
    for axes, metric in zip(panels, ("loss", score), strict=True):
        for index, (name, rows) in enumerate(list(drawn.items())[:MOST_RUNS]):
            _draw_run(axes, name, rows, metric, colormaps["tab10"](index))
        axes.set_ylabel(f"validation {style.named(metric)}")
        axes.grid(alpha=0.3, which="both")
    style.log_scale(panels[0], column([row for rows in drawn.values() for row in rows], "val/loss"))
    panels[1].set_xlabel("epoch")
    style.legend_above(panels[0], columns=2)
    return figure


def _draw_run(axes: "Axes", name: str, rows: Sequence[Row], metric: str, color: tuple[float, ...]) -> None:
    epoch = column(rows, "epoch")
    mean, std = (style.unit(metric) * column(rows, f"val/{metric}{part}") for part in ("", "/std"))
    label = name.replace("$", r"\$")  # two of them would begin a formula
    axes.plot(epoch, mean, color=color, marker="o", markersize=3, linewidth=1.6, label=label)
    axes.fill_between(epoch, mean - std, mean + std, color=color, alpha=0.18, linewidth=0)
