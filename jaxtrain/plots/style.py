"""What the figures share: colours, columns of rows, scales, texts, the file.

Imports as `plots` says. The fact that surprises: accuracy is a share everywhere else and a percentage here.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtrain.errors import WorldError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

TRAIN, VAL, TEST, QUIET = "#1f77b4", "#d95f02", "#2a7f3f", "#777777"
"""Told apart by the common kinds of colour blindness; the curves also differ in their markers."""

Row = Mapping[str, Any]


def column(history: Sequence[Row], name: str) -> np.ndarray:
    """f64[len(history)], NaN where a row has no such value."""
    values = np.array([float("nan") if row.get(name) is None else row[name] for row in history], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def score_of(rows: Sequence[Row]) -> str:
    """What is drawn besides the loss: accuracy where there is one, else mse."""
    return "accuracy" if any("val/accuracy" in row or "train/accuracy" in row for row in rows) else "mse"


def unit(name: str) -> float:
    """Accuracy is drawn in percent."""
    return 100.0 if name == "accuracy" else 1.0


def named(name: str) -> str:
    """A metric with its unit, as it stands at an axis."""
    return "accuracy (%)" if name == "accuracy" else name


def text(value: float, name: str) -> str:
    """A value as it is drawn, with its unit."""
    return f"{value:.2f} %" if name == "accuracy" else f"{value:.3g}"


def last(values: np.ndarray, name: str) -> str:
    """The last finite one of f64[E]."""
    finite = values[np.isfinite(values)]
    return text(finite[-1], name) if finite.size else "(none)"


def log_scale(axes: "Axes", values: np.ndarray) -> None:
    """A logarithmic y axis where `values` are positive and span a factor of ten."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() >= 10 * values.min():
        axes.set_yscale("log")
        plain_decades(axes.yaxis)


def plain_decades(axis: "Axis", subs: Sequence[float] = (1, 2, 5)) -> None:
    """Plain numbers on a logarithmic axis, at `subs` times each decade: 10^-1 says little to a newcomer."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def finish_epochs(axes: "Axes", epoch: np.ndarray, rate: np.ndarray) -> None:
    """The lowest panel, which shows the learning rate: its labels and the epochs of all panels."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, 1.02 * max(np.nanmax(epoch), 1)))
    if np.isfinite(rate).any():
        axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3)


def legend_above(axes: "Axes", columns: int = 3) -> None:
    """The legend outside the panel, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, fontsize="small", frameon=False)


def save(figure: "Figure", path: str | os.PathLike[str] | None) -> None:
    """Write the file, unless `path` is None.

    Raises:
      WorldError: it cannot be written.
    """
    if path is None:
        return
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise WorldError(f"the figure cannot be written to {os.fspath(path)}: {error.strerror or error}") from error
