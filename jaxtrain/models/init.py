"""Initialisations and activations by name, so that a network's fields are words that a config can hold.

Imports only JAX, Flax and `errors`. The fact that surprises: `he` is the plain normal distribution of the paper and of
cs231n; Flax's `he_normal` cuts it at two deviations.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtrain.errors import RequestError

Init = Literal["he", "glorot", "lecun", "small", "zeros", "dirac"]
Activation = Literal["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"]

_variance = nn.initializers.variance_scaling


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel f[..., inputs, outputs] that passes its inputs on: output i is input i at the middle of the window.

    Outputs beyond the inputs are drawn uniformly with deviation sqrt(1 / (3 n)).
    """
    kernel = _variance(1 / 3, "fan_in", "uniform")(key, shape, dtype)
    inputs, outputs = shape[-2:]
    identity = jnp.zeros(shape, dtype).at[tuple(side // 2 for side in shape[:-2])].set(jnp.eye(inputs, outputs))
    return kernel.at[..., :inputs].set(identity[..., :inputs])


_INITIALIZERS: dict[str, Callable[..., Any]] = {
    "he": _variance(2.0, "fan_in", "normal"),
    "glorot": _variance(1.0, "fan_avg", "normal"),
    "lecun": _variance(1.0, "fan_in", "normal"),
    "small": nn.initializers.normal(0.01),
    "zeros": nn.initializers.zeros,
    "dirac": dirac,
}


def initializer(name: Init) -> Callable[..., Any]:
    """(key, shape, dtype) -> Array, by name.

    he: deviation sqrt(2 / n), for ReLU; glorot: sqrt(2 / (n + outputs)), for tanh and sigmoid; lecun: sqrt(1 / n), for
    linear outputs; small: 0.01; zeros; dirac: the identity, as far as there are inputs. n is the number of inputs to a
    neuron, positions of the kernel included.

    References:
      He et al., Delving Deep into Rectifiers, 2015, https://arxiv.org/abs/1502.01852
      Glorot & Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010
      Zagoruyko & Komodakis, DiracNets, 2017, https://arxiv.org/abs/1706.00388; Jordan, 2024,
      https://arxiv.org/abs/2404.00498, section 3.3 (dirac, and the outputs beyond)
    """
    return _INITIALIZERS[_known("initialisation", name, get_args(Init))]


def activation(name: Activation) -> Callable[[jax.Array], jax.Array]:
    """The elementwise function of that name in `flax.linen`."""
    return getattr(nn, _known("activation", name, get_args(Activation)))


def _known(kind: str, name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise RequestError(f"unknown {kind} {name!r}; choose one of {', '.join(names)}")
    return name
