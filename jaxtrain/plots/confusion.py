"""Which classes are taken for which.

Imports as `plots` says. The fact that surprises: the right answers have no colour. At 99 % a map with them shows the
diagonal and nothing else; so they stand in grey, and the colours are for the errors alone.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from jaxtrain.errors import RequestError
from jaxtrain.plots import style
from jaxtrain.plots.style import VAL
from jaxtrain.scores import per_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERS, MOST_NAMES = 20, 100
"""Classes up to which the cells have numbers, and the rows have names."""


def confusion_figure(
    matrix: ArrayLike,
    class_names: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    compact: bool = False,
) -> "Figure":
    """A row a class, a column an answer; the errors coloured by their share of the row; beside it each class's recall.

    Args:
      matrix: i[K, K], as `scores.confusion` gives it.
      class_names: K names; by default the numbers.
      path: PNG (or what its ending says) to write.
      title: above all.
      compact: the table alone, four inches wide, as TensorBoard shows an image.

    Raises:
      RequestError: the matrix is no table of counts, holds none, or there is not one name a class.
      WorldError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    matrix = _as_matrix(matrix)
    names = names_of(class_names, len(matrix))
    if compact:
        return _compact(matrix, names, path, title)
    side = float(np.clip(0.5 * len(matrix), 3.4, 11))
    figure = Figure(figsize=(side + 4, side + 1.7), layout="constrained")
    table, beside = figure.subplots(1, 2, sharey=True, width_ratios=[side, 1.7])
    bar = figure.colorbar(_draw_errors(table, matrix), ax=table, location="left", shrink=0.6, aspect=25, pad=0.02)
    bar.set_label("errors: share of the row (%)")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if len(matrix) <= MOST_NUMBERS:
        _draw_numbers(table, matrix)
    _draw_recall(beside, matrix)
    _name_classes(table, names)
    table.set(xlabel="what the network says", ylabel="what it is")
    figure.suptitle(title or _describe(matrix, names), fontsize="medium")
    style.save(figure, path)
    return figure


def names_of(class_names: Sequence[str] | None, num_classes: int, longest: int = 16) -> list[str]:
    """A short name for each class, as Matplotlib writes it; the numbers, if there are no names.

    Raises:
      RequestError: not one name a class.
    """
    if class_names is None:
        return list(map(str, range(num_classes)))
    if len(class_names) != num_classes:
        raise RequestError(f"{len(class_names)} class names for {num_classes} classes; give one a class, in order")
    short = [name if len(name) <= longest else f"{name[: longest - 1]}…" for name in map(str, class_names)]
    return [name.replace("$", r"\$") for name in short]  # between two of them Matplotlib reads a formula


def _compact(matrix: np.ndarray, names: list[str], path: str | os.PathLike[str] | None, title: str | None) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4.2), layout="constrained")
    axes = figure.subplots()
    _draw_errors(axes, matrix)
    if len(matrix) <= MOST_NUMBERS / 2:
        _draw_numbers(axes, matrix)
    _name_classes(axes, names)
    axes.set(xlabel="what the network says", ylabel="what it is")
    figure.suptitle(title or f"{_errors(matrix).sum():,} of {matrix.sum():,} are wrong", fontsize="medium")
    style.save(figure, path)
    return figure


def _draw_errors(axes: "Axes", matrix: np.ndarray) -> Any:
    """Colours of the errors; a share of a quarter of the largest has half of its colour, so that single ones show."""
    from matplotlib.colors import ListedColormap, PowerNorm

    errors = _errors(matrix)
    share = 100 * errors / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    norm = PowerNorm(0.5, 0, share.max() or 1)
    picture = axes.imshow(share, cmap="Oranges", norm=norm, aspect="auto", interpolation="nearest")
    diagonal = np.ma.masked_equal(np.eye(len(matrix)), 0)
    axes.imshow(diagonal, cmap=ListedColormap(["#d5d5d5"]), aspect="auto", interpolation="nearest")
    return picture


def _draw_numbers(axes: "Axes", matrix: np.ndarray) -> None:
    share = _errors(matrix) / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    look = {"ha": "center", "va": "center", "in_layout": False}  # measuring 400 of them is a quarter of all the work
    for row, column in np.argwhere(matrix):
        dark = share[row, column] > 0.4 * share.max() > 0
        color = "#555555" if row == column else "white" if dark else "black"
        text = f"{matrix[row, column]}"
        size = 9 if len(text) < 4 or len(matrix) < 11 else 7
        axes.text(column, row, text, color=color, fontsize=size, **look)


def _draw_recall(axes: "Axes", matrix: np.ndarray) -> None:
    """Bars of what is missed, for at 99 % bars of what is found are all alike."""
    recall, support = per_class(matrix)[1::2]
    missed = 100 * (1 - recall)
    bars = axes.barh(range(len(matrix)), np.nan_to_num(missed), color=VAL, height=0.6)
    if len(matrix) <= MOST_NUMBERS:
        texts = [
            f"{100 * share:.1f} %" if count else "no example" for share, count in zip(recall, support, strict=True)
        ]
        axes.bar_label(bars, texts, padding=3, fontsize="small")
    axes.set(xlim=(0, 1.6 * (np.nanmax(missed) or 1)), xlabel="missed (100 % - recall)")
    axes.set_title("recall of each class", fontsize="small")
    axes.tick_params(labelleft=False, left=False)
    axes.grid(alpha=0.3, axis="x")


def _name_classes(axes: "Axes", names: list[str]) -> None:
    if len(names) > MOST_NAMES:
        return
    size = float(np.clip(500 / len(names), 5, 9))
    rotation = 90 if len(names) * max(map(len, names)) > 70 else 0
    axes.set_xticks(range(len(names)), names, fontsize=size, rotation=rotation)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0)


def _describe(matrix: np.ndarray, names: list[str]) -> str:
    errors = _errors(matrix)
    wrong, total = errors.sum(), matrix.sum()
    head = f"Which class is taken for which: {wrong:,} of {total:,} examples are wrong ({100 * wrong / total:.2f} %)"
    cells = [divmod(int(cell), len(names)) for cell in np.argsort(-errors, axis=None, kind="stable")[:3]]
    often = [f"{names[i]} taken for {names[k]} ({errors[i, k]})" for i, k in cells if errors[i, k]]
    return f"{head}\nmost often: {', '.join(often)}" if often else head


def _errors(matrix: np.ndarray) -> np.ndarray:
    """The matrix without its diagonal."""
    return matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))


def _as_matrix(matrix: ArrayLike) -> np.ndarray:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "iu" or (matrix < 0).any():
        given = f"{matrix.dtype}{list(matrix.shape)}"
        raise RequestError(f"the confusion matrix is {given}; expected counts [K, K], as scores.confusion gives them")
    if not matrix.sum():
        raise RequestError("the confusion matrix holds no example; there is nothing to draw")
    return matrix.astype(np.int64)
