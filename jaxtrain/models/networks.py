"""The shipped networks: Linear, MLP, CNN, ResNet, Airbench.

Imports `types` and its sibling layers. The fact that surprises: a network is nothing but its fields. Equal fields are
equal networks, so compiled programs are shared, and a run is rebuilt from its JSON.

Every network takes f32[B, ...] images and gives f32[B, num_outputs]. `hyper.dropout_rate` acts on hidden units and
`hyper.input_dropout_rate` on the input; without `hyper`, or where a rate is None, nothing is dropped. Parameters and
outputs are float32; `dtype` is that of the computation between them. A layer before BatchNorm has no bias: its true
gradient is zero, and Adam would turn the rounding noise into steps of full size.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtrain.models.batch_norm import BatchNorm
from jaxtrain.models.conv import Conv, avg_pool, global_avg_pool, global_max_pool, max_pool
from jaxtrain.models.dropout import Dropout
from jaxtrain.models.init import Activation, Init, activation, initializer
from jaxtrain.models.whitening import PatchWhitening
from jaxtrain.types import Hyper, Number

Array = jax.Array
Dtype = Literal["float32", "bfloat16"]

OUTPUT_DEVIATION = 0.28
"""Of Airbench's last kernel at the start, where the source has 1 and divides the outputs by the width alone: a gradient
step then moves the outputs 12.8 times as far, and the rate that is right for the biases is right here too (the source
has a rate for each, 0.053 and 0.67)."""


class Linear(nn.Module):
    """Softmax or linear regression: one layer.

    Attributes:
      num_outputs: classes or regression targets.
      kernel_init: initialisation of the kernel.
    """

    num_outputs: int = 10
    kernel_init: Init = "small"

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper | None = None) -> Array:
        """f32[B, ...] -> f32[B, num_outputs]."""
        x = _drop_input(image, hyper, train)
        return nn.Dense(self.num_outputs, kernel_init=initializer(self.kernel_init), name="outputs")(_flatten(x))


class MLP(nn.Module):
    """Fully connected layers, each with BatchNorm, a nonlinearity and dropout.

    Attributes:
      num_outputs: classes or regression targets.
      hidden: width of each hidden layer.
      batch_norm: normalise each hidden layer before its nonlinearity.
      activation: nonlinearity of the hidden layers.
      kernel_init: initialisation of the hidden kernels; he for ReLU, glorot for tanh and sigmoid.
      dtype: of the computation; parameters and outputs are float32.
    """

    num_outputs: int = 10
    hidden: tuple[int, ...] = (512, 512)
    batch_norm: bool = True
    activation: Activation = "relu"
    kernel_init: Init = "he"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper | None = None) -> Array:
        """f32[B, ...] -> f32[B, num_outputs]."""
        x = _flatten(_drop_input(image, hyper, train)).astype(self.dtype)
        for width in self.hidden:
            x = _dense(x, width, self.batch_norm, self.kernel_init, self.dtype)
            x = BatchNorm()(x, train=train) if self.batch_norm else x
            x = Dropout()(activation(self.activation)(x), _hidden_rate(hyper), train=train)
        return _outputs(x, self.num_outputs)


class CNN(nn.Module):
    """Stages of 3x3 convolutions, each halved by pooling, then a hidden layer; dropout on the hidden layer.

    Attributes:
      num_outputs: classes or regression targets.
      features: channels of each stage; the image is halved after each.
      convs_per_stage: convolutions before each pooling.
      hidden: width of the layer between the last stage and the outputs; 0 leaves it out.
      pool: max or avg, over 2 x 2.
      batch_norm: normalise each layer before its nonlinearity.
      activation: nonlinearity.
      kernel_init: initialisation of the kernels.
      dtype: of the computation; parameters and outputs are float32.
    """

    num_outputs: int = 10
    features: tuple[int, ...] = (32, 64)
    convs_per_stage: int = 1
    hidden: int = 128
    pool: Literal["max", "avg"] = "max"
    batch_norm: bool = True
    activation: Activation = "relu"
    kernel_init: Init = "he"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper | None = None) -> Array:
        """f32[B, H, W, C] or f32[B, H, W] -> f32[B, num_outputs]."""
        x = _with_channels(_drop_input(image, hyper, train)).astype(self.dtype)
        pool = {"max": max_pool, "avg": avg_pool}[self.pool]
        for features in self.features:
            for _ in range(self.convs_per_stage):
                x = Conv(features, use_bias=not self.batch_norm, kernel_init=self.kernel_init)(x)
                x = self._normalise_activate(x, train)
            x = pool(x)
        x = _flatten(x)
        if self.hidden:
            x = _dense(x, self.hidden, self.batch_norm, self.kernel_init, self.dtype)
            x = self._normalise_activate(x, train)
        return _outputs(Dropout()(x, _hidden_rate(hyper), train=train), self.num_outputs)

    def _normalise_activate(self, x: Array, train: bool) -> Array:
        x = BatchNorm()(x, train=train) if self.batch_norm else x
        return activation(self.activation)(x)


class ResNet(nn.Module):
    """Residual network for small images: a 3x3 stem, stages of blocks, the mean over positions, dropout, outputs.

    Each stage but the first halves the image in its first block. Two convolutions a block, and BatchNorm everywhere.

    Attributes:
      num_outputs: classes or regression targets.
      widths: channels of each stage.
      blocks_per_stage: residual blocks in each stage.
      stem_pool: halve the image after the stem (max, 2 x 2): a quarter of the work at equal widths.
      shortcut: how a block that changes the shape passes its input on; conv is a strided 1x1 convolution with
        BatchNorm, pad takes every second pixel and adds empty channels, with no parameters.
      zero_init: begin each block as the identity (the scale of its last BatchNorm is 0).
      activation: nonlinearity.
      kernel_init: initialisation of the kernels.
      dtype: of the computation; parameters and outputs are float32.

    References:
      He et al., Deep Residual Learning for Image Recognition, 2015, https://arxiv.org/abs/1512.03385, section 4.2
    """

    num_outputs: int = 10
    widths: tuple[int, ...] = (16, 32, 64)
    blocks_per_stage: int = 1
    stem_pool: bool = False
    shortcut: Literal["conv", "pad"] = "conv"
    zero_init: bool = True
    activation: Activation = "relu"
    kernel_init: Init = "he"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper | None = None) -> Array:
        """f32[B, H, W, C] or f32[B, H, W] -> f32[B, num_outputs]."""
        x = _with_channels(_drop_input(image, hyper, train)).astype(self.dtype)
        x = Conv(self.widths[0], use_bias=False, kernel_init=self.kernel_init)(x)
        x = activation(self.activation)(BatchNorm()(x, train=train))
        x = max_pool(x) if self.stem_pool else x
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks_per_stage):
                stride = 2 if stage and not block else 1
                fields = (self.shortcut, self.zero_init, self.activation, self.kernel_init)
                x = ResidualBlock(width, stride, *fields)(x, train=train)
        x = Dropout()(global_avg_pool(x), _hidden_rate(hyper), train=train)
        return _outputs(x, self.num_outputs)


class Airbench(nn.Module):
    """The network of the fastest trainings on CIFAR-10: whitened patches, then stages that pool before they normalise.

    A stage is a 3x3 convolution, max-pooling, BatchNorm and the nonlinearity, then once more without pooling. BatchNorm
    has no scale. After the last stage each channel's largest value goes to outputs without offset. The first layer's
    kernel comes from the training images: keep it with `config.frozen=("whitening/kernel",)`.

    Attributes:
      num_outputs: classes or regression targets.
      widths: channels of each stage; the image is halved in each.
      patch_size: side of the patches that are whitened.
      norm_momentum: of BatchNorm's running averages; a short run needs a short memory.
      activation: nonlinearity.
      kernel_init: initialisation of the kernels but the first and the last; dirac begins close to the identity.
      dtype: of the computation; parameters and outputs are float32.

    References:
      Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, https://arxiv.org/abs/2404.00498, and the network
      of his record with Muon, https://github.com/KellerJordan/cifar10-airbench
    """

    num_outputs: int = 10
    widths: tuple[int, ...] = (64, 256, 256)
    patch_size: int = 2
    norm_momentum: float = 0.6
    activation: Activation = "gelu"
    kernel_init: Init = "dirac"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper | None = None) -> Array:
        """f32[B, H, W, C] or f32[B, H, W] -> f32[B, num_outputs]."""
        act = activation(self.activation)
        x = _with_channels(_drop_input(image, hyper, train))
        x = act(PatchWhitening((self.patch_size, self.patch_size), dtype=self.dtype, name="whitening")(x))
        for width in self.widths:
            for pool in (max_pool, lambda y: y):
                x = pool(Conv(width, use_bias=False, kernel_init=self.kernel_init)(x))
                x = act(BatchNorm(self.norm_momentum, use_scale=False)(x, train=train))
        x = Dropout()(global_max_pool(x).astype(jnp.float32), _hidden_rate(hyper), train=train)
        outputs = nn.Dense(
            self.num_outputs, use_bias=False, kernel_init=nn.initializers.normal(OUTPUT_DEVIATION), name="outputs"
        )
        return outputs(x) * (1 / (OUTPUT_DEVIATION * self.widths[-1]))


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + BN(conv(relu(BN(conv(x)))))), the block of the 2015 paper.

    Attributes:
      features: output channels.
      stride: of the first convolution and the shortcut.
      shortcut: conv or pad, as in `ResNet`.
      zero_init: begin with the shortcut alone.
      activation: nonlinearity.
      kernel_init: initialisation of the kernels.
    """

    features: int
    stride: int = 1
    shortcut: Literal["conv", "pad"] = "conv"
    zero_init: bool = True
    activation: Activation = "relu"
    kernel_init: Init = "he"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """f[B, H, W, C] -> f[B, H', W', features]."""
        act, strides = activation(self.activation), (self.stride, self.stride)
        y = Conv(self.features, strides=strides, use_bias=False, kernel_init=self.kernel_init)(x)
        y = act(BatchNorm()(y, train=train))
        y = Conv(self.features, use_bias=False, kernel_init=self.kernel_init)(y)
        y = BatchNorm(initial_scale=0.0 if self.zero_init else 1.0)(y, train=train)
        return act(self._pass_on(x, train) + y)

    def _pass_on(self, x: Array, train: bool) -> Array:
        missing = self.features - x.shape[-1]
        if self.stride == 1 and missing == 0:
            return x
        if self.shortcut == "pad" and missing >= 0:
            return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, missing)))
        strides = (self.stride, self.stride)
        x = Conv(self.features, (1, 1), strides, use_bias=False, kernel_init=self.kernel_init, name="shortcut")(x)
        return BatchNorm(name="shortcut_norm")(x, train=train)


def _drop_input(image: Array, hyper: Hyper | None, train: bool) -> Array:
    rate: Number | None = None if hyper is None else hyper.input_dropout_rate
    return Dropout(name="input_dropout")(image, rate, train=train)


def _hidden_rate(hyper: Hyper | None) -> Number | None:
    return None if hyper is None else hyper.dropout_rate


def _flatten(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def _with_channels(image: Array) -> Array:
    """Images without a channel axis get one."""
    return image[..., None] if image.ndim == 3 else image


def _dense(x: Array, width: int, batch_norm: bool, kernel_init: Init, dtype: Dtype) -> Array:
    return nn.Dense(width, use_bias=not batch_norm, kernel_init=initializer(kernel_init), dtype=jnp.dtype(dtype))(x)


def _outputs(x: Array, num_outputs: int) -> Array:
    """Small weights, so that the first loss is that of a uniform guess, log K."""
    return nn.Dense(num_outputs, kernel_init=initializer("small"), name="outputs")(x.astype(jnp.float32))
