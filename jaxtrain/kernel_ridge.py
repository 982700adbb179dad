"""What a method without training scores on the data: kernel ridge regression on a sample, for a diagnosis to compare.

Imports tasks and data. The fact that surprises: it is meant as a floor. It sees some of the examples, at a low
resolution, and nothing of it is tuned; a network that falls far behind it has not learnt what is there to learn.

References:
  Kernel ridge regression: Saunders, Gammerman & Vovk, "Ridge regression learning algorithm in dual variables", 1998
  Both kernels need no tuning to do well: Belkin, Ma & Mandal, "To understand deep learning we need to understand kernel
  learning", ICML 2018
"""

import numpy as np

from jaxtrain.data import Data
from jaxtrain.tasks import Classification, scores_as_shipped
from jaxtrain.types import Task

NUM_TRAIN, NUM_VAL = 1500, 1000
"""Examples that it learns from and is scored on: some 0.3 s on two cores."""
SIDE = 16
"""Images are averaged down to about this many pixels a side."""
MOST_FEATURES = 4096
CHUNK = 64
RIDGE = 1e-2
"""Added to a diagonal of ones. Little: what is fitted exactly by these kernels still holds for other examples."""


def kernel_ridge(task: Task, data: Data) -> dict[str, float]:
    """Scores on the validation split, the better of a Gaussian and a Laplacian kernel, whose width is the median
    distance. Labels are learnt as targets of 0 and 1.

    Args:
      task: one that scores as Classification or Regression do; of any other nothing is known.
      data: as it was loaded; neither its preprocessing nor augmentation plays a part.

    Returns:
      accuracy, or of regression mse, and variance: the mse of the mean of the training targets on the same examples.
      Nothing where there is too little to compare, fewer than 20 examples in a split, or values that are not finite.
    """
    train, val = _sample(0, data.num_train, NUM_TRAIN), _sample(*data.val, NUM_VAL)
    if not scores_as_shipped(task) or min(len(train), len(val)) < 20:
        return {}
    rows, count = np.concatenate([train, val]), len(train)
    features, labels = _features(data.image, rows), np.asarray(data.label)[rows]
    if isinstance(task, Classification):
        # Those of the sample: there may be thousands of others.
        classes, labels = np.unique(labels, return_inverse=True)
        targets = np.eye(len(classes))[labels[:count]]
    else:
        targets = labels[:count].astype(np.float64)
    middle = targets.mean(axis=0)
    distances = _distances(features, features[:count])
    width = float(np.median(distances[:count]))
    if not (width > 0 and np.isfinite(distances).all() and np.isfinite(labels).all()):
        return {}
    found = []
    for kernel in (np.exp(-distances / width), np.exp(-((distances / width) ** 2))):
        answers = _answers(kernel, targets - middle) + middle
        if isinstance(task, Classification):
            found.append({"accuracy": float(np.mean(answers.argmax(axis=1) == labels[count:]))})
        else:
            errors = {"mse": answers, "variance": np.broadcast_to(middle, answers.shape)}
            found.append({name: float(np.mean((x - labels[count:]) ** 2)) for name, x in errors.items()})
    return max(found, key=lambda scores: scores.get("accuracy", -scores.get("mse", 0.0)))


def _answers(kernel: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """f64[M, T], for all but the N examples that the targets, f64[N, T], are of; kernel f64[N + M, N]."""
    from scipy.linalg import solve

    count = len(targets)
    return kernel[count:] @ solve(kernel[:count] + RIDGE * np.eye(count), targets, assume_a="pos")


def _sample(start: int, stop: int, most: int) -> np.ndarray:
    """Evenly spaced rows, for a file may be sorted."""
    return np.unique(np.linspace(start, stop - 1, min(most, max(0, stop - start))).astype(int))


def _features(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """f32[len(rows), F], of size about 1: small images, whose pixels share a scale, or columns that have one each."""
    shared = images.ndim == 4
    if shared:  # a few at a time: of large images 2,500 are gigabytes
        parts = [_pooled(images[part]) for part in np.array_split(rows, -(-len(rows) // CHUNK))]
        flat = np.concatenate(parts).reshape(len(rows), -1)
    else:
        flat = images.reshape(len(images), -1)
    if flat.shape[1] > MOST_FEATURES:
        drawn = np.random.default_rng(0).permutation(flat.shape[1])[:MOST_FEATURES]
        flat = flat[:, np.sort(drawn)] if shared else flat[np.ix_(rows, np.sort(drawn))]
    elif not shared:
        flat = flat[rows]
    flat = flat.astype(np.float64)  # 1e30 squared is too much for f32
    flat -= flat.mean(axis=0)
    spread = np.sqrt(np.mean(flat**2, axis=None if shared else 0))
    return (flat / np.where(spread > 0, spread, 1)).astype(np.float32)


def _pooled(images: np.ndarray) -> np.ndarray:
    """f32: means of squares of pixels; what is left over at the edges is cut off."""
    count, height, width, channels = images.shape
    down, across = (max(1, round(side / SIDE)) for side in (height, width))
    images = images[:, : height // down * down, : width // across * across]
    parts = images.reshape(count, height // down, down, width // across, across, channels)
    return parts.mean(axis=(2, 4), dtype=np.float32)


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean, f64[len(some), len(others)]."""
    squares = [np.einsum("nf,nf->n", x, x) for x in (some, others)]
    return np.sqrt(np.maximum(squares[0][:, None] + squares[1] - 2 * some @ others.T, 0)).astype(np.float64)
