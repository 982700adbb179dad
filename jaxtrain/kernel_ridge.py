"""What a method without training scores on the data: kernel ridge regression on a sample, for a diagnosis to compare.

Imports tasks and data. The fact that surprises: it is meant as a floor. It sees some of the examples, at a low
resolution, and nothing of it is tuned; a network that falls far behind it has not learnt what is there to learn.

References:
  Kernel ridge regression: Saunders, Gammerman & Vovk, "Ridge regression learning algorithm in dual variables", 1998
  Both kernels need no tuning to do well: Belkin, Ma & Mandal, "To understand deep learning we need to understand kernel
  learning", ICML 2018
"""

import numpy as np
from scipy.linalg import LinAlgError, solve

from jaxtrain.data import Data
from jaxtrain.tasks import Classification, Regression
from jaxtrain.types import Task

NUM_TRAIN, NUM_VAL = 1500, 1000
"""Examples that it learns from and is scored on: 0.2 s on two cores."""
SIDE = 16
"""Images are averaged down to about this many pixels a side."""
MOST_FEATURES = 4096
RIDGE = 1e-2
"""Added to a diagonal of ones. Little: what is fitted exactly by these kernels still holds for other examples."""


def kernel_ridge(task: Task, data: Data) -> dict[str, float]:
    """Scores on the validation split: accuracy, or of regression mse. The better of a Gaussian and a Laplacian kernel,
    whose width is the median distance; labels are learnt as targets of 0 and 1.

    Args:
      task: Classification or Regression, also a subclass; of any other nothing is known.
      data: as it was loaded; neither its preprocessing nor augmentation plays a part.

    Returns:
      Nothing where there is too little to compare, fewer than 20 examples in a split, or values that are not finite.
    """
    train, val = _sample(0, data.num_train, NUM_TRAIN), _sample(*data.val, NUM_VAL)
    if not isinstance(task, Classification | Regression) or min(len(train), len(val)) < 20:
        return {}
    rows = np.concatenate([train, val])
    features, labels = _features(data.image[rows]), np.asarray(data.label[rows])
    count = len(train)
    if not np.isfinite(features).all() or not np.isfinite(labels).all():
        return {}
    targets = np.eye(task.num_classes)[labels[:count]] if isinstance(task, Classification) else labels[:count]
    middle = targets.mean(axis=0)
    distances = _distances(features, features[:count])
    width = float(np.median(distances[:count]))
    if not width > 0:
        return {}
    found = []
    for kernel in (np.exp(-distances / width), np.exp(-((distances / width) ** 2))):
        try:
            dual = solve(kernel[:count] + RIDGE * np.eye(count), targets - middle, assume_a="pos")
        except LinAlgError:
            continue
        answers = kernel[count:] @ dual + middle
        if isinstance(task, Classification):
            found.append({"accuracy": float(np.mean(answers.argmax(axis=1) == labels[count:]))})
        else:
            found.append({"mse": float(np.mean((answers - labels[count:]) ** 2))})
    return max(found, key=lambda scores: scores.get("accuracy", -scores.get("mse", 0.0)), default={})


def _sample(start: int, stop: int, most: int) -> np.ndarray:
    """Evenly spaced rows, for a file may be sorted."""
    return (
        np.unique(np.linspace(start, stop - 1, min(most, stop - start)).astype(int)) if stop > start else np.arange(0)
    )


def _features(images: np.ndarray) -> np.ndarray:
    """f32[N, F], of size about 1: small images, whose pixels share a scale, or columns that have one each."""
    shared = images.ndim == 4
    flat = (_pooled(images) if shared else images).reshape(len(images), -1)
    flat = np.asarray(flat[:, :: -(-flat.shape[1] // MOST_FEATURES)], np.float64)  # 1e30 squared is too much for f32
    flat = flat - flat.mean(axis=0)
    spread = np.sqrt(np.mean(flat**2, axis=None if shared else 0))
    return (flat / np.where(spread > 0, spread, 1)).astype(np.float32)


def _pooled(images: np.ndarray) -> np.ndarray:
    """Means of squares of pixels; what is left over at the edges is cut off."""
    count, height, width, channels = images.shape
    down, across = (max(1, round(side / SIDE)) for side in (height, width))
    images = images[:, : height // down * down, : width // across * across].astype(np.float32)
    parts = images.reshape(count, height // down, down, width // across, across, channels)
    return parts.mean(axis=(2, 4))


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean, f64[len(some), len(others)]."""
    squares = [np.einsum("nf,nf->n", x, x) for x in (some, others)]
    return np.sqrt(np.maximum(squares[0][:, None] + squares[1] - 2 * some @ others.T, 0)).astype(np.float64)
