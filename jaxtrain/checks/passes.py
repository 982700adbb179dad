"""Passes through the network, each compiled once: what goes in, what comes out, and how far two of them are apart.

Imports the step and what lies below. The fact that surprises: all of these give NumPy arrays. Between passes the checks
shuffle, slice and compare, and each such operation on the device would be compiled for itself. And they are compiled
with few optimisations: each runs for moments only.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.data import normalise
from jaxtrain.optim import penalty
from jaxtrain.optim.parameters import parameter_path
from jaxtrain.step import Setting, augment_batch, init_state, train_step
from jaxtrain.types import Array, Batch, Hyper, PyTree

SAME, OTHER = 1e-3, 2e-2
"""Differences in units of the outputs' spread: up to the first it is rounding, above the second another number."""


def compiled(function: Callable[..., Any], level: int = 1, **kwargs: Any) -> Any:
    """`jax.jit`, with less of XLA's optimisation: a CNN's initialisation takes 0.7 s of a core to compile at level 0
    and 5.7 s by default, its forward pass 0.8 s at level 1 and 1.2 s, and runs as fast."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": level}, **kwargs)


class Weights(NamedTuple):
    """What a forward pass needs besides images."""

    params: PyTree
    batch_stats: PyTree


class Passed(NamedTuple):
    """What a forward pass in training mode gives: NumPy arrays."""

    outputs: np.ndarray  # f32[B, ...]
    batch_stats: PyTree
    deviations: dict[str, Any]  # layer -> f32[], standard deviation of what it gives


class Scores(NamedTuple):
    """A network's outputs on N examples, in evaluation mode, and what the task says of them."""

    outputs: np.ndarray  # f32[N, ...]
    loss: np.ndarray  # f32[N], what is trained on
    metrics: dict[str, np.ndarray]  # name -> f32[N], what is reported


@functools.partial(compiled, static_argnums=0)
def examined(setting: Setting, params: PyTree, batch_stats: PyTree, hyper: Hyper, batch: Batch) -> tuple:
    """Outputs, trained loss and metrics of each example, in evaluation mode."""
    with jax.default_matmul_precision(setting.config.matmul_precision):
        outputs = setting.model.apply(params, batch_stats, batch.image, train=False, hyper=hyper).outputs
    return (
        outputs,
        setting.task.loss(outputs, batch, hyper),
        setting.task.metrics(outputs, batch),
    )


@functools.partial(compiled, static_argnums=0)
def passed(
    setting: Setting,
    params: PyTree,
    batch_stats: PyTree,
    hyper: Hyper,
    image: Array,
    key: Array,
) -> tuple:
    """Outputs, new running statistics and the deviation of each layer's outputs, in training mode."""
    with jax.default_matmul_precision(setting.config.matmul_precision):
        applied = setting.model.apply(
            params,
            batch_stats,
            image,
            train=True,
            key=key,
            hyper=hyper,
            activations=True,
        )
    given = [(layer_of(parameter_path(path)), leaf) for path, leaf in jax.tree.leaves_with_path(applied.activations)]
    deviations = {layer: jnp.std(leaf) for layer, leaf in given if jnp.issubdtype(leaf.dtype, jnp.floating)}
    return applied.outputs, applied.batch_stats, deviations


@functools.partial(compiled, static_argnums=(0, 1))
def influence(
    setting: Setting,
    train: bool,
    params: PyTree,
    batch_stats: PyTree,
    hyper: Hyper,
    batch: Batch,
    key: Array,
    index: Array,
) -> Array:
    """Derivative of the loss of example `index` by all images, f32[B, ...]."""

    def loss(image: Array) -> Array:
        applied = setting.model.apply(params, batch_stats, image, train=train, key=key, hyper=hyper)
        return setting.task.loss(applied.outputs, batch, hyper)[index]

    return jax.grad(loss)(batch.image)


augmented = compiled(augment_batch, static_argnums=0)
"""`step.augment_batch`, compiled."""


initial = compiled(init_state, level=0, static_argnums=0)
"""`step.init_state`, compiled."""

stepped = jax.jit(train_step, static_argnums=0)
"""`step.train_step`, compiled."""

normalised = compiled(normalise)
"""`data.normalise`, compiled."""

penalised = compiled(penalty)
"""`optim.penalty`, compiled."""


def host_batch(image: np.ndarray, label: np.ndarray, index: np.ndarray | None = None) -> Batch:
    """A batch of arrays that are still on the host; a compiled program takes them as they are."""
    index = np.asarray(np.arange(len(label)) if index is None else index, np.int32)
    return Batch(*map(np.asarray, (image, label, np.ones(len(label), np.float32), index)))  # pyright: ignore[reportArgumentType]


def layer_of(path: str) -> str:
    """The layer whose outputs `capture_intermediates` kept as Dense_0/__call__/0: Dense_0."""
    return path.partition("__call__")[0].rstrip("/")


def filled(x: np.ndarray, size: int) -> np.ndarray:
    """The last row repeated up to `size`."""
    return np.concatenate([x, np.repeat(x[-1:], size - len(x), axis=0)])


def off(hyper: Hyper, *names: str) -> Hyper:
    """`hyper` with these numbers 0. Not None: a network or an optimizer may do sums with them."""
    zero = {name: jnp.float32(0) for name in names if getattr(hyper, name) is not None}
    return dataclasses.replace(hyper, **zero)


def leaves_of(tree: PyTree) -> dict[str, np.ndarray]:
    """Path -> array."""
    return {parameter_path(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def spread(values: np.ndarray) -> float:
    """How much outputs differ from example to example: the yardstick for differences between passes."""
    return float(np.sqrt(np.mean(np.square(values - values.mean(0, keepdims=True))))) or 1e-12


def difference(one: np.ndarray, other: np.ndarray, scale: float) -> float:
    """Largest difference in units of `scale`; NaN where an output is not finite."""
    return float(np.max(np.abs(np.asarray(one, np.float64) - other)) / scale)


def limit_of_average(old: Array, from_zero: Array, from_one: Array) -> np.ndarray:
    """What a running average m old + (1 - m) x tends to, which is x, from its updates of 0 and of 1."""
    kept = momentum_of(from_zero, from_one)
    known = (kept >= 0) & (kept < 1 - 1e-6)
    return np.where(known, from_zero / np.where(known, 1 - kept, 1), old).astype(np.float32)


def momentum_of(from_zero: Array, from_one: Array) -> np.ndarray:
    """m of a running average m old + (1 - m) x, elementwise, from its updates of 0 and of 1."""
    return np.asarray(from_one, np.float64) - np.asarray(from_zero, np.float64)
