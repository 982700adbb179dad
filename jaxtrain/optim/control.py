"""What an evaluation changes: the best value, the counters of patience, the reduction of the rate on plateau.

Imports `types` and `config`. The fact that surprises: it is arithmetic on arrays, not `if`s, so each member of an
ensemble has its own plateau.
"""

import dataclasses

import jax.numpy as jnp

from jaxtrain.config import EarlyStopping, Plateau
from jaxtrain.types import Array, Control


def update_control(
    control: Control,
    metric: Array,
    step: Array,
    *,
    plateau: Plateau | None = None,
    early: EarlyStopping | None = None,
) -> Control:
    """`control` after an evaluation that gave `metric` after `step` updates.

    The best value is replaced by any larger one. Patience is stricter: with a `min_delta` only a value that beats the
    best so far by more than it counts as progress, so a creep of smaller gains is a stall.

    Args:
      control: of one member.
      metric: f32[], signed so that larger is better; a non-finite one is never the best and never progress.
      step: i32[], updates done.
      plateau: None leaves `rate_scale` alone.
      early: None counts every new best as progress.
    """
    finite = jnp.isfinite(metric)
    better = finite & (metric > control.best_metric)
    progress = finite & (metric > control.best_metric + (early.min_delta if early else 0.0))
    updated = dataclasses.replace(
        control,
        best_metric=jnp.where(better, metric, control.best_metric),
        best_step=jnp.where(better, step, control.best_step),
        evals_since_best=jnp.where(progress, 0, control.evals_since_best + 1),
    )
    return updated if plateau is None else _reduce_on_plateau(updated, metric, plateau)


def should_stop(control: Control, early: EarlyStopping | None) -> Array:
    """bool[], whether patience is at its end; never without early stopping."""
    return jnp.zeros((), bool) if early is None else control.evals_since_best >= early.patience


def _reduce_on_plateau(control: Control, metric: Array, plateau: Plateau) -> Control:
    """After a reduction the comparison starts again from the value at hand, not from a lucky one of before."""
    finite = jnp.isfinite(metric)
    progress = finite & (metric > control.plateau_metric + plateau.min_delta)
    waited = jnp.where(progress, 0, control.evals_on_plateau + 1)
    reduce = waited >= plateau.patience
    here = jnp.where(finite, metric, -jnp.inf)
    return dataclasses.replace(
        control,
        plateau_metric=jnp.where(progress | reduce, here, control.plateau_metric),
        evals_on_plateau=jnp.where(reduce, 0, waited),
        rate_scale=jnp.where(reduce, control.rate_scale * plateau.factor, control.rate_scale),
    )
