"""Examples as pictures, with words below each.

Imports as `plots` says. The fact that surprises: the images of a figure share one scale of grey. Each on its own scale,
an image that came out ten times too dark looks like any other.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtrain.plots.style import QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
"""Images in a row."""

TILE, GAP, LINE, NARROWEST = 1.45, 0.12, 0.15, 8.5
"""Inches: the width of an image, what lies between two, a line of a caption, and a figure that has room for a title."""

Caption = Sequence[tuple[str, str]]
"""Lines below an example, each a text and its colour."""


def draw_examples(image: np.ndarray, captions: Sequence[Caption], title: str, columns: int = COLUMNS) -> "Figure":
    """Images u8|f[N, H, W, C] as pictures, features f[N, D] as a heat map, each with its caption."""
    if image.ndim == 2:
        return _draw_rows(image, captions, title)
    pixels, low, high = scaled(image)
    note = "" if image.dtype == np.uint8 else f"one scale for all: black is {low:.3g}, white is {high:.3g}"
    return _draw_tiles(pixels, captions, title, note, columns)


def _draw_tiles(pixels: np.ndarray, captions: Sequence[Caption], title: str, note: str, columns: int) -> "Figure":
    """All in one panel, whose unit is an inch: a panel each takes ten times as long."""
    from matplotlib.figure import Figure

    narrow = columns < COLUMNS  # it will be shrunk, and its words with it
    line, size, narrowest = (1.4 * LINE, 11, 0) if narrow else (LINE, 8, NARROWEST)
    columns = min(columns, len(pixels))
    tall, below = TILE * pixels.shape[1] / pixels.shape[2], line * max(map(len, captions)) + 2 * GAP
    above = 0.35 + 0.2 * (title.count("\n") + 1)
    width = max(columns * (TILE + GAP) + GAP, narrowest)
    height = above + -(-len(pixels) // columns) * (tall + below) + (0.2 if note else 0)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    for index, (picture, caption) in enumerate(zip(pixels, captions, strict=True)):
        middle = width / 2 + (TILE + GAP) * (index % columns - (columns - 1) / 2)
        top = above + (tall + below) * (index // columns)
        extent = (middle - TILE / 2, middle + TILE / 2, top + tall, top)
        axes.imshow(picture, extent=extent, interpolation="nearest")
        for number, (text, color) in enumerate(caption):
            down = top + tall + GAP / 2 + line * number
            axes.text(middle, down, text, ha="center", va="top", fontsize=size, color=color)
    axes.text(width / 2, height - 0.06, note, ha="center", va="bottom", fontsize=size, color=QUIET)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axes.set_axis_off()
    figure.suptitle(title, y=1 - 0.15 / height, fontsize="medium")
    return figure


def _draw_rows(feature: np.ndarray, captions: Sequence[Caption], title: str) -> "Figure":
    """An example a row, red where a value is above 0 and blue where it is below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 1.6 + 0.25 * len(feature)), layout="constrained")
    axes = figure.subplots()
    reach = np.abs(feature[np.isfinite(feature)]).max(initial=0) or 1.0
    picture = axes.imshow(feature, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(feature)), [", ".join(text for text, _ in lines) for lines in captions], fontsize=8)
    axes.set(xlabel="feature", ylabel="example")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(picture, ax=axes, label="value", fraction=0.05, pad=0.02)
    figure.suptitle(title, fontsize="medium")
    return figure


def scaled(image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Pixels u8[N, H, W, 3] of u8|f[N, H, W, C], and the values that are black and white in all of them.

    Bytes stay as they are; floats go from the lowest to the highest that is finite, and what is not finite is red.
    """
    values = visible(image)
    if image.dtype == np.uint8:
        return _three_channels(np.rint(values).astype(np.uint8)), 0.0, 255.0
    finite = np.isfinite(values)
    low, high = np.min(values, initial=np.inf, where=finite), np.max(values, initial=-np.inf, where=finite)
    grey = (np.where(finite, values, low) - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    pixels = _three_channels(np.rint(255 * grey).astype(np.uint8)).copy()
    pixels[~finite.all(axis=-1)] = (255, 0, 0)
    return pixels, float(low), float(high)


def visible(values: np.ndarray) -> np.ndarray:
    """[..., C] -> [..., 1 or 3]: one channel is grey, three are colours, and of others the mean is seen."""
    return values if values.shape[-1] in (1, 3) else values.mean(axis=-1, keepdims=True)


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
