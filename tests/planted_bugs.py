"""Known bugs, planted into known networks: the exam of the checks before training.

Imports jaxtrain and its losses, nothing of its checks. The fact that surprises: a network takes the lines that may be
wrong as functions (`Lines`). So each bug is one function, the same one in every network, and all else is the healthy
network to the letter.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxtrain as jt
from jaxtrain.augment import random_crop, random_flip
from jaxtrain.data import Data
from jaxtrain.losses import cross_entropy
from jaxtrain.models.init import Init, initializer
from jaxtrain.types import Array, Batch, Hyper, Task

# --- The lines of a network that a bug changes, as they ought to be.


def _flatten(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def _drop(x: Array, train: bool, hyper: Hyper) -> Array:
    return jt.Dropout()(x, hyper.dropout_rate, train=train)


def _keep(x: Any) -> Any:
    return x


@dataclass(frozen=True)
class Lines:
    """One field a line; None is the network's own choice."""

    start: Callable[[Array], Array] = _keep  # images before the first layer
    flatten: Callable[[Array], Array] = _flatten  # f32[B, ...] -> f32[B, D]
    first: Callable[[type[nn.Module]], Callable[..., nn.Module]] = _keep  # the class of one hidden layer
    kernel_init: Init = "he"  # of the hidden layers
    norm: Callable[[Array, bool], Array] | None = None
    drop: Callable[[Array, bool, Hyper], Array] = _drop
    middle: Callable[[Array], Array] = _keep  # between two hidden layers
    attention_axis: int = -1  # of scores f32[B, T, T], over which attention is a softmax
    end: Callable[[Array], Array] = _keep  # of the logits


# --- Networks, each small, on images of 8 x 8.


class Mlp(nn.Module):
    """A copy of jt.MLP."""

    lines: Lines = Lines()
    batch_norm: bool = True

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper) -> Array:
        lines, init = self.lines, initializer(self.lines.kernel_init)
        x = lines.flatten(lines.start(image))
        x = lines.first(nn.Dense)(32, use_bias=not self.batch_norm, kernel_init=init)(x)
        x = nn.relu((lines.norm or _batch_norm)(x, train) if self.batch_norm else x)
        x = lines.middle(lines.drop(x, train, hyper))
        x = nn.Dense(32, use_bias=not self.batch_norm, kernel_init=init)(x)
        x = nn.relu((lines.norm or _batch_norm)(x, train) if self.batch_norm else x)
        return lines.end(nn.Dense(10, kernel_init=initializer("small"))(lines.drop(x, train, hyper)))


class Cnn(nn.Module):
    """A copy of jt.CNN."""

    lines: Lines = Lines()

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper) -> Array:
        lines, norm = self.lines, self.lines.norm or _batch_norm
        x = lines.start(image)
        for features, conv in ((8, jt.Conv), (12, lines.first(jt.Conv))):
            x = conv(features, use_bias=False, kernel_init=lines.kernel_init)(x)
            x = nn.max_pool(nn.relu(norm(x, train)), (2, 2), (2, 2))
        x = lines.flatten(lines.middle(x))
        x = nn.Dense(32, use_bias=False, kernel_init=initializer(lines.kernel_init))(x)
        x = lines.drop(nn.relu(norm(x, train)), train, hyper)
        return lines.end(nn.Dense(10, kernel_init=initializer("small"))(x))


