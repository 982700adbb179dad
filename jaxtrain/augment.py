"""Random changes of training images: one image in, one image out, `key` first; mixup works on the batch.

Imports nothing of jaxtrain but `types`, `config` and `errors`. Runs inside the compiled step, after normalisation. The
surprise: slicing out of a padded image is the fastest way to crop on a CPU too, where under vmap it becomes a gather.
"""

import jax
import jax.numpy as jnp

from jaxtrain.config import Augment
from jaxtrain.errors import RequestError
from jaxtrain.types import Array, Batch, Hyper


def augment(key: Array, batch: Batch, config: Augment, hyper: Hyper, num_classes: int | None = None) -> Batch:
    """The batch with what `config` and `hyper.mixup` ask for: crop, then flip, then cutout, then mixup.

    Args:
      key: of this step, for this purpose.
      batch: image f32[B, H, W, C].
      num_classes: needed where `hyper.mixup` is a number.
    """
    crop_key, flip_key, cutout_key, mixup_key = jax.random.split(key, 4)
    image, count = batch.image, batch.image.shape[0]
    if config.crop:
        image = jax.vmap(random_crop, (0, 0, None))(jax.random.split(crop_key, count), image, config.crop)
    if config.flip:
        image = jax.vmap(random_flip)(jax.random.split(flip_key, count), image)
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
    row, column = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), (height, width, channels))


def random_flip(key: Array, image: Array) -> Array:
    """`image` f32[H, W, C], mirrored left and right with probability one half."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


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
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (), 0, height) - size // 2
    left = jax.random.randint(column_key, (), 0, width) - size // 2
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
    # X / (X + Y) of two Gamma(alpha) is Beta(alpha, alpha). `jax.random.beta` does so too, but compiles twice as long.
    # In logarithms, for with a small alpha both are often below the smallest float.
    log_x, log_y = jax.random.loggamma(weight_key, alpha, (2,))
    share = jax.nn.sigmoid(log_x - log_y)
    other = jax.random.permutation(pair_key, batch.image.shape[0])
    label = jax.nn.one_hot(batch.label, num_classes)
    image, label = (share * x + (1 - share) * x[other] for x in (batch.image, label))
    return batch._replace(image=image, label=label)


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
