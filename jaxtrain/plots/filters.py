"""First-layer filters as a picture: what the network looks for in an image.

Imports `errors` and `leaves`, and no Matplotlib, for this is drawn often. The fact that surprises: the tree of the
parameters does not say which layer is first (it is sorted by name), so the first layer is known by its shape.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxtrain.errors import RequestError
from jaxtrain.leaves import named_leaves
from jaxtrain.plots.pictures import visible

SIDE = 24
"""Pixels to which a smaller filter is enlarged, by a whole factor: 3x3 weights would be a dot."""

BORDER, DARK = 2, 40
"""Pixels between filters, and their grey: apart from the black of a weight."""


def first_kernel(params: Any, image_shape: Sequence[int]) -> tuple[str, Any] | None:
    """The kernel of the layer that meets the image, with its path ("Dense_0/kernel"); None where none fits.

    Of the leaves named "kernel" those fit that can take the image: [h, w, C, F] of a convolution, or [H * W * C, F] of
    a dense layer. Of several it is a convolution before a dense layer, for what a CNN flattens may by chance be as wide
    as the image, and then the first by name, Conv_2 before Conv_10.

    Args:
      params: of one member.
      image_shape: [H, W, C], [H, W] or [D], as the network gets it.
    """
    width, channels = math.prod(image_shape), _with_channels(image_shape)[-1]
    fitting = [
        (len(leaf.shape) == 2, _in_order(path), path, leaf)
        for path, leaf in named_leaves(params).items()
        if path.split("/")[-1] == "kernel"
        if (len(leaf.shape) == 2 and leaf.shape[0] == width)
        or (len(leaf.shape) == 4 and len(image_shape) > 1 and leaf.shape[2] == channels)
    ]
    return min(fitting, key=lambda found: found[:2])[2:] if fitting else None


def filter_image(
    kernel: ArrayLike, image_shape: Sequence[int], *, columns: int = 8, most: int = 64
) -> np.ndarray | None:
    """The first filters of a kernel side by side, u8[height, width, 3].

    Each filter has its own scale: weight 0 is grey (128), its largest weight in magnitude is white (255) or black (1).
    So a kernel times a positive number is the same picture, and its negative is the negative picture. Kernels of three
    channels are in colour, others in grey: their mean over the channels. With NaN or infinity a filter is black (0).

    Args:
      kernel: f[h, w, C, F] of a convolution, or f[D, F] of a dense layer.
      image_shape: of the network's input, [H, W, C] or [H, W]; of a dense layer D = H * W * C, row by row.
      columns: filters in a row.
      most: filters drawn, the first ones.

    Returns:
      None if the kernel cannot be seen as pictures: one of features or PCA components, or of another rank.

    Raises:
      RequestError: `columns` or `most` is below 1.
    """
    if columns < 1 or most < 1:
        raise RequestError(f"columns is {columns} and most is {most}; both must be at least 1")
    kernel = np.asarray(kernel)[..., :most]
    height, width, channels = _with_channels(image_shape)
    if kernel.ndim == 2 and len(image_shape) > 1 and len(kernel) == height * width * channels:
        kernel = kernel.reshape(height, width, channels, -1)
    if kernel.ndim != 4 or not kernel.size:
        return None
    pixels = _grey(visible(np.moveaxis(kernel, -1, 0).astype(np.float32)))
    factor = -(-SIDE // max(pixels.shape[1:3]))
    return tiled(pixels.repeat(factor, axis=1).repeat(factor, axis=2), columns)


def tiled(pixels: np.ndarray, columns: int) -> np.ndarray:
    """u8[N, h, w, 1 or 3] in rows of `columns` (of N, if that is less), with a dark border around each."""
    count, height, width, _ = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    tiles = np.full((rows * columns, height + BORDER, width + BORDER, 3), DARK, np.uint8)
    tiles[:count, BORDER:, BORDER:] = pixels
    rows_of_tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    whole = rows_of_tiles.reshape(rows * (height + BORDER), columns * (width + BORDER), 3)
    return np.pad(whole, ((0, BORDER), (0, BORDER), (0, 0)), constant_values=DARK)


def _grey(weight: np.ndarray) -> np.ndarray:
    """u8 of f32[F, ...]: 128 is 0, 1 and 255 the largest magnitude in each filter."""
    reach = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    reach[~np.isfinite(reach)] = np.nan
    relative = np.divide(weight, reach, out=np.zeros_like(weight), where=reach != 0)
    return np.nan_to_num(np.rint(128 + 127 * relative), nan=0.0).astype(np.uint8)


def _with_channels(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """H, W, C; without channels there is one, and features are one row."""
    height, width = (1, *image_shape)[-2:] if len(image_shape) < 3 else image_shape[:2]
    return height, width, math.prod(image_shape[2:])


def _in_order(path: str) -> list[str | int]:
    """By name, with numbers as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
