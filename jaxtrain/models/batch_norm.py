"""Batch normalization as the paper has it, with running averages that can be used from the first step on.

Imports only JAX, Flax and `errors`. The fact that surprises: the averages are debiased, so after one update they *are*
that batch's mean and unbiased variance. Flax's start at 0 and 1 and, with its default momentum, still hold a third of
that after 100 steps.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtrain.errors import RequestError

Array = jax.Array


class BatchNorm(nn.Module):
    """Normalises each channel over the batch and all positions; between a layer without bias and its nonlinearity.

    Training uses the batch's mean and biased variance (Algorithm 1) and updates `batch_stats`; evaluation uses the
    running mean and variance, the variance kept being the unbiased one, m / (m - 1), with m values a channel.
    Statistics are float32 whatever the dtype of the input.

    Attributes:
      momentum: weight of the old value in the running averages, in [0, 1).
      epsilon: added to the variance.
      use_scale: learn gamma, a factor per channel.
      use_bias: learn beta, an offset per channel.
      initial_scale: gamma at the start; 0 makes a residual block begin as the identity.
      dtype: of the output, "float32" or "bfloat16"; None takes the input's.

    References:
      Ioffe & Szegedy, Batch Normalization, 2015, https://arxiv.org/abs/1502.03167
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    initial_scale: float = 1.0
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """f[B, ..., C] -> f[B, ..., C].

        Raises:
          RequestError: in training, if there is one value per channel, whose variance is no estimate of anything.
        """
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        # Float, so that statistics can be averaged leaf by leaf. It stands still at 2^24, when its weight is long gone.
        count = self.variable("batch_stats", "count", jnp.zeros, ())
        scale, bias = jnp.ones(channels), jnp.zeros(channels)
        if self.use_scale:
            scale = self.param("scale", nn.initializers.constant(self.initial_scale), (channels,))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,))
        values = x.astype(jnp.float32)
        if not train:
            y = _normalised(values, running_mean.value, running_var.value, scale, bias, self.epsilon)
            return y.astype(self.dtype or x.dtype)
        num_values = self._num_values(x)
        y, mean, var = normalise_batch(self.epsilon, values, scale, bias)
        if not self.is_initializing():
            unbiased = jax.lax.stop_gradient(var) * (num_values / (num_values - 1))
            weight = update_weight(self.momentum, count.value)
            running_mean.value = _average(running_mean.value, jax.lax.stop_gradient(mean), weight)
            running_var.value = _average(running_var.value, unbiased, weight)
            count.value = count.value + 1
        return y.astype(self.dtype or x.dtype)

    def _num_values(self, x: Array) -> int:
        if not 0 <= self.momentum < 1:
            raise RequestError(f"BatchNorm's momentum is {self.momentum}; it must lie in [0, 1)")
        num_values = math.prod(x.shape[:-1])
        if num_values < 2:
            raise RequestError(
                f"{'/'.join(self.path) or 'BatchNorm'} got {num_values} value per channel to average in training"
                f" (input of shape {x.shape}); use (micro-)batches of 2 examples or more, or no BatchNorm"
            )
        return num_values


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def normalise_batch(epsilon: float, x: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    """f32[B, ..., C] normalised by its own mean and biased variance, times `scale`, plus `bias`; the two moments too.

    Its derivative is written down, grouped so that its transpose is the short form of the paper's backward pass, with
    two sums over the batch and one pass over x. That of the code below takes twice as many passes, and memory is what a
    CNN's step spends most of its time on (1.03 times the images per second, CPU, batch 128).

    References:
      Ioffe & Szegedy, Batch Normalization, 2015, section 3, https://arxiv.org/abs/1502.03167
    """
    mean, var = batch_moments(x)
    return _normalised(x, mean, var, scale, bias, epsilon), mean, var


@normalise_batch.defjvp
def _normalise_batch_jvp(epsilon: float, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (x, scale, bias), (dx, dscale, dbias) = primals, tangents
    y, mean, var = normalise_batch(epsilon, x, scale, bias)
    axes, factor = tuple(range(x.ndim - 1)), jax.lax.rsqrt(var + epsilon)
    normalised = (x - _wide(mean, x.ndim)) * _wide(factor, x.ndim)
    dmean, along = dx.mean(axes), (normalised * dx).mean(axes)
    slope = scale * factor
    dy = (
        _wide(slope, x.ndim) * dx
        + normalised * _wide(dscale - slope * along, x.ndim)
        + _wide(dbias - slope * dmean, x.ndim)
    )
    return (y, mean, var), (dy, dmean, 2 * along / factor)


def _normalised(x: Array, mean: Array, var: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    factor = jax.lax.rsqrt(var + epsilon) * scale
    return (x - _wide(mean, x.ndim)) * _wide(factor, x.ndim) + _wide(bias, x.ndim)


def batch_moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance over all axes but the last: f32[B, ..., C] -> f32[C], f32[C].

    In one pass, E[x^2] - E[x]^2 of data shifted by the mean of its first example, which is near enough to the data's
    that nothing cancels. Unshifted, data with mean 1000 and deviation 0.1 gets a variance that is off by its own size.
    Images on a CPU take two passes: x less its mean is then an array that is needed again (1.05 times the images per
    second of a CNN's training on 2 CPU cores; an MLP's is slower by as much).
    """
    axes = tuple(range(x.ndim - 1))
    if x.ndim > 2 and jax.default_backend() == "cpu":
        mean = x.mean(axes)
        return mean, jnp.square(x - _wide(mean, x.ndim)).mean(axes)
    shift = jax.lax.stop_gradient(x[0].mean(axes[:-1]))
    shifted = x - _wide(shift, x.ndim)
    mean = shifted.mean(axes)
    var = jnp.square(shifted).mean(axes) - jnp.square(mean)
    return mean + shift, jnp.maximum(var, 0)


def update_weight(momentum: float, count: Array) -> Array:
    """Weight of a new value in a debiased average of `count` values, f32[]: (1 - m) / (1 - m^t) at the t-th value."""
    log_momentum = math.log(momentum) if momentum else -math.inf
    weight = (momentum - 1) / jnp.expm1((count + 1) * log_momentum)
    return jnp.where(count == 0, 1.0, weight)  # exactly 1, so that one update leaves nothing of the start


def reset_batch_stats(batch_stats: Any) -> Any:
    """`batch_stats` as before the first update, where they are our BatchNorm's; others stay as they are.

    One update from here leaves exactly that batch's mean and unbiased variance; Algorithm 2's population statistics
    are the averages of those over many batches.
    """
    if not isinstance(batch_stats, Mapping):
        return batch_stats
    if _is_own(batch_stats):
        start = {"mean": jnp.zeros_like, "var": jnp.ones_like, "count": jnp.zeros_like}
        return {name: start[name](value) for name, value in batch_stats.items()}
    return {name: reset_batch_stats(value) for name, value in batch_stats.items()}


def is_own_batch_stats(batch_stats: Any) -> bool:
    """Whether every running average is our BatchNorm's: Flax's keep no count. True of a network that has none."""
    if not isinstance(batch_stats, Mapping):
        return False
    return _is_own(batch_stats) or all(is_own_batch_stats(value) for value in batch_stats.values())


def _is_own(node: Mapping[str, Any]) -> bool:
    return node.keys() == {"mean", "var", "count"} and not any(isinstance(value, Mapping) for value in node.values())


def _wide(vector: Array, ndim: int) -> Array:
    """f32[C] -> f32[1, ..., 1, C]: shapes are made to fit in the open, for broadcasting hides mistakes."""
    return vector.reshape((1,) * (ndim - 1) + (-1,))


def _average(old: Array, new: Array, weight: Array) -> Array:
    return (1 - weight) * old + weight * new
