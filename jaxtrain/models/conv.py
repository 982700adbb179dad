"""Convolution and pooling that are fast inside a compiled loop, on a CPU too.

Imports only JAX, Flax, `errors` and `init`. The fact that surprises: on a CPU a convolution inside `fori_loop` or
`scan` leaves XLA's fast library and takes some ten times longer (https://github.com/jax-ml/jax/issues/12868), so there
it is a matrix product of patches.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxtrain.errors import RequestError
from jaxtrain.models.init import Init, initializer

Array = jax.Array
Padding = Literal["SAME", "VALID"]
Method = Literal["auto", "patches", "lax"]


class Conv(nn.Module):
    """A 2-D convolution of images in NHWC; the kernel is f32[height, width, C, features] whatever the method.

    Attributes:
      features: output channels.
      kernel_size: height and width.
      strides: vertical and horizontal step.
      padding: SAME or VALID, as in `lax.conv`.
      use_bias: learn an offset per channel; leave it out before BatchNorm.
      kernel_init: name of the initialisation.
      dtype: of the computation and the output, "float32" or "bfloat16"; None takes the input's.
      method: lax (`lax.conv`), patches (a matrix product), or auto: patches on a CPU.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "SAME"
    use_bias: bool = True
    kernel_init: Init = "he"
    dtype: str | None = None
    method: Method = "auto"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f[B, H, W, C] -> f[B, H', W', features].

        Raises:
          RequestError: if the input has not four axes, or is smaller than the kernel without padding.
        """
        check_input("/".join(self.path) or "Conv", x.shape, self.kernel_size, self.padding)
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializer(self.kernel_init), shape)
        y = convolve(x, kernel, self.strides, self.padding, dtype=self.dtype, method=self.method)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype).reshape(1, 1, 1, -1)
        return y


def check_input(name: str, shape: tuple[int, ...], kernel_size: tuple[int, int], padding: Padding) -> None:
    """Raise RequestError where the layer of this name cannot convolve an input of this shape."""
    if len(shape) != 4:
        raise RequestError(f"{name} needs images of shape [B, H, W, C]; it got {shape}")
    if padding == "VALID" and (shape[1] < kernel_size[0] or shape[2] < kernel_size[1]):
        raise RequestError(f"{name}'s kernel {kernel_size} is larger than its input {shape}; use padding SAME")


def convolve(
    x: Array,
    kernel: Array,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    *,
    dtype: str | None = None,
    method: Method = "auto",
) -> Array:
    """f[B, H, W, C], f[h, w, C, D] -> f[B, H', W', D], in `dtype` (None: the input's), as `Conv` chooses the method."""
    kind = jnp.dtype(dtype or x.dtype)
    by_patches = method == "patches" or (method == "auto" and jax.default_backend() == "cpu")
    return (conv_patches if by_patches else conv_lax)(x.astype(kind), kernel.astype(kind), strides, padding)


def conv_lax(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    """The convolution by XLA's own operation: f[B, H, W, C], f[h, w, C, D] -> f[B, H', W', D]."""
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_patches(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    """The same, as one matrix product: of columns where that makes for smaller matrices, and else of windows."""
    height, width, channels, features = kernel.shape
    if strides == (1, 1) and height * channels + width * features <= height * width * channels:
        return conv_columns(x, kernel, padding)
    return conv_windows(x, kernel, strides, padding)


def conv_windows(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    """The same, as one matrix product in which the window of each output position is a row."""
    height, width, channels, features = kernel.shape
    parts = windows(x, (height, width), strides, padding)
    shape = parts[0].shape[:-1]
    patches = jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    # Two axes, not four: XLA's CPU matmul of the four-axis form is slower by a third of the whole training step.
    y = patches.reshape(-1, height * width * channels) @ kernel.reshape(-1, features)
    return y.reshape(*shape, features)


def conv_columns(x: Array, kernel: Array, padding: Padding) -> Array:
    """The same with strides of 1: a product for each column of the kernel, in one; each adds to its neighbours.

    Less is copied together than for whole windows: 1.1 times the images per second of a CNN's training (two CPU cores,
    32 to 64 channels; without this file's pooling and BatchNorm's derivative it gains nothing).
    """
    height, width, channels, features = kernel.shape
    pads = lax.padtype_to_pads(x.shape[1:3], (height, width), (1, 1), padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    batch, rows, columns = x.shape[0], x.shape[1] - height + 1, x.shape[2]
    pixels = jnp.concatenate([x[:, i : i + rows] for i in range(height)], axis=-1)
    side_by_side = kernel.transpose(0, 2, 1, 3).reshape(height * channels, width * features)
    parts = (pixels.reshape(-1, height * channels) @ side_by_side).reshape(batch, rows, columns, width * features)
    last = columns - width + 1
    return functools.reduce(
        jnp.add, [parts[:, :, j : j + last, j * features : (j + 1) * features] for j in range(width)]
    )


def windows(x: Array, kernel_size: tuple[int, int], strides: tuple[int, int], padding: Padding) -> list[Array]:
    """For each position in the kernel, row by row, the pixels that it is multiplied with: f[B, H', W', C] each."""
    pads = lax.padtype_to_pads(x.shape[1:3], kernel_size, strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    last = [size - kernel for size, kernel in zip(x.shape[1:3], kernel_size, strict=True)]
    (rows, columns), (down, right) = kernel_size, strides
    return [x[:, i : i + last[0] + 1 : down, j : j + last[1] + 1 : right] for i in range(rows) for j in range(columns)]


def max_pool(x: Array, size: int = 2) -> Array:
    """Maximum over windows of size x size that do not overlap: f[B, H, W, C] -> f[B, H // size, W // size, C].

    Rows and columns that fill no window are left out, as with padding VALID. The gradient goes to the first of equal
    largest values, as that of `reduce_window` does, which is slow on a CPU.
    """
    return _block_max(_blocks(x, size))


@jax.custom_jvp
def _block_max(x: Array) -> Array:
    """f[B, H, s, W, s, C] -> f[B, H, W, C].

    The largest of slices: `max` over the two axes, and the sums in its derivative, are loops of their own on a CPU,
    which read and write everything once more. The derivative goes by the place of the largest value, for the reason
    given at `global_max_pool`, and keeps one byte a block for it.
    """
    return functools.reduce(jnp.maximum, _corners(x))


@_block_max.defjvp
def _block_max_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    rows, columns = x.shape[2], x.shape[4]
    y, *others = _corners(x)
    number = jnp.uint8 if rows * columns <= 256 else jnp.int32
    place = jnp.zeros(y.shape, number)
    for k, corner in enumerate(others, start=1):
        place = jnp.where(corner > y, number(k), place)
        y = jnp.maximum(y, corner)
    places = jnp.arange(rows * columns, dtype=number).reshape(1, 1, rows, 1, columns, 1)
    return y, jnp.where(place[:, :, None, :, None] == places, dx, 0).sum((2, 4))


def _corners(x: Array) -> list[Array]:
    """For each position in a block, all blocks' values there: f[B, H, W, C] each."""
    return [x[:, :, i, :, j] for i in range(x.shape[2]) for j in range(x.shape[4])]


def avg_pool(x: Array, size: int = 2) -> Array:
    """Mean over windows of size x size that do not overlap; rows and columns that fill no window are left out."""
    return _blocks(x, size).mean((2, 4))


def global_max_pool(x: Array) -> Array:
    """Maximum over all positions: f[B, H, W, C] -> f[B, C]. The gradient goes to the first of equal largest values.

    By the place of the largest value, not by comparing with it, as the derivative of `max` does: XLA computes x again
    in the backward pass, under vmap on a CPU with other last bits, and then the largest value is found nowhere and its
    gradient is lost (seen behind GELU and BatchNorm, jax 0.10.2 and 0.12.0).
    """
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    place = jnp.argmax(flat, axis=1)
    is_largest = lax.broadcasted_iota(place.dtype, flat.shape, 1) == place[:, None]
    return jnp.sum(jnp.where(is_largest, flat, jnp.zeros((), x.dtype)), axis=1)


def global_avg_pool(x: Array) -> Array:
    """Mean over all positions: f[B, H, W, C] -> f[B, C]."""
    return x.mean((1, 2))


def _blocks(x: Array, size: int) -> Array:
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    if rows == 0 or columns == 0:
        raise RequestError(
            f"pooling over {size} x {size} leaves nothing of {height} x {width} positions;"
            " use larger images or fewer stages"
        )
    x = x[:, : rows * size, : columns * size]
    return x.reshape(batch, rows, size, columns, size, channels)
