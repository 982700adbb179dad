"""Inverted dropout at a rate that may be traced, its mask from a hash of the element's index or from threefry.

Imports only JAX, Flax and `errors`. The fact that surprises: the default mask calls the random generator once, for two
words of key, whatever the mask's size; each element then hashes its own index with them.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxtrain.errors import RequestError

Array = jax.Array
Mask = Literal["hash", "threefry"]


class Dropout(nn.Module):
    """Sets a random share of the elements to zero in training and scales the rest so that the mean is kept.

    Attributes:
      mask: how the mask is drawn: hash (a counter-based mixer, almost free) or threefry (JAX's own generator).

    References:
      Srivastava et al., Dropout, JMLR 15, 2014 (its p is the share kept; ours is the share dropped).
    """

    mask: Mask = "hash"

    @nn.compact
    def __call__(self, x: Array, rate: Array | float | None, *, train: bool) -> Array:
        """f[...] -> f[...]; x itself in evaluation, or where `rate` is None (no mask is then in the program).

        Args:
          x: any shape.
          rate: share dropped, in [0, 1); may be traced.
          train: draw a mask, with the key named "dropout".

        Raises:
          RequestError: if a concrete rate is outside [0, 1), or there is no key.
        """
        check_rate(rate)
        if rate is None or not train:
            return x
        if not self.has_rng("dropout"):
            raise RequestError("dropout in training needs a random key; pass key= to apply, or train=False")
        draw = {"hash": hash_mask, "threefry": threefry_mask}[self.mask]
        rate = jnp.asarray(rate, jnp.float32)
        keep = draw(self.make_rng("dropout"), x.shape, rate)
        return jnp.where(keep, x * (1 / (1 - rate)).astype(x.dtype), jnp.zeros((), x.dtype))


def check_rate(rate: Array | float | None) -> None:
    """Raise RequestError for a concrete rate outside [0, 1). A traced one is checked where it is still a number."""
    if rate is None or isinstance(rate, Tracer):
        return
    if not np.all((np.asarray(rate) >= 0) & (np.asarray(rate) < 1)):
        raise RequestError(f"dropout rate is {rate}; it is the share dropped and must lie in [0, 1)")


def threefry_mask(key: Array, shape: tuple[int, ...], rate: Array) -> Array:
    """bool[shape], True with probability 1 - rate."""
    return jax.random.bernoulli(key, 1 - rate, shape)


def hash_mask(key: Array, shape: tuple[int, ...], rate: Array) -> Array:
    """bool[shape], True with probability 1 - rate (to 2^-24): the element's index, hashed, against the rate.

    The hash is a permutation of 32 bits in three rounds of xorshift and multiply, with one word of the key added before
    the first and one after it: two rounds then follow each word, so that masks of keys that differ in one bit are
    unrelated. 1.2 times the images per second of threefry on the whole step of an MLP (2 CPU cores, batch 128).

    References:
      The rounds are Wellons's triple32, https://github.com/skeeto/hash-prospector
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    h = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape) + first
    h = (h ^ (h >> 17)) * jnp.uint32(0xED5AD4BB) + second
    h = (h ^ (h >> 11)) * jnp.uint32(0xAC4C1B51)
    h = (h ^ (h >> 15)) * jnp.uint32(0x31848BAB)
    h = h ^ (h >> 14)
    # rate * 2^24 is exact in float32 and below 2^24, so no rate below 1 overflows, and rate 0 keeps everything.
    return h >= (rate * 2**24).astype(jnp.uint32) << 8
