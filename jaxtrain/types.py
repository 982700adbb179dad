"""The words everything else speaks: Batch, Hyper, Control, TrainState, Metrics, Model, Task.

Imports only JAX and Flax. The fact that surprises: the hyper-parameters are *in* the state, as arrays. Two members of
an ensemble may differ in every leaf of a `TrainState`, and in nothing else.

Shape letters used in every docstring: B batch, H W C image, D flattened image, K classes, T regression targets,
N examples of a split, M members.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any
Number = float | Array

INIT_KEY, STEP_KEY, FLIP_KEY = 0, 1, 2
"""Purposes: what is folded into a member's key before anything is drawn. `data.arrays` has that of the order."""


class Batch(NamedTuple):
    """B examples as the network gets them.

    image: f32[B, ...], already normalised.
    label: i32[B] class indices; f32[B, K] class probabilities (after mixup); f32[B, T] regression targets.
    weight: f32[B], 1 for an example, 0 for padding (evaluation only).
    index: i32[B], which examples of the data they are, for what is remembered from epoch to epoch; None: not known.
    """

    image: Array
    label: Array
    weight: Array
    index: Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters: each is a number (traced, may differ between members) or None (absent from the program).

    None and 0 give the same mathematics and different programs: no dropout mask is drawn for a rate that is None.
    """

    learning_rate: Number = 1e-3
    """Peak of the schedule: the rate at a step is learning_rate * schedule(step)."""
    weight_decay: Number | None = None
    """Decoupled L2 (AdamW); kernels only."""
    dropout_rate: Number | None = None
    """Share of hidden units dropped, in [0, 1)."""
    input_dropout_rate: Number | None = None
    """Share of inputs dropped, in [0, 1)."""
    label_smoothing: Number | None = None
    """Share of the label's probability spread evenly over all classes, in [0, 1)."""
    momentum: Number | None = 0.9
    """SGD's and Muon's momentum and Adam's beta1, in [0, 1)."""
    beta2: Number = 0.999
    """Adam's decay of the squared gradient, in [0, 1)."""
    rest_rate: Number | None = None
    """Muon: times learning_rate, the rate of what SGD updates beside it; None is 1."""
    rest_momentum: Number | None = None
    """Muon: momentum of what SGD updates beside it, in [0, 1); None is `momentum`."""
    l1: Number | None = None
    """Penalty l1 * sum |w| in the loss; kernels only."""
    l2: Number | None = None
    """Penalty l2 / 2 * sum w^2 in the loss; kernels only."""
    max_norm: Number | None = None
    """Largest length of a neuron's incoming weights, enforced after each update."""
    clip_norm: Number | None = None
    """Largest global norm of the gradient."""
    mixup: Number | None = None
    """Mixup's alpha: pairs are mixed with a weight drawn from Beta(alpha, alpha)."""
    extra: Mapping[str, Number] = field(default_factory=dict)
    """Numbers of the user's own, for a network, a task or an optimizer that reads them."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Control:
    """All that the loop decides by, so that a checkpoint is the whole truth. Scalars; see `init_control`."""

    best_metric: Array  # f32[]: best value of the watched metric, signed so that larger is better
    best_step: Array  # i32[]: step of that value
    evals_since_best: Array  # i32[]: early stopping counts these
    plateau_metric: Array  # f32[]: best value since the rate was last reduced
    evals_on_plateau: Array  # i32[]
    rate_scale: Array  # f32[]: product of the reductions on plateau
    alive: Array  # bool[]: False once the member has diverged
    bad_steps: Array  # i32[]: steps in a row that were not finite; counted where the config skips them
    skipped: Array  # i32[]: all steps that were skipped, which are in `TrainState.step` too


def init_control() -> Control:
    """A `Control` before the first evaluation. Each leaf is a buffer of its own, so that the state can be donated."""

    def scalar(value: float, dtype: Any) -> Array:
        return jnp.full((), value, dtype)

    return Control(
        best_metric=scalar(-jnp.inf, jnp.float32),
        best_step=scalar(0, jnp.int32),
        evals_since_best=scalar(0, jnp.int32),
        plateau_metric=scalar(-jnp.inf, jnp.float32),
        evals_on_plateau=scalar(0, jnp.int32),
        rate_scale=scalar(1, jnp.float32),
        alive=scalar(True, bool),
        bad_steps=scalar(0, jnp.int32),
        skipped=scalar(0, jnp.int32),
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """One member: arrays only, so it can be printed, saved, stacked and compared."""

    step: Array  # i32[]: steps done
    params: PyTree
    batch_stats: PyTree  # {} for a network without BatchNorm
    opt_state: PyTree
    key: Array  # typed PRNG key; never split and carried, only folded with the step
    hyper: Hyper  # numbers as f32[]
    control: Control
    ema: PyTree = None  # exponential moving average of params, if the config asks for it
    swa: PyTree = None  # running mean of params, if the config asks for it
    snapshots: PyTree = None  # params and batch_stats at the end of every few epochs, [S, ...], if asked for


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metrics:
    """Sums over examples: merged by addition, divided only when shown.

    count: f32[], sum of the weights. sums: name -> f32[], weighted sum of that per-example number.
    """

    count: Array
    sums: dict[str, Array]

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(jnp.add, self, other)


class Applied(NamedTuple):
    """What a forward pass returns."""

    outputs: Array  # f32[B, K] or f32[B, T]
    batch_stats: PyTree  # updated in training, as given in evaluation
    activations: PyTree  # the modules' outputs by path, or None


@dataclass(frozen=True)
class Model:
    """A Linen module as a pair of pure functions. Equal modules are equal models, so compiled programs are shared.

    The module's `__call__` takes the image and, only if its signature names them, `train` and `hyper`.
    """

    module: nn.Module

    def init(self, key: Array, image: Array, hyper: Hyper | None = None) -> tuple[PyTree, PyTree]:
        """Parameters and BatchNorm statistics for images of this shape, f32[B, ...]."""
        variables = self.module.init(key, image, **self._flags(train=False, hyper=hyper))
        return variables.get("params", {}), variables.get("batch_stats", {})

    def apply(
        self,
        params: PyTree,
        batch_stats: PyTree,
        image: Array,
        *,
        train: bool,
        key: Array | None = None,
        hyper: Hyper | None = None,
        activations: bool = False,
    ) -> Applied:
        """The network's outputs for f32[B, ...]; `key` is needed where `train` draws dropout masks."""
        mutable = [name for name, on in [("batch_stats", train), ("intermediates", activations)] if on]
        outputs, updated = self.module.apply(
            {"params": params, "batch_stats": batch_stats},
            image,
            **self._flags(train=train, hyper=hyper),
            rngs={"dropout": key} if train and key is not None else None,
            mutable=mutable,
            capture_intermediates=activations,
        )
        return Applied(outputs, updated.get("batch_stats", batch_stats), updated.get("intermediates"))

    def _flags(self, **flags: Any) -> dict[str, Any]:
        accepted = inspect.signature(type(self.module).__call__).parameters
        return {name: value for name, value in flags.items() if name in accepted}


@runtime_checkable
class Task(Protocol):
    """What the network is for. A frozen dataclass with these functions: one of `tasks.py`, or a user's own."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        """f32[B], the loss that is trained on."""
        ...

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Name -> f32[B], what is reported; "loss" among them (evaluation: without smoothing)."""
        ...

    def predict(self, outputs: Array) -> Any:
        """The answer in the user's terms, for example probabilities and labels."""
        ...
