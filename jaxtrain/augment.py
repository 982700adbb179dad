"""Random changes of training images: one image in, one image out, `key` first; mixup works on the batch.

Imports nothing of jaxtrain but `types`, `config` and `errors`. Runs inside the compiled step, after normalisation. The
surprise: slicing out of a padded image is the fastest way to crop on a CPU too, where under vmap it becomes a gather.
"""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxtrain.config import Augment, Tta
from jaxtrain.errors import RequestError
from jaxtrain.types import Array, Batch, Hyper


class Turn(NamedTuple):
    """Whose turn it is in an augmentation that alternates."""

    key: Array  # the same in all epochs
    epoch: Array  # i32[]


def augment(
    key: Array, batch: Batch, config: Augment, hyper: Hyper, num_classes: int | None = None, turn: Turn | None = None
) -> Batch:
    """The batch with what `config` and `hyper.mixup` ask for: flip, then crop, then cutout, then mixup.

    Args:
      key: of this step, for this purpose.
      batch: image f32[B, H, W, C].
      num_classes: needed where `hyper.mixup` is a number.
      turn: needed where `config.alternate` is set, as is `batch.index`.
    """
    crop_key, flip_key, cutout_key, mixup_key = jax.random.split(key, 4)
    image, count = batch.image, batch.image.shape[0]
    # A window and its mirror image are equally likely, so the order of these two is free; XLA on a CPU takes 0.25 ms
    # for 128 images of 32x32x3 in this one and 5 ms in the other, where it mirrors what it gathers element by element.
    if config.flip and config.alternate:
        if turn is None or batch.index is None:
            raise RequestError(
                "augment.alternate is set, which needs to know the examples: batches from jaxtrain.epoch have an index;"
                " give Batch(..., index=...)"
            )
        image = jax.vmap(alternating_flip, (None, 0, 0, None))(turn.key, image, batch.index, turn.epoch)
    elif config.flip:
        image = jax.vmap(random_flip)(jax.random.split(flip_key, count), image)
    if config.crop:
        image = jax.vmap(random_crop, (0, 0, None))(jax.random.split(crop_key, count), image, config.crop)
    if config.cutout:
        image = jax.vmap(cutout, (0, 0, None))(jax.random.split(cutout_key, count), image, config.cutout)
    batch = batch._replace(image=image)
    if hyper.mixup is None:
        return batch
    if num_classes is None:
        raise RequestError("hyper.mixup is a number and num_classes is not given; mixup needs the number of classes")
    return mixup(mixup_key, batch, hyper.mixup, num_classes)


def random_crop(key: Array, image: Array, pad: int) -> Array:
    """A random window of `image` padded by `pad` reflected pixels, of the original size.

    Args:
      image: f32[H, W, C].
      pad: static; less than H and W.
    """
    # 128 images of 28x28x1 in a compiled loop on two cores of a CPU: 0.15 ms this way; 0.65 by take along each axis,
    # 0.75 by one gather, 0.4 by one-hot matrix products. 32x32x3: 0.3; 0.5, 0.5 (of whole pixels: 0.3) and 1.2.
    height, width, channels = image.shape
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    row, column = _sample_place(key, 2 * pad + 1, 2 * pad + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), (height, width, channels))


