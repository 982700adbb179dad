"""Weights from along a run: exponential (EMA) and plain (SWA) averages, and snapshots.

Imports `types`. The fact that surprises: the averaged weights need BatchNorm statistics of their own, measured in a
pass over the data, for the running ones belong to the last weights.
"""

import jax
import jax.numpy as jnp

from jaxtrain.types import Array, Number, PyTree


def init_ema(params: PyTree) -> PyTree:
    """A copy of the parameters; the same buffers twice in a state cannot be donated."""
    return jax.tree.map(jnp.copy, params)


def ema_update(ema: PyTree, params: PyTree, decay: Number, step: Array) -> PyTree:
    """decay * ema + (1 - decay) * params, with the decay held at (1 + step) / (10 + step) while that is smaller.

    Args:
      ema: like params, the average so far.
      params: the parameters after the update.
      decay: in [0, 1); may be traced.
      step: i32[], updates done before this one.

    References:
      The warm-up is that of TensorFlow's ExponentialMovingAverage(num_updates).
    """
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: (old + (1 - decay) * (new - old)).astype(old.dtype), ema, params)


def init_swa(params: PyTree) -> PyTree:
    """{"params": a copy of the parameters, "count": i32[] 0}. With count 0 nothing has been averaged yet."""
    return {"params": jax.tree.map(jnp.copy, params), "count": jnp.zeros((), jnp.int32)}


def swa_update(swa: PyTree, params: PyTree) -> PyTree:
    """`swa` with one more set of parameters in its running mean; the first replaces the copy that it began with.

    References:
      Izmailov et al., Averaging Weights Leads to Wider Optima, 2018, https://arxiv.org/abs/1803.05407
    """
    count = swa["count"] + 1
    share = 1 / count.astype(jnp.float32)
    mean = jax.tree.map(lambda old, new: ((1 - share) * old + share * new).astype(old.dtype), swa["params"], params)
    return {"params": mean, "count": count}


def init_snapshots(weights: PyTree, count: int) -> PyTree:
    """Room for `count` snapshots of `weights`: zeros of shape [count, ...]."""
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), weights)


def keep_snapshot(snapshots: PyTree, weights: PyTree, index: Array) -> PyTree:
    """`snapshots` with `weights` at `index` (i32[]).

    References:
      Huang et al., Snapshot Ensembles, 2017, https://arxiv.org/abs/1704.00109
    """
    return jax.tree.map(lambda kept, leaf: kept.at[index].set(leaf), snapshots, weights)
