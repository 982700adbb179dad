"""A network whose parts can be made wrong, and a task whose loss is: what the corpus plants faults in.

Imports jaxtrain as a user would. The fact that surprises: with its defaults `Stack` is a healthy network, so that a
fault is one field, and all else is the same to the letter.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxtrain as jt
from jaxtrain.models import Conv, max_pool
from jaxtrain.models.init import activation
from jaxtrain.tasks import Classification

Array = jax.Array


class Stack(nn.Module):
    """Convolutions, each with pooling, then dense layers; any of them may be none.

    Attributes:
      num_outputs: classes or targets.
      features: channels of each convolution.
      hidden: width of each dense layer.
      norm: none, batch (jaxtrain's), or stale: Flax's with a momentum at which the averages hardly move.
      nonlinearity: of all layers.
      gain: deviation of the kernels, in those of He's initialisation.
      shift: initial bias of all layers but the last.
      end: logits, or softmax: probabilities where the loss expects logits.
    """

    num_outputs: int = 10
    features: tuple[int, ...] = ()
    hidden: tuple[int, ...] = (128, 128)
    norm: Literal["none", "batch", "stale"] = "none"
    momentum: float = 0.9
    nonlinearity: Any = "relu"
    gain: float = 1.0
    shift: float = 0.0
    end: Literal["logits", "softmax"] = "logits"

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Any) -> Array:
        init = nn.initializers.variance_scaling(2.0 * self.gain**2, "fan_in", "normal")
        x = image
        for features in self.features:
            x = self._after(Conv(features, use_bias=False)(x), train)
            x = max_pool(x)
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            bias = nn.initializers.constant(self.shift)
            x = self._after(nn.Dense(width, kernel_init=init, bias_init=bias, use_bias=self.norm == "none")(x), train)
            x = jt.Dropout()(x, hyper.dropout_rate, train=train)
        x = nn.Dense(self.num_outputs, kernel_init=nn.initializers.normal(0.01), name="outputs")(x)
        return nn.softmax(x) if self.end == "softmax" else x

    def _after(self, x: Array, train: bool) -> Array:
        if self.norm == "batch":
            x = jt.BatchNorm(momentum=self.momentum)(x, train=train)
        if self.norm == "stale":
            x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(x)
        return activation(self.nonlinearity)(x)


@dataclass(frozen=True)
class Negated(Classification):
    """The log-likelihood where its negative was meant, held so that it does not end at once."""

    def loss(self, outputs: Array, batch: Any, hyper: Any) -> Array:
        return -jnp.minimum(super().loss(outputs, batch, hyper), 50.0)


@dataclass(frozen=True)
class Shifted(Classification):
    """Compares the outputs with the label of the example before."""

    def loss(self, outputs: Array, batch: Any, hyper: Any) -> Array:
        return super().loss(outputs, batch._replace(label=jnp.roll(batch.label, 1)), hyper)
