"""The CNN of the benchmarks with a form of convolution of one's choice, which `jt.CNN` takes by the device instead.

lax       XLA's convolution
patches   a matrix product, as on a CPU: of columns or of windows, whichever makes for smaller matrices
windows   a product of windows in every layer
columns   a product of columns in every layer
"""

from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax

import jaxtrain as jt
from jaxtrain.models.conv import conv_columns, conv_lax, conv_patches, conv_windows, max_pool
from jaxtrain.models.init import initializer

Array = jax.Array

FORMS: Mapping[str, Callable[[Array, Array], Array]] = {
    "lax": partial(conv_lax, strides=(1, 1), padding="SAME"),
    "patches": partial(conv_patches, strides=(1, 1), padding="SAME"),
    "windows": partial(conv_windows, strides=(1, 1), padding="SAME"),
    "columns": partial(conv_columns, padding="SAME"),
}


class FormConv(nn.Module):
    """A 3x3 convolution without a bias."""

    features: int
    form: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f32[B, H, W, C] -> f32[B, H, W, features]."""
        kernel = self.param("kernel", initializer("he"), (3, 3, x.shape[-1], self.features))
        return FORMS[self.form](x, kernel)


class FormCNN(nn.Module):
    """`jt.CNN(features=(32, 64), hidden=128)`: the same layers by the same names, with one's choice of pooling."""

    form: str
    pool: Callable[[Array], Array] = max_pool

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: jt.Hyper | None = None) -> Array:
        """f32[B, H, W] -> f32[B, 10]."""
        x = image.reshape(*image.shape[:3], -1)
        for stage, features in enumerate((32, 64)):
            x = FormConv(features, self.form, name=f"Conv_{stage}")(x)
            x = self.pool(nn.relu(jt.BatchNorm()(x, train=train)))
        x = nn.Dense(128, use_bias=False, kernel_init=initializer("he"))(x.reshape(len(x), -1))
        x = nn.relu(jt.BatchNorm()(x, train=train))
        x = jt.Dropout()(x, None if hyper is None else hyper.dropout_rate, train=train)
        return nn.Dense(10, kernel_init=initializer("small"), name="outputs")(x)
