"""Preprocessing: statistics fitted on the training split by NumPy, applied on the device.

Imports nothing of jaxtrain but `types`, `errors` and its neighbours here. Every kind has one form, x = (image - shift)
* scale, then (PCA, whitening) a rotation of the flattened image; so one compiled program serves all. The surprise: the
statistics are arguments of that program and never constants, for a whitening matrix of CIFAR-10 is 38 MB.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.data.checks import whole_number
from jaxtrain.errors import RequestError
from jaxtrain.types import Array

Kind = Literal["none", "unit", "standardize", "standardize_features", "pca", "whiten"]

WHITEN_EPSILON = 1e-5
"""Added to the variances before their root, as in cs231n's notes: x / sqrt(S + 1e-5), on pixels in [0, 1]."""

PIXEL_FLOOR = 0.1
"""Least deviation of a pixel, as a share of the deviation of all pixels together. Without it a pixel that is constant
would be divided by 0 (67 of MNIST's 784), and one that is lit in one image of 54,000 would arrive at 230 there."""

CHUNK = 1024
"""Images converted to float64 at a time: 25 MB for CIFAR-10, where all at once would be 1.2 GB."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Preprocess:
    """x = (float32(image) - shift) * scale, then, if there is a rotation, flattened and times it."""

    shift: Any  # f32[] or f32 of an example's rank, broadcast against it: [1, 1, C], [H, W, C], [D]
    scale: Any  # likewise
    rotation: Any = None  # f32[D, P], D the flattened example; None for none


def normalise(preprocess: Preprocess, image: Any) -> Array:
    """Images as the network gets them, from images as they are stored.

    Args:
      image: u8|f32[B, ...], as stored.

    Returns:
      f32[B, ...], or f32[B, P] after PCA or whitening.
    """
    x = (jnp.asarray(image).astype(jnp.float32) - _for_batch(preprocess.shift)) * _for_batch(preprocess.scale)
    if preprocess.rotation is None:
        return x
    # Full precision: TF32 keeps 10 bits, and whitening magnifies the smallest directions 300-fold.
    return jnp.matmul(x.reshape(x.shape[0], -1), preprocess.rotation, precision="highest")


def _for_batch(statistic: Any) -> Array:
    """A statistic with an axis for the examples, unless it is one number."""
    statistic = jnp.asarray(statistic)
    return statistic[None] if statistic.ndim else statistic


def fit_preprocess(kind: Kind, image: np.ndarray, num_components: int | None = None) -> Preprocess:
    """Statistics of the training split.

    Args:
      kind: none; unit (to [0, 1]: divided by 255, for floats by the split's range); standardize (mean 0 and deviation 1
        per channel, for [N, D] per feature); standardize_features (per pixel); pca; whiten.
      image: u8|f32[N, ...], the training split only.
      num_components: pca, whiten: directions kept, the largest first; None keeps all.

    Returns:
      A `Preprocess` of NumPy arrays.

    Raises:
      RequestError: if `num_components` is given to another kind, or is not between 1 and the number of features.

    References:
      cs231n, Neural Networks Part 2, Data Preprocessing, https://cs231n.github.io/neural-networks-2/
    """
    if num_components is not None and kind not in ("pca", "whiten"):
        raise RequestError(
            f"num_components is {num_components} and preprocess is {kind!r}, which keeps everything; use preprocess"
            " 'pca' or 'whiten', or leave num_components None"
        )
    if kind == "none":
        return _affine(0.0, 1.0)
    if kind == "unit":
        return _affine(*_unit(image))
    if kind == "standardize" or (kind == "standardize_features" and image.ndim == 2):
        mean, deviation = _channel_moments(image)
        return _affine(mean, 1 / _usable(mean, deviation))
    if kind == "standardize_features":
        mean, variance = _moments(image)
        floor = PIXEL_FLOOR * np.sqrt(variance.mean() + mean.var())  # variance within pixels, and between them
        deviation = np.maximum(np.sqrt(variance), floor)
        return _affine(mean, 1 / _usable(mean, deviation))
    if kind in ("pca", "whiten"):
        return _rotate(kind, image, num_components)
    raise RequestError(f"preprocess is {kind!r}; expected none, unit, standardize, standardize_features, pca or whiten")


def _affine(shift: Any, scale: Any, rotation: np.ndarray | None = None) -> Preprocess:
    rotation = None if rotation is None else rotation.astype(np.float32)
    return Preprocess(np.asarray(shift, np.float32), np.asarray(scale, np.float32), rotation)


def _unit(image: np.ndarray) -> tuple[float, float]:
    """Shift and scale that bring pixels to [0, 1]."""
    if image.dtype == np.uint8:
        return 0.0, 1 / 255
    low, high = float(image.min()), float(image.max())
    return low, 1 / (high - low) if high > low else 1.0


def _usable(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The deviation, or 1 where the values are constant up to float32 rounding: there is nothing to scale."""
    return np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)


