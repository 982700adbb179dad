"""A close look at one step: gradients, updates, activations and weights, layer by layer.

Imports the step and what lies below. The fact that surprises: it is a program of its own, which repeats a step and
throws its result away. In the step itself each of these numbers would be paid for at every step, and under `vmap` even
behind a condition.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxtrain.config import Config
from jaxtrain.data import Data
from jaxtrain.optim import kernel_mask, penalty
from jaxtrain.optim.parameters import parameter_path
from jaxtrain.step import Setting, augment_batch, make_setting, step_keys, updated
from jaxtrain.types import Array, Batch, PyTree, Task, TrainState

NUM_BINS = 64
NUM_SHOWN = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Histogram:
    """How often values of an array fall into bins of equal width between its smallest and its largest one."""

    low: Array  # f32[]
    high: Array  # f32[]
    count: Array  # i32[NUM_BINS]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Probe:
    """What is to be seen of a step. A layer is named by its path, as in ResidualBlock_1/Conv_0.

    scalars, each f32[]:
      gradient_norm: length of the whole gradient, before clipping.
      gradient_norm/LAYER: length of the gradient of its kernel.
      update_ratio/LAYER: ||update|| / ||kernel||; about 1e-3 is healthy, more may be too high a rate, less too low.
      dead_units/LAYER: share of its units in [0, 1] that no example of the batch sends a gradient to, as behind a ReLU
        that is never on; of a small batch an overestimate.
      gradient_agreement: the cosine in [-1, 1] of the gradients of the batch's two halves; with c its mean over looks,
        (B / 2) (1 - c) / c estimates the gradient noise scale in examples. NaN of a batch below four.
      input_mean, input_std: of all numbers of the batch, as the network sees them.
      input_feature_ratio: of vectors, the largest root mean square of a feature to the smallest that is not 0.
    histograms:
      params/PATH, gradients/PATH: of each parameter.
      activations/LAYER: of each module's outputs, training pass; not of the outermost one.
    shown: the first examples of the batch, augmented: what the network saw.

    References:
      CS231n, https://cs231n.github.io/neural-networks-3/#ratio (the ratio), #distr (activations and gradients)
      McCandlish et al. 2018, arXiv:1812.06162, appendix A.1 (the noise scale, from two sizes of batch)
    """

    scalars: dict[str, Array]
    histograms: dict[str, Histogram]
    shown: Batch


def probe(setting: Setting, state: TrainState, batch: Batch) -> Probe:
    """Look at the last step that `state` has done, on `batch` again; with micro-batches, at the first of them alone.

    Its keys and its rate, with the weights of now: at the end of a run the next step's rate may be 0. Before the first
    step it is the first.
    """
    config = setting.config
    with jax.default_matmul_precision(config.matmul_precision):
        last = dataclasses.replace(state, step=jnp.maximum(state.step - 1, 0))
        augment_key, dropout_key = step_keys(last)
        batch = augment_batch(setting, last, augment_key, batch)
        part = jax.tree.map(lambda x: x[: x.shape[0] // config.num_micro_batches], batch)

        def data_loss(params: PyTree, part: Batch) -> tuple[Array, PyTree]:
            applied = setting.model.apply(
                params, state.batch_stats, part.image, train=True, key=dropout_key, hyper=state.hyper, activations=True
            )
            return jnp.mean(setting.task.loss(applied.outputs, part, state.hyper)), applied.activations

        gradient_of = jax.grad(data_loss, has_aux=True)
        gradient, activations = gradient_of(state.params, part)
        agreement = _agreement(lambda half: gradient_of(state.params, half)[0], part)
        dead = _per_kernel(_dead_share, gradient)  # of the data's gradient, for a penalty reaches every weight
        gradient = jax.tree.map(jnp.add, gradient, jax.grad(penalty)(state.params, state.hyper))
        after = updated(setting, state, gradient, state.batch_stats, steps_back=1)
    scalars = {"gradient_norm": optax.tree.norm(gradient), "gradient_agreement": agreement, **_input(part.image)}
    scalars |= _named("gradient_norm", _per_kernel(_length, gradient))
    scalars |= _named("update_ratio", _per_kernel(_ratio, after.params, state.params))
    scalars |= _named("dead_units", dead)
    arrays = {f"params/{path}": leaf for path, leaf in _leaves(state.params)}
    arrays |= {f"gradients/{path}": leaf for path, leaf in _leaves(gradient)}
    arrays |= _named("activations", dict(named_outputs(activations)))
    histograms = {name: histogram(array) for name, array in arrays.items()}
    return Probe(scalars, histograms, jax.tree.map(lambda x: x[:NUM_SHOWN], part))


def make_probe(
    model: Any, data: Data, config: Config, task: Task | None = None
) -> Callable[[TrainState, Batch], Probe]:
    """`probe(state, batch) -> Probe`, pure and not jitted; changes nothing. Arguments as of `make_train_step`."""
    return functools.partial(probe, make_setting(model, data, config, task))


def histogram(x: Array) -> Histogram:
    """Counts over the range of `x`, f[...]. With NaN or infinity in it `low` or `high` says so, and counts are void."""
    x = x.reshape(-1).astype(jnp.float32)
    low, high = jnp.min(x), jnp.max(x)
    width = jnp.where(high > low, high - low, 1.0)
    place = jnp.clip((x - low) / width * NUM_BINS, 0, NUM_BINS - 1).astype(jnp.int32)
    # Equal bins need no search: 1.1 ms for 400,000 values on a CPU, against 5.4 by jnp.histogram.
    return Histogram(low, high, jnp.zeros(NUM_BINS, jnp.int32).at[place].add(1))


def layer_of(path: str) -> str:
    """Dense_0/kernel -> Dense_0; another array keeps its name."""
    return path.removesuffix("/kernel")


def _agreement(gradient_of: Callable[[Batch], PyTree], batch: Batch) -> Array:
    """The cosine between the gradients of the first and the second half of `batch`."""
    size = batch.label.shape[0] // 2
    if size < 2:  # BatchNorm over one example gives nothing to compare
        return jnp.float32(jnp.nan)
    halves = jax.tree.map(lambda x: x[: 2 * size].reshape(2, size, *x.shape[1:]), batch)
    both = lax.map(gradient_of, halves)  # one body, where two calls would be compiled twice
    products = [x.reshape(2, -1) @ x.reshape(2, -1).T for x in jax.tree.leaves(both)]
    dots = functools.reduce(jnp.add, products)
    return dots[0, 1] / jnp.sqrt(dots[0, 0] * dots[1, 1])


def _input(image: Array) -> dict[str, Array]:
    """What the network sees, in numbers."""
    found = {"input_mean": jnp.mean(image), "input_std": jnp.std(image)}
    if image.ndim == 2:
        size = jnp.sqrt(jnp.mean(jnp.square(image), axis=0))
        found["input_feature_ratio"] = jnp.max(size) / jnp.min(jnp.where(size > 0, size, jnp.inf))
    return found


def _per_kernel(measure: Callable[..., Array], *trees: PyTree) -> dict[str, Array]:
    """A number for each kernel, by layer; `trees` are like the parameters."""
    masks = jax.tree.leaves(kernel_mask(trees[0]))
    leaves = [[leaf for _, leaf in _leaves(tree)] for tree in trees]
    paths = [layer_of(path) for path, _ in _leaves(trees[0])]
    return {path: measure(*own) for path, is_kernel, *own in zip(paths, masks, *leaves, strict=True) if is_kernel}


def _length(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _ratio(after: Array, before: Array) -> Array:
    """NaN of a kernel that is 0, as some begin."""
    length = _length(before)
    return jnp.where(length > 0, _length(after - before) / length, jnp.nan)


def _dead_share(gradient: Array) -> Array:
    """The last axis counts the units, all others are incoming, as in Dense and Conv."""
    return jnp.mean(jnp.all(gradient == 0, axis=tuple(range(gradient.ndim - 1))), dtype=jnp.float32)


def _named(group: str, values: dict[str, Array]) -> dict[str, Array]:
    return {f"{group}/{name}": value for name, value in values.items()}


def _leaves(tree: PyTree) -> list[tuple[str, Array]]:
    return [(parameter_path(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def named_outputs(captured: PyTree) -> list[tuple[str, Array]]:
    """What `capture_intermediates` kept: {"Dense_0": {"__call__": (outputs of each call,)}}."""
    named = []
    for path, leaf in jax.tree.leaves_with_path(captured or {}):
        names = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
        call = names.index("__call__") if "__call__" in names else len(names)
        again = [number for number in names[call + 1 :] if number != "0"]
        if call and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size:
            named.append(("/".join([*names[:call], *again]), leaf))
    return named
