"""Losses of single examples, f32[B], not reduced: the step takes the mean.

Imports `types` and chex. The fact that surprises: shapes are checked strictly, because labels of shape (B, 1) would
broadcast to (B, B) without a word.
"""

import chex
import jax
import jax.numpy as jnp

from jaxtrain.types import Array, Number


def cross_entropy(logits: Array, label: Array, label_smoothing: Number | None = None) -> Array:
    """-sum_k target_k log softmax(logits)_k; exp(-logits) is nowhere formed, so logits of 1e4 are fine.

    Args:
      logits: f32[B, K], unnormalised log-probabilities; -inf rules a class out.
      label: i32[B] classes, or f32[B, K] probabilities (after mixup).
      label_smoothing: in [0, 1): share s of the label spread evenly, (1 - s) target + s / K; may be traced. None: none.

    Returns:
      f32[B], nats per example.

    Raises:
      AssertionError: shapes that do not fit, for example labels of shape (B, 1).

    References:
      Szegedy et al., Rethinking the Inception Architecture, 2015, https://arxiv.org/abs/1512.00567, section 7
    """
    chex.assert_rank(logits, 2)
    if jnp.issubdtype(label.dtype, jnp.integer):
        chex.assert_shape(label, logits.shape[:1])
        # As probabilities, not by indexing: the gradient of a gather is a scatter, slower and no clearer.
        target = jax.nn.one_hot(label, logits.shape[1])
    else:
        chex.assert_equal_shape([logits, label])
        target = label
    if label_smoothing is not None:
        target = (1 - label_smoothing) * target + label_smoothing / logits.shape[1]
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    # A target of 0 on a class that is ruled out is 0, not 0 * -inf.
    return -jnp.sum(jnp.where(target == 0, 0.0, target * log_probability), axis=1)


def squared_error(outputs: Array, target: Array) -> Array:
    """Mean over the targets of (output - target)^2, f32[B], without one half; f32[B, T] both.

    The mean and not the sum, so that the loss is the mean squared error whatever T is.
    """
    chex.assert_rank([outputs, target], 2)
    chex.assert_equal_shape([outputs, target])
    return jnp.mean(jnp.square(outputs - target), axis=1)


def absolute_error(outputs: Array, target: Array) -> Array:
    """Mean over the targets of |output - target|, f32[B]; f32[B, T] both."""
    chex.assert_rank([outputs, target], 2)
    chex.assert_equal_shape([outputs, target])
    return jnp.mean(jnp.abs(outputs - target), axis=1)