def _chunks(image: np.ndarray) -> Iterator[np.ndarray]:
    """f64[<=CHUNK, D] pieces of the flattened images."""
    flat = image.reshape(len(image), -1)
    for start in range(0, len(flat), CHUNK):
        yield flat[start : start + CHUNK].astype(np.float64)


def _mean(image: np.ndarray) -> np.ndarray:
    """Mean over the examples, f64[D]."""
    total = np.zeros(int(np.prod(image.shape[1:])))
    for chunk in _chunks(image):
        total += chunk.sum(0)
    return total / len(image)


def _moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and (biased) variance over the examples, f64 of an example's shape; two passes, so that no digits cancel."""
    mean = _mean(image)
    total = np.zeros_like(mean)
    for chunk in _chunks(image):
        chunk -= mean
        total += np.einsum("nd,nd->d", chunk, chunk)
    return mean.reshape(image.shape[1:]), (total / len(image)).reshape(image.shape[1:])


def _channel_moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel (the last axis), f64 of an example's rank with ones before the last axis."""
    if image.dtype == np.uint8 and image.ndim > 2:
        mean, variance = np.transpose([_byte_moments(image[..., c]) for c in range(image.shape[-1])])
    else:
        mean, variance = _moments(image)
        axes = tuple(range(mean.ndim - 1))
        channel_mean = mean.mean(axes)
        variance = variance.mean(axes) + ((mean - channel_mean) ** 2).mean(axes)  # within pixels, and between them
        mean = channel_mean
    shape = (1,) * (image.ndim - 2) + (image.shape[-1],)
    return mean.reshape(shape), np.sqrt(variance).reshape(shape)


def _byte_moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and variance of bytes from their histogram: exact, and four times as fast as converting them."""
    counts = np.zeros(256)
    for start in range(0, len(values), CHUNK):
        counts += np.bincount(values[start : start + CHUNK].reshape(-1), minlength=256)
    level, share = np.arange(256), counts / counts.sum()
    mean = float(share @ level)
    return mean, float(share @ (level - mean) ** 2)


def _rotate(kind: str, image: np.ndarray, num_components: int | None) -> Preprocess:
    """PCA by the eigenvectors of the covariance, and for whitening each direction over its deviation."""
    num_features = int(np.prod(image.shape[1:]))
    kept = num_features if num_components is None else whole_number(num_components, "num_components")
    if not 1 <= kept <= num_features:
        raise RequestError(f"num_components is {kept}; give 1 to {num_features}, the features of an example")
    unit = 1 / 255 if image.dtype == np.uint8 else 1.0
    mean = _mean(image)
    covariance = np.zeros((num_features, num_features))
    for chunk in _chunks(image):
        chunk -= mean
        covariance += chunk.T @ chunk
    variance, direction = np.linalg.eigh(covariance * (unit**2 / len(image)))  # ascending
    variance, direction = variance[::-1][:kept], direction[:, ::-1][:, :kept]
    # An eigenvector's sign is the LAPACK's choice; with the largest entry positive it is the same everywhere.
    largest = np.take_along_axis(direction, np.abs(direction).argmax(0)[None], axis=0)
    direction = direction * np.where(largest < 0, -1.0, 1.0)
    if kind == "whiten":
        direction = direction / np.sqrt(np.maximum(variance, 0) + WHITEN_EPSILON)
    return _affine(mean.reshape(image.shape[1:]), unit, direction)
