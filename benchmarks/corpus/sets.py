"""The data sets of the corpus, as arrays: small parts of known ones, and one of numbers.

Imports jaxtrain's readers. `friedman` is made by its formula: ten features in [0, 1], of which five matter (Friedman,
Multivariate adaptive regression splines, 1991, section 4.3).
"""

import functools
from typing import NamedTuple

import numpy as np

import jaxtrain as jt
from jaxtrain.data import load_data

CIFAR_CLASSES = (0, 1, 6, 7)  # airplane, automobile, frog, horse
SIZES = {"digits": 1437, "mnist": 5000, "fashion": 5000, "cifar": 2500, "friedman": 2500}
NUM_TEST = 2000


class Arrays(NamedTuple):
    """Examples for training and validation, and others for the test."""

    image: np.ndarray
    label: np.ndarray
    test_image: np.ndarray
    test_label: np.ndarray
    num_classes: int | None


@functools.cache
def read(name: str, *, small: bool = False) -> Arrays:
    """One of `SIZES`, of $JAXTRAIN_DATA where it is not embedded; `small`: images of half the side, as CIFAR's are."""
    if name == "friedman":
        return _friedman()
    known = {"fashion": "fashion_mnist", "cifar": "cifar10"}.get(name, name)
    data = load_data(jt.DataConfig(name=known, download=False), report=lambda text: None)  # pyright: ignore[reportArgumentType]
    pool = data.num_train + data.num_val
    image, label, classes = data.image, data.label, 10
    parts = [np.arange(pool), np.arange(pool, len(label))]
    if small or name == "cifar":
        image = _halved(image)
    if name == "cifar":
        label = np.searchsorted(CIFAR_CLASSES, label).clip(max=len(CIFAR_CLASSES) - 1)
        parts = [part[np.isin(data.label[part], CIFAR_CLASSES)] for part in parts]
        classes = len(CIFAR_CLASSES)
    rng = np.random.default_rng(0)
    train, test = rng.permutation(parts[0])[: SIZES[name]], rng.permutation(parts[1])[:NUM_TEST]
    return Arrays(image[train], label[train], image[test], label[test], classes)


def _halved(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels: a quarter of the work."""
    n, height, width, channels = image.shape
    return image.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4)).astype(np.uint8)


def _friedman() -> Arrays:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(SIZES["friedman"] + NUM_TEST, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = ((y - y.mean()) / y.std() + 0.1 * rng.standard_normal(len(y))).astype(np.float32)
    x, cut = x.astype(np.float32), SIZES["friedman"]
    return Arrays(x[:cut], y[:cut], x[cut:], y[cut:], None)
