"""The data sets of the corpus, as arrays: small parts of known ones, and one of numbers.

Imports jaxtrain's readers. The fact that surprises: two are made by their formulas. `friedman`: ten features in [0, 1],
of which five matter (Friedman, Multivariate adaptive regression splines, 1991, section 4.3). `waveform`: two of three
triangular waves, mixed at random, with noise, 21 numbers; the best that can be known of the class is 86 % (Breiman et
al., Classification and regression trees, 1984, section 2.6.2).
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

import jaxtrain as jt
from jaxtrain.data import load_data

CLASSES = {"cifar": (0, 1, 6, 7), "tops": (0, 2, 4, 6)}
"""Airplane, automobile, frog and horse; of Fashion-MNIST T-shirt, pullover, coat and shirt, the hardest to tell."""
FILES = {"fashion": "fashion_mnist", "tops": "fashion_mnist", "cifar": "cifar10"}
SIZES = {
    "digits": 1437,
    "mnist": 5000,
    "fashion": 5000,
    "tops": 3000,
    "cifar": 2500,
    "friedman": 2500,
    "waveform": 2500,
}
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
    if name in ("friedman", "waveform"):
        return _friedman() if name == "friedman" else _waveform()
    known = FILES.get(name, name)
    data = load_data(jt.DataConfig(name=known, download=False), report=lambda text: None)  # pyright: ignore[reportArgumentType]
    pool = data.num_train + data.num_val
    image, label, classes = data.image, data.label, 10
    parts = [np.arange(pool), np.arange(pool, len(label))]
    if small or name == "cifar":
        image = _halved(image)
    if name in CLASSES:
        chosen = CLASSES[name]
        label = np.searchsorted(chosen, label).clip(max=len(chosen) - 1)
        parts = [part[np.isin(data.label[part], chosen)] for part in parts]
        classes = len(chosen)
    rng = np.random.default_rng(0)
    train, test = rng.permutation(parts[0])[: SIZES[name]], rng.permutation(parts[1])[:NUM_TEST]
    return Arrays(image[train], label[train], image[test], label[test], classes)


def score(scores: Mapping[str, float], labels: np.ndarray) -> float:
    """Accuracy, or in regression the share of the labels' variance that is explained."""
    return scores["accuracy"] if "accuracy" in scores else 1 - scores["mse"] / float(np.var(labels))


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


def _waveform() -> Arrays:
    rng = np.random.default_rng(0)
    count, cut = SIZES["waveform"] + NUM_TEST, SIZES["waveform"]
    waves = np.maximum(6 - np.abs(np.arange(1, 22) - np.array([[11], [15], [7]])), 0)
    label, share = rng.integers(0, 3, count).astype(np.int32), rng.uniform(size=(count, 1))
    first, second = np.array([[0, 1], [0, 2], [1, 2]])[label].T
    x = share * waves[first] + (1 - share) * waves[second] + rng.standard_normal((count, 21))
    x = x.astype(np.float32)
    return Arrays(x[:cut], label[:cut], x[cut:], label[cut:], 3)
