"""Which examples are held out for validation.

Imports nothing of jaxtrain but `errors` and its neighbours here. The surprise: the seed is the split's own and the
generator NumPy's, so seeds of training differ in everything but the examples they are judged by.
"""

from typing import Any

import numpy as np

from jaxtrain.data.checks import whole_number
from jaxtrain.errors import RequestError


def split_indices(label: np.ndarray, val_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices, each ascending; disjoint, and together all.

    In classification (label i32[N]) each class's number in validation is within one of its share, and every class is in
    both splits; in regression (label f32[N, T]) the indices are drawn at large.

    Raises:
      RequestError: if `val_share` is not in (0, 1), `seed` is no number from 0 on, or there are too few examples to
        be in both splits.
    """
    if not _is_share(val_share):
        raise RequestError(f"val_share is {val_share!r:.60}; give a share in (0, 1), for example 0.1")
    if whole_number(seed, "split_seed") < 0:
        raise RequestError(f"split_seed is {seed}; give a whole number from 0 on")
    generator = np.random.default_rng(seed)
    if label.ndim == 1:
        held_out = _stratified(label, val_share, generator)
    else:
        if len(label) < 2:
            raise RequestError(f"{len(label)} example was given; a validation split needs at least 2")
        count = int(np.clip(round(len(label) * val_share), 1, len(label) - 1))
        held_out = generator.permutation(len(label))[:count]
    in_val = np.zeros(len(label), bool)
    in_val[held_out] = True
    return np.flatnonzero(~in_val), np.flatnonzero(in_val)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and bool(0 < value < 1)


def _stratified(label: np.ndarray, val_share: float, generator: np.random.Generator) -> np.ndarray:
    classes, sizes = np.unique(label, return_counts=True)
    if sizes.min() < 2:
        lone = classes[sizes.argmin()]
        raise RequestError(
            f"class {lone} has 1 example; a stratified validation split needs at least 2 of each class:"
            " add examples or leave the class out"
        )
    held_out = [
        generator.permutation(np.flatnonzero(label == c))[:n]
        for c, n in zip(classes, _shares(sizes, val_share), strict=True)
    ]
    return np.concatenate(held_out)


def _shares(sizes: np.ndarray, share: float) -> np.ndarray:
    """How many of each class: its share, rounded by largest remainder so that the sum is right, then 1 to size - 1."""
    exact = sizes * share
    counts = np.floor(exact).astype(int)
    missing = round(float(exact.sum())) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return np.clip(counts, 1, sizes - 1)