def random_flip(key: Array, image: Array) -> Array:
    """`image` f32[H, W, C], mirrored left and right with probability one half."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def alternating_flip(key: Array, image: Array, index: Array, epoch: Array | int) -> Array:
    """`image` mirrored in every second epoch: whether in the even or the odd ones is drawn once for each example.

    Two epochs that show an image show both its forms, where a flip at random shows half of the images twice alike.

    Args:
      key: the same in all epochs.
      image: f32[H, W, C].
      index: i32[], which example it is.
      epoch: i32[].

    References:
      Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, https://arxiv.org/abs/2404.00498, section 3.6
    """
    begins = jax.random.bits(jax.random.fold_in(key, index)) & 1
    return jnp.where((begins + jnp.asarray(epoch, jnp.uint32)) % 2 == 1, image[:, ::-1], image)


def cutout(key: Array, image: Array, size: int) -> Array:
    """`image` with a square of side `size` set to 0, which is the mean of standardized data.

    The square's centre is any pixel with the same probability, so the square may reach over the border.

    Args:
      image: f32[H, W, C].
      size: static; at most H and W.

    References:
      DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
      https://arxiv.org/abs/1708.04552
    """
    height, width, _ = image.shape
    top, left = _sample_place(key, height, width)
    top, left = top - size // 2, left - size // 2
    row, column = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (row >= top) & (row < top + size) & (column >= left) & (column < left + size)
    return jnp.where(inside[..., None], 0.0, image)


def mixup(key: Array, batch: Batch, alpha: Array | float, num_classes: int) -> Batch:
    """Each example mixed with another of the batch: lam x + (1 - lam) x', and so the labels; lam ~ Beta(alpha, alpha).

    One lam for the batch, as in the authors' code.

    Args:
      batch: label i32[B].
      alpha: f32[], larger than 0; may be traced.

    Returns:
      The batch, its label f32[B, num_classes].

    References:
      Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018, https://arxiv.org/abs/1710.09412
    """
    weight_key, pair_key = jax.random.split(key)
    share = sample_share(weight_key, alpha)
    other = jax.random.permutation(pair_key, batch.image.shape[0])
    flat = batch.image.reshape(batch.image.shape[0], -1)  # a CPU gathers rows four times as fast as images
    label = jax.nn.one_hot(batch.label, num_classes)
    flat, label = (share * x + (1 - share) * jnp.take(x, other, axis=0, mode="clip") for x in (flat, label))
    return batch._replace(image=flat.reshape(batch.image.shape), label=label)


def sample_share(key: Array, alpha: Array | float) -> Array:
    """f32[] from Beta(alpha, alpha): X / (X + Y) of two Gamma(alpha).

    References:
      Marsaglia and Tsang, A Simple Method for Generating Gamma Variables, 2000
    """
    # `jax.random.beta` gives the same and takes four times as long to compile, for it tries in a loop until a draw is
    # accepted. Here there are 16 tries at once: each is accepted with probability 0.95, so none is in 1e-21 of calls.
    # In logarithms, for with a small alpha X and Y are often both below the smallest float.
    u = jax.random.uniform(key, (33, 2), minval=1e-7)
    x, log_u, log_boost = jax.scipy.special.ndtri(u[:16]), jnp.log(u[16:32]), jnp.log(u[32]) / alpha
    d = (
        alpha + 2 / 3
    )  # the method's alpha - 1/3 at alpha + 1: it needs 1 or more, and is brought back by log(u) / alpha
    v = jnp.maximum(1 + x / jnp.sqrt(9 * d), 1e-6) ** 3
    accepted = log_u < 0.5 * x**2 + d - d * v + d * jnp.log(v)
    log_x, log_y = jnp.log(v[jnp.argmax(accepted, axis=0), jnp.arange(2)]) + log_boost
    return jax.nn.sigmoid(log_x - log_y)


def views(image: Array, tta: Tta) -> tuple[Array, list[float]]:
    """Views of images f32[B, H, W, C] whose outputs are averaged in evaluation: f32[V B, H, W, C], view after view, and
    the weights of the V views. As one batch, for so the network is compiled once.

    mirror: the images and their mirror images, one half each; mirror_translate: these at one quarter each, and windows
    of both that are moved up and left, and down and right, by one pixel, reflected at the border, at one eighth each.
    """
    if tta == "none":
        return image, [1.0]
    if tta == "mirror":
        return jnp.concatenate([image, image[:, :, ::-1]]), [0.5, 0.5]
    height, width = image.shape[1:3]
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    windows = [image, *(padded[:, at : at + height, at : at + width] for at in (0, 2))]
    return jnp.concatenate([view for seen in windows for view in (seen, seen[:, :, ::-1])]), [0.25] * 2 + [0.125] * 4


def _sample_place(key: Array, height: int, width: int) -> tuple[Array, Array]:
    """A row below `height` and a column below `width`; one draw, where `randint` makes three and compiles as long."""
    row, column = jnp.floor(jax.random.uniform(key, (2,)) * jnp.array([height, width])).astype(jnp.int32)
    return row, column


def check_tta(tta: Tta, image_shape: tuple[int, ...]) -> None:
    """Raise RequestError where images of this shape (as the network gets them) have no such views."""
    if tta not in get_args(Tta):
        raise RequestError(f"tta is {tta!r}; expected one of {', '.join(get_args(Tta))}")
    if tta != "none" and len(image_shape) != 3:
        raise RequestError(
            f"tta is {tta!r} and an example has shape {list(image_shape)}; it needs images [H, W, C]: set it to 'none',"
            " or choose a preprocessing that keeps images (not pca or whiten)"
        )
    if tta == "mirror_translate" and min(image_shape[:2]) < 2:
        raise RequestError(f"tta is {tta!r} and images are {list(image_shape)}; they need a side of at least 2")


def check_augment(config: Augment, image_shape: tuple[int, ...], classification: bool, hyper: Hyper) -> None:
    """Raise RequestError for what cannot be done to images of this shape (as the network gets them), before tracing."""
    for name in ("crop", "cutout"):
        if getattr(config, name) < 0:
            raise RequestError(f"augment.{name} is {getattr(config, name)}; it must be 0 (off) or a number of pixels")
    wanted = [name for name in ("crop", "flip", "cutout") if getattr(config, name)]
    if wanted and len(image_shape) != 3:
        raise RequestError(
            f"augment.{wanted[0]} is set and an example has shape {list(image_shape)}; it needs images [H, W, C]:"
            " switch it off, or choose a preprocessing that keeps images (not pca or whiten)"
        )
    if wanted and config.crop >= (side := min(image_shape[:2])):
        raise RequestError(f"augment.crop is {config.crop} and images have a side of {side}; give at most {side - 1}")
    if wanted and config.cutout > (side := min(image_shape[:2])):
        raise RequestError(f"augment.cutout is {config.cutout} and images have a side of {side}; give at most {side}")
    if hyper.mixup is not None and not classification:
        raise RequestError("hyper.mixup is a number and the task is not classification; set it to None")