class PatchTransformer(nn.Module):
    """Sixteen patches of 2 x 2 pixels, a position for each, and one block."""

    lines: Lines = Lines()
    num_heads: int = 1  # of outputs

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper) -> Array:
        lines, norm, init = self.lines, self.lines.norm or _layer_norm, initializer(self.lines.kernel_init)
        x = lines.first(nn.Dense)(24, kernel_init=init)(_patches(lines.start(image)))
        x = x + self.param("position", nn.initializers.normal(0.2), (1, 16, 24))
        x = lines.middle(x + lines.drop(self._attend(norm(x, train)), train, hyper))
        hidden = nn.gelu(nn.Dense(48, kernel_init=init)(norm(x, train)))
        x = x + lines.drop(nn.Dense(24, kernel_init=init)(hidden), train, hyper)
        x = lines.flatten(norm(x, train))
        return lines.end(jnp.concatenate([nn.Dense(10)(x) for _ in range(self.num_heads)], axis=1))

    def _attend(self, x: Array) -> Array:
        query, key, value = (nn.Dense(24, name=name)(x) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqd,bkd->bqk", query, key) / jnp.sqrt(24.0)
        weights = nn.softmax(scores, axis=self.lines.attention_axis)
        return nn.Dense(24, name="project")(jnp.einsum("bqk,bkd->bqd", weights, value))


class Depthwise(nn.Module):
    """A stem, one residual block of a depthwise and a pointwise convolution, the mean over positions: Flax's layers."""

    lines: Lines = Lines()
    num_heads: int = 1

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper) -> Array:
        lines, norm, init = self.lines, self.lines.norm or _flax_norm, initializer(self.lines.kernel_init)
        x = nn.Conv(16, (3, 3), use_bias=False, kernel_init=init, name="stem")(lines.start(image))
        x = nn.relu(norm(x, train))
        y = nn.Conv(16, (3, 3), feature_group_count=16, use_bias=False, kernel_init=init, name="depthwise")(x)
        y = lines.middle(nn.relu(norm(y, train)))
        y = lines.first(nn.Conv)(16, (1, 1), use_bias=False, kernel_init=init, name="pointwise")(y)
        x = nn.relu(x + norm(y, train)).reshape(x.shape[0], 4, 2, 4, 2, 16).max(axis=(2, 4))
        x = lines.drop(lines.flatten(x), train, hyper)
        return lines.end(jnp.concatenate([nn.Dense(10)(x) for _ in range(self.num_heads)], axis=1))


class Rows(nn.Module):
    """A recurrent network that reads the image row by row."""

    lines: Lines = Lines(flatten=lambda image: image[..., 0])  # f32[B, H, W, 1] -> f32[B, H, W]

    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper) -> Array:
        lines = self.lines
        x = lines.flatten(lines.start(image))
        x = lines.middle(nn.RNN(nn.GRUCell(24))(x)[:, -1])
        x = nn.relu(lines.first(nn.Dense)(24, kernel_init=initializer(lines.kernel_init))(x))
        return lines.end(nn.Dense(10)(lines.drop(x, train, hyper)))


def _batch_norm(x: Array, train: bool) -> Array:
    return jt.BatchNorm()(x, train=train)


def _flax_norm(x: Array, train: bool) -> Array:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)


def _layer_norm(x: Array, train: bool) -> Array:
    return nn.LayerNorm()(x)


