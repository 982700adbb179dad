"""`Hyper` and a schedule to an Optax chain, and what Optax lacks: max-norm, freezing, and freezing by and by.

Imports `types`, `config`, `muon` and Optax. The fact that surprises: the numbers may be traced. The chain is built
again inside each step, so one compiled program serves every learning rate, and `vmap` gives each member its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtrain.config import Adam, Muon, Sgd, UnitSchedule
from jaxtrain.optim.muon import hidden_mask, hold_norm, orthogonalise
from jaxtrain.optim.parameters import kernel_mask, named_mask
from jaxtrain.types import Array, Hyper, Number, PyTree

ADAM = Adam()


def optimizer(hyper: Hyper, schedule: UnitSchedule, rule: Adam | Sgd | Muon = ADAM) -> optax.GradientTransformation:
    """The whole update rule as one Optax transformation; a field of `hyper` that is None leaves its stage out.

    In this order, with g the gradient, f the schedule and theta the parameters before the update:

        g      <- g min(1, clip_norm / ||g||)                       clip_norm, over all parameters
        u      <- Adam(g), momentum(g) or Muon(g)                   rule
        theta' <- theta - learning_rate f(step) (u + weight_decay theta)        decay="lr"
        theta' <- theta - f(step) (learning_rate u + weight_decay theta)        decay="paper"
        theta' <- theta' with hidden kernels brought to the length of the root of their outputs before      hold_norm
        theta' <- theta' with each neuron's incoming weights no longer than max_norm

    With Muon the learning rate of all but hidden kernels is times rest_rate, and rest_momentum, where it is a number,
    is their momentum. A reduction of the rate on plateau belongs
    into the schedule, `lambda step: schedule(step) * rate_scale`, which then scales the paper's decay too. Adam without
    momentum (None) is Adam with beta1 = 0. Momentum is g + momentum * m, as in torch, not an average. The step that f
    gets is the chain's own count of updates.

    Args:
      hyper: numbers may be traced; which fields are None decides the structure of the optimizer state.
      schedule: i32[] -> f32[], from `make_schedule`.
      rule: Adam, Sgd or Muon with their static choices.

    References:
      Kingma and Ba, Adam, 2014, https://arxiv.org/abs/1412.6980
      Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2017, https://arxiv.org/abs/1711.05101, Algorithm 2
    """
    stages = [] if hyper.clip_norm is None else [optax.clip_by_global_norm(hyper.clip_norm)]
    stages += _direction(hyper, rule)
    if rule.decay == "lr":
        stages += [*_decay(hyper, rule), *_rest_rate(hyper, rule)]
        stages += [optax.scale_by_schedule(lambda step: -hyper.learning_rate * schedule(jnp.asarray(step)))]
    else:
        stages += [*_rest_rate(hyper, rule), optax.scale(hyper.learning_rate), *_decay(hyper, rule)]
        stages += [optax.scale_by_schedule(lambda step: -schedule(jnp.asarray(step)))]
    if isinstance(rule, Muon) and rule.hold_norm:
        stages += [hold_norm(rule.rest)]
    if hyper.max_norm is not None:
        stages += [max_norm(hyper.max_norm)]
    return optax.chain(*stages)


def max_norm(bound: Number) -> optax.GradientTransformation:
    """Shorten the updates so that afterwards ||incoming weights of each neuron||_2 <= bound (up to rounding).

    Kernels only (`kernel_mask`); the last axis counts the neurons, all others are incoming, as in Dense and Conv. It
    must come last in a chain, for it speaks of the weights after the update.

    References:
      Srivastava et al., Dropout, JMLR 15, 2014; CS231n, https://cs231n.github.io/neural-networks-2/#reg
    """

    def shorten(update: Array, param: Array, is_kernel: bool) -> Array:
        if not is_kernel:
            return update
        new = param + update
        length = jnp.sqrt(jnp.sum(jnp.square(new), axis=tuple(range(new.ndim - 1)), keepdims=True))
        # Where nothing is too long the update passes through untouched, without the rounding of new - param.
        return jnp.where(length > bound, new * (bound / length) - param, update)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("max_norm bounds the parameters, but update() was called without them; pass params")
        return jax.tree.map(shorten, updates, params, kernel_mask(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def freeze(inner: optax.GradientTransformation, frozen: PyTree) -> optax.GradientTransformation:
    """`inner` on the parameters where `frozen` is False; updates of exactly 0 where it is True.

    Frozen parameters have no optimizer state and take no part in the global norm; nor does a decay touch them.

    Args:
      inner: any transformation.
      frozen: tree of bools like the parameters, from `frozen_mask`.
    """
    trained = jax.tree.map(lambda is_frozen: not is_frozen, frozen)
    return optax.chain(optax.masked(inner, trained), optax.masked(optax.set_to_zero(), frozen))


def fade(path: str, num_steps: int, steps_back: int = 0) -> optax.GradientTransformation:
    """Updates of the parameters at `path` times 1 - step / num_steps, on top of any schedule; 0 from there on.

    Args:
      path: whole names from the beginning, as in `frozen_mask`.
      num_steps: after which they are frozen.
      steps_back: of the step that is repeated, by the chain's own count.

    References:
      Jordan, 2024, https://arxiv.org/abs/2404.00498, section 3.2 (the whitening layer's bias)
    """

    def left(step: Any) -> Array:
        return jnp.maximum(1 - jnp.maximum(step - steps_back, 0) / num_steps, 0.0)

    def mask(params: PyTree) -> PyTree:
        return named_mask(params, (path,), "config.frozen_after")

    return optax.masked(optax.scale_by_schedule(left), mask)


def _direction(hyper: Hyper, rule: Adam | Sgd | Muon) -> list[optax.GradientTransformation]:
    if isinstance(rule, Adam):
        momentum = 0.0 if hyper.momentum is None else hyper.momentum
        return [optax.scale_by_adam(momentum, hyper.beta2, rule.epsilon, nesterov=rule.nesterov)]
    if isinstance(rule, Sgd):
        return [] if hyper.momentum is None else [optax.trace(hyper.momentum, rule.nesterov)]
    hidden, others = _hidden_and_others(rule)
    if hyper.rest_momentum is None:
        stages = [] if hyper.momentum is None else [optax.trace(hyper.momentum, nesterov=True)]
    else:
        stages = [optax.masked(optax.trace(hyper.rest_momentum, nesterov=True), others)]
        stages += [] if hyper.momentum is None else [optax.masked(optax.trace(hyper.momentum, nesterov=True), hidden)]
    return [*stages, optax.masked(orthogonalise(rule.steps), hidden)]


def _rest_rate(hyper: Hyper, rule: Adam | Sgd | Muon) -> list[optax.GradientTransformation]:
    """Muon's factor of the rate of all but hidden kernels."""
    if not isinstance(rule, Muon) or hyper.rest_rate is None:
        return []
    _, others = _hidden_and_others(rule)
    return [optax.masked(optax.scale(hyper.rest_rate), others)]


def _hidden_and_others(rule: Muon) -> tuple[Callable[[PyTree], PyTree], Callable[[PyTree], PyTree]]:
    """The masks of what Muon updates, and of what SGD does."""

    def hidden(params: PyTree) -> PyTree:
        return hidden_mask(params, rule.rest)

    return hidden, lambda params: jax.tree.map(lambda is_hidden: not is_hidden, hidden(params))


def _decay(hyper: Hyper, rule: Adam | Sgd | Muon) -> list[optax.GradientTransformation]:
    if hyper.weight_decay is None:
        return []
    mask = kernel_mask if rule.decay_mask == "kernels" else None
    return [optax.add_decayed_weights(hyper.weight_decay, mask)]