def _patches(image: Array) -> Array:
    """f32[B, 8, 8, 1] -> f32[B, 16, 4]."""
    batch = image.shape[0]
    return image.reshape(batch, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(batch, 16, 4)


# --- The lines as they ought not to be.


@functools.cache
def frozen(layer: type[nn.Module]) -> type[nn.Module]:
    """The layer, its kernel behind a stop_gradient left over from an experiment."""

    class Frozen(layer):
        def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
            value = super().param(name, *args, **kwargs)
            return lax.stop_gradient(value) if name == "kernel" else value

    Frozen.__name__ = layer.__name__  # its parameters are then called as ever
    return Frozen


class ForgetfulNorm(nn.Module):
    """Batch Normalization that keeps its running averages well, and never reads them."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        axes = tuple(range(x.ndim - 1))
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        for name, value, start in (("mean", mean, jnp.zeros), ("var", var, jnp.ones)):
            average = self.variable("batch_stats", name, start, x.shape[-1:])
            if train and not self.is_initializing():
                average.value = 0.9 * average.value + 0.1 * value.reshape(-1)
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        scale, bias = self.param("scale", nn.initializers.ones, shape), self.param("bias", nn.initializers.zeros, shape)
        return (x - mean) * lax.rsqrt(var + 1e-5) * scale + bias


def forgetful_norm(x: Array, train: bool) -> Array:
    return ForgetfulNorm()(x, train)


def norm_over_batch(x: Array, train: bool) -> Array:
    """Meant to normalise each example, as LayerNorm does: axis 0 for axis -1."""
    return (x - x.mean(axis=0, keepdims=True)) / (x.std(axis=0, keepdims=True) + 1e-3)


def always_drop(x: Array, train: bool, hyper: Hyper) -> Array:
    """Evaluation had no key and complained; now it has one."""
    return nn.Dropout(0.5, deterministic=False)(x, rng=jax.random.key(0))


def always_augment(image: Array) -> Array:
    """Augmentation as a part of the network, which is not told whether it trains."""
    flip_keys, crop_keys = jax.random.split(jax.random.key(0), (2, image.shape[0]))
    return jax.vmap(random_crop, (0, 0, None))(crop_keys, jax.vmap(random_flip)(flip_keys, image), 2)


def flatten_transposed(x: Array) -> Array:
    """Channels first and last were to change places; `.T` turns round the batch axis, too."""
    return x.T.reshape(x.shape[0], -1)


def image_transposed(image: Array) -> Array:
    return image.T.reshape(image.shape)


def rows_transposed(image: Array) -> Array:
    """Time first, as the recurrent layer was thought to want it: by a reshape, which moves no axis."""
    batch, height, width, _ = image.shape
    return image.reshape(height, batch, width).transpose(1, 0, 2)


# --- Tasks.


@dataclass(frozen=True)
class OwnClassification(jt.Classification):
    """Right, and written by hand."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        log_probability = jax.nn.log_softmax(outputs, axis=1)
        return -jnp.take_along_axis(log_probability, batch.label[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class WrongSign(jt.Classification):
    """The log-likelihood, which is to rise, where the loss is to fall."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        return jnp.sum(jax.nn.one_hot(batch.label, self.num_classes) * jax.nn.log_softmax(outputs), axis=1)


@dataclass(frozen=True)
class WrongSignReported(WrongSign):
    """The same, and the curve shows what is trained on."""

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        return super().metrics(outputs, batch) | {"loss": self.loss(outputs, batch, Hyper())}


@dataclass(frozen=True)
class SoftmaxTwice(jt.Classification):
    """The loss takes logits and is given probabilities."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        return cross_entropy(jax.nn.softmax(outputs), batch.label)


@dataclass(frozen=True)
class ShiftedClasses(jt.Classification):
    """Written for labels that count from 1."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        return cross_entropy(outputs, batch.label - 1)


@dataclass(frozen=True)
class SoftmaxOverBatch(jt.Classification):
    """axis=0 for axis=1."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        log_probability = jax.nn.log_softmax(outputs, axis=0)
        return -jnp.take_along_axis(log_probability, batch.label[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class MeanOverBatch(jt.Classification):
    """The mean over the wrong axis, and a shape that broadcasts back: every example is judged by the mean logits."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        mean = jnp.mean(outputs, axis=0, keepdims=True)
        return cross_entropy(jnp.broadcast_to(mean, outputs.shape), batch.label)


@dataclass(frozen=True)
class EachAgainstAll(jt.Regression):
    """f32[B, 1] against f32[1, B]: each output is drawn to the targets of all examples."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        return jnp.mean(jnp.square(outputs - batch.label.reshape(1, -1)), axis=1)


@dataclass(frozen=True)
class TwoHeads:
    """Two heads of ten logits side by side, f32[B, 20]: the class, and as a help in training its pair, label // 2."""

    trained: tuple[int, ...] = (0, 1)  # heads that the loss takes
    reported: int = 0  # head that metrics and predict take

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        return sum(_head_loss(outputs, head, batch.label) for head in self.trained) * jnp.ones(outputs.shape[:1])

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        return jt.Classification(10).metrics(_head(outputs, self.reported), batch)

    def predict(self, outputs: Array) -> Any:
        return jt.Classification(10).predict(_head(outputs, self.reported))


@dataclass(frozen=True)
class WrongHeadTrained(TwoHeads):
    """The loss takes the second head alone, as if it were the first."""

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        return cross_entropy(_head(outputs, 1), batch.label)


def _head(outputs: Array, index: int) -> Array:
    return outputs[:, 10 * index : 10 * index + 10]


def _head_loss(outputs: Array, head: int, label: Array) -> Array:
    return cross_entropy(_head(outputs, head), label if head == 0 else label // 2)


# --- Data.


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images u8[N, 8, 8, 1] of 0 to 255, and their labels i32[N]."""
    data = jt.load_data(jt.DataConfig(name="digits"))
    return data.image, data.label


def plain(**options: Any) -> Data:
    """A thousand digits, the last 200 of which are the test split."""
    images, labels = digits()
    return jt.from_arrays(images[:800], labels[:800], test=(images[800:1000], labels[800:1000]), **options)


def labels_one_row_late() -> Data:
    """A header was counted as a row: image i has the label of image i - 1."""
    images, labels = digits()
    return jt.from_arrays(images[:1000], np.roll(labels[:1000], 1))


def examples_last() -> Data:
    """Images stored [H, W, C, N], as MATLAB does, and brought into shape by a reshape."""
    images, labels = digits()
    stored = images[:1000].transpose(1, 2, 3, 0)
    return jt.from_arrays(stored.reshape(1000, 8, 8, 1), labels[:1000])


def copied_before_the_split() -> Data:
    """Every example twice, to have more of them; then the split."""
    images, labels = digits()
    return jt.from_arrays(np.repeat(images[:500], 2, axis=0), np.repeat(labels[:500], 2))


def varied_before_the_split() -> Data:
    """Every example and a darker, noisy copy; then the split."""
    images, labels = digits()
    noise = np.random.default_rng(0).normal(0, 4, images[:500].shape)
    copies = np.clip(images[:500] * 0.9 + noise, 0, 255).astype(np.uint8)
    return jt.from_arrays(np.concatenate([images[:500], copies]), np.concatenate([labels[:500]] * 2))


def tested_on_the_training_split() -> Data:
    """The test split was cut off, and not taken away."""
    images, labels = digits()
    return jt.from_arrays(images[:1000], labels[:1000], test=(images[800:1000], labels[800:1000]))


def target_of_each_digit() -> Data:
    """Regression to the digit's value."""
    images, labels = digits()
    return jt.from_arrays(images[:1000], labels[:1000].astype(np.float32))


def evens_and_odds() -> Data:
    """Two classes."""
    images, labels = digits()
    return jt.from_arrays(images[:1000], labels[:1000] % 2)


def mostly_zeros() -> Data:
    """Every 0 and every tenth of the rest: one class has half of the examples."""
    images, labels = digits()
    rows = np.flatnonzero((labels == 0) | (np.arange(len(labels)) % 10 == 0))
    return jt.from_arrays(images[rows], labels[rows], val_share=0.2)


def few() -> Data:
    """120 examples."""
    images, labels = digits()
    return jt.from_arrays(images[:120], labels[:120], val_share=0.2)


# --- What `check` is called with.


@dataclass(frozen=True)
class Case:
    """The arguments of one call of `check`, or of `fit`."""

    model: Any
    data: Callable[[], Data] = plain
    config: jt.Config = jt.Config(epochs=10, batch_size=64)
    hyper: Hyper = field(default_factory=lambda: Hyper(learning_rate=3e-3, dropout_rate=0.1))
    task: Task | None = None

    def call(self, function: Callable[..., Any], **options: Any) -> Any:
        """function(model, data, config, hyper, task=...)."""
        return function(self.model, self.data(), self.config, self.hyper, task=self.task, **options)


SHIPPED = {"MLP": jt.MLP(hidden=(32, 32)), "CNN": jt.CNN(features=(8, 12), hidden=32)}
OWN = {"Mlp": Mlp, "Cnn": Cnn, "PatchTransformer": PatchTransformer, "Depthwise": Depthwise, "Rows": Rows}


def cases(*networks: str, model: dict[str, Any] | None = None, case: dict[str, Any] | None = None, **lines: Any) -> Any:
    """Network -> Case, of one bug: changed fields of the networks, changed fields of the case, and wrong lines."""

    def make(name: str) -> nn.Module:
        if name in SHIPPED:
            return SHIPPED[name].clone(**model or {})
        return OWN[name](lines=replace(OWN[name]().lines, **lines), **model or {})

    return {name: Case(make(name), **case or {}) for name in networks}


TWO_HEADS = {
    **cases("MLP", model={"num_outputs": 20}),
    **cases("PatchTransformer", "Depthwise", model={"num_heads": 2}),
}


def two_heads(task: Task) -> dict[str, Case]:
    """The networks with two heads, for this task."""
    return {name: replace(case, task=task) for name, case in TWO_HEADS.items()}


BUGS: dict[str, dict[str, Case]] = {
    "wrong sign of the loss": cases("MLP", "PatchTransformer", "Depthwise", case={"task": WrongSign(10)}),
    "wrong sign, also reported": cases("MLP", "Depthwise", case={"task": WrongSignReported(10)}),
    "softmax twice": cases("Mlp", "Cnn", "PatchTransformer", "Depthwise", end=nn.softmax),
    "softmax twice, in the loss": cases("MLP", "PatchTransformer", case={"task": SoftmaxTwice(10)}),
    "labels shifted by a class": cases("MLP", "PatchTransformer", "Depthwise", case={"task": ShiftedClasses(10)}),
    "labels shifted by a row": cases("MLP", "Depthwise", case={"data": labels_one_row_late}),
    "frozen layer": cases("Mlp", "Cnn", "PatchTransformer", "Depthwise", "Rows", first=frozen),
    "BatchNorm trains in evaluation": cases("Mlp", "Cnn", "Depthwise", norm=forgetful_norm),
    "dropout in evaluation": cases("Mlp", "Cnn", "PatchTransformer", "Depthwise", "Rows", drop=always_drop),
    "inputs of 0 to 255": {
        **cases("MLP", model={"batch_norm": False}, case={"data": functools.partial(plain, preprocess="none")}),
        **cases("CNN", "PatchTransformer", "Rows", case={"data": functools.partial(plain, preprocess="none")}),
    },
    "validation copied into training": cases("MLP", "Depthwise", case={"data": copied_before_the_split}),
    "validation varied into training": cases("MLP", "Depthwise", case={"data": varied_before_the_split}),
    "test split inside training": cases("MLP", "Depthwise", case={"data": tested_on_the_training_split}),
    "stopped gradient": cases("Mlp", "Cnn", "PatchTransformer", "Depthwise", "Rows", middle=lax.stop_gradient),
    "softmax over the batch, in the loss": cases("MLP", "PatchTransformer", case={"task": SoftmaxOverBatch(10)}),
    "mean over the batch, in the loss": cases("MLP", "Depthwise", case={"task": MeanOverBatch(10)}),
    "attention over the batch": cases("PatchTransformer", attention_axis=0),
    "norm over the batch": cases("PatchTransformer", "Mlp", norm=norm_over_batch),
    "each output against all targets": cases(
        "MLP", model={"num_outputs": 1}, case={"data": target_of_each_digit, "task": EachAgainstAll(1)}
    ),
    "transposed reshape": {
        **cases("Mlp", "Cnn", flatten=flatten_transposed),
        **cases("PatchTransformer", "Depthwise", start=image_transposed),
        **cases("Rows", flatten=rows_transposed),
    },
    "transposed reshape of the data": cases("MLP", "PatchTransformer", case={"data": examples_last}),
    "ReLU on the logits": cases("Mlp", "Cnn", "PatchTransformer", "Depthwise", "Rows", end=nn.relu),
    "augmentation in evaluation": cases("Mlp", "Cnn", "PatchTransformer", "Depthwise", start=always_augment),
    "zeros as initial weights": {
        **cases("MLP", "CNN", model={"kernel_init": "zeros"}),
        **cases("PatchTransformer", "Depthwise", kernel_init="zeros"),
    },
    "loss on the wrong head": two_heads(WrongHeadTrained()),
    "metrics of the wrong head": two_heads(TwoHeads(reported=1)),
}

HEALTHY: dict[str, Case] = {
    **cases("MLP", "CNN", "Mlp", "PatchTransformer", "Depthwise", "Rows"),
    **{f"two heads, {name}": case for name, case in two_heads(TwoHeads()).items()},
    "Linear": Case(jt.Linear(), hyper=Hyper(3e-3)),
    "ResNet": Case(jt.ResNet(widths=(8, 12))),
    "tanh": Case(jt.MLP(hidden=(32, 32), batch_norm=False, activation="tanh", kernel_init="glorot")),
    "own task": Case(jt.MLP(hidden=(32,)), task=OwnClassification(10)),
    "regression": Case(jt.MLP(num_outputs=1, hidden=(32,)), data=target_of_each_digit),
    "two classes": Case(jt.MLP(num_outputs=2, hidden=(32,)), data=evens_and_odds),
    "one class in two": Case(jt.MLP(hidden=(32,)), data=mostly_zeros),
    "few examples": Case(jt.MLP(hidden=(32,)), data=few),
    "pixels of 0 to 1": Case(jt.MLP(hidden=(32,), batch_norm=False), data=functools.partial(plain, preprocess="unit")),
    "whitened": Case(jt.MLP(hidden=(32,)), functools.partial(plain, preprocess="whiten", num_components=20)),
    "augmented": Case(jt.CNN(features=(8,), hidden=32), config=jt.Config(batch_size=64, augment=jt.Augment(crop=1))),
    "frozen on purpose": Case(jt.MLP(hidden=(32, 32)), config=jt.Config(batch_size=64, frozen=("Dense_0",))),
    "regularised": Case(
        jt.MLP(hidden=(32, 32)),
        hyper=Hyper(3e-3, weight_decay=1e-2, dropout_rate=0.4, label_smoothing=0.1, mixup=0.2, clip_norm=1.0),
    ),
    "SGD": Case(jt.MLP(hidden=(32, 32)), config=jt.Config(batch_size=64, optimizer=jt.Sgd()), hyper=Hyper(0.05)),
}
