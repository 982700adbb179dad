import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.errors import RequestError
from jaxtrain.models import CNN, MLP, Linear, ResNet
from jaxtrain.plots.filters import BORDER, DARK, filter_image, first_kernel
from jaxtrain.types import Model


def kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def picture(weights: np.ndarray, image_shape: tuple[int, ...] = (8, 8, 1), **options: int) -> np.ndarray:
    image = filter_image(weights, image_shape, **options)
    assert image is not None and image.dtype == np.uint8
    return image


@pytest.mark.parametrize(
    ("shape", "image_shape", "columns", "rows", "side"),
    [
        ((3, 3, 1, 32), (28, 28, 1), 8, 4, 24),
        ((3, 3, 3, 5), (32, 32, 3), 5, 1, 24),  # fewer filters than columns
        ((5, 5, 2, 9), (32, 32, 2), 8, 2, 25),
        ((64, 100), (8, 8), 8, 8, 24),  # no more than 64
        ((784, 16), (28, 28, 1), 8, 2, 28),
        ((3072, 4), (32, 32, 3), 4, 1, 32),
    ],
)
def test_filters_stand_side_by_side_enlarged_by_a_whole_factor(shape, image_shape, columns, rows, side):
    image = picture(kernel(*shape), image_shape)
    assert image.shape == (rows * (side + BORDER) + BORDER, columns * (side + BORDER) + BORDER, 3)
    assert (image[:BORDER] == DARK).all() and (image[:, -BORDER:] == DARK).all()


def test_a_pixel_is_what_its_weight_says_by_hand():
    weights = np.zeros((4, 3), np.float32)  # three filters of 2 x 2 pixels, each pixel 12 wide
    weights[:, 0] = [0.0, 1.0, -2.0, 0.5]
    weights[:, 2] = [0.0, np.nan, 1.0, 1.0]
    image = picture(weights, (2, 2, 1))
    first, second, third = (image[BORDER:-BORDER, BORDER + 26 * i :][:, :24] for i in range(3))
    assert first[[0, 0, 23, 23], [0, 23, 0, 23], 0].tolist() == [128, 192, 1, 160]
    assert (second == 128).all()  # weights of 0 have no scale
    assert (third == 0).all()  # NaN


@pytest.mark.parametrize("shape", [(3, 3, 1, 6), (3, 3, 3, 6), (3, 3, 4, 6), (64, 6)])
def test_a_positive_factor_changes_nothing_and_the_negative_is_the_negative(shape):
    weights = kernel(*shape)
    image, negative = picture(weights).astype(int), picture(-weights).astype(int)
    np.testing.assert_array_equal(picture(4 * weights), image)
    first = (slice(BORDER, BORDER + 24),) * 2
    np.testing.assert_array_equal(negative[first], 256 - image[first])
    assert image[first].min() == 1 or image[first].max() == 255


def test_filters_do_not_change_one_another():
    weights = kernel(3, 3, 1, 2)
    louder = weights * np.array([1, 50], np.float32)
    np.testing.assert_array_equal(picture(weights), picture(louder))


def test_three_channels_are_colours_and_others_a_mean():
    grey = picture(kernel(3, 3, 4, 2))
    np.testing.assert_array_equal(grey, picture(kernel(3, 3, 4, 2).mean(axis=2, keepdims=True)))
    assert (grey == grey[..., :1]).all()
    colour = picture(kernel(3, 3, 3, 2))
    assert (colour[..., 0] != colour[..., 1]).any()


def test_a_dense_kernel_is_the_convolution_that_covers_the_whole_image():
    weights = kernel(8, 8, 3, 10)
    np.testing.assert_array_equal(picture(weights), picture(weights.reshape(-1, 10), (8, 8, 3)))


def test_a_kernel_on_the_device_and_in_half_precision_is_drawn():
    weights = jnp.asarray(kernel(3, 3, 1, 4), jnp.bfloat16)
    assert picture(weights).shape == (24 + 2 * BORDER, 4 * 26 + BORDER, 3)


@pytest.mark.parametrize(
    ("shape", "image_shape"), [((40, 16), (40,)), ((40, 16), (8, 8, 1)), ((16,), (4, 4, 1)), ((64, 0), (8, 8, 1))]
)
def test_what_is_no_picture_is_none(shape, image_shape):
    assert filter_image(kernel(*shape), image_shape) is None


@pytest.mark.parametrize("option", ["columns", "most"])
def test_no_columns_and_no_filters_are_refused(option):
    with pytest.raises(RequestError, match=f"{option} is 0"):
        filter_image(kernel(3, 3, 1, 4), (8, 8, 1), **{option: 0})


@pytest.mark.parametrize(
    ("module", "image_shape", "path"),
    [
        (Linear(), (8, 8, 1), "outputs/kernel"),
        (MLP(hidden=(64, 64)), (8, 8, 1), "Dense_0/kernel"),  # the second takes 64 inputs as well
        (CNN(features=(4,), hidden=4), (8, 8, 4), "Conv_0/kernel"),
        (CNN(features=(4,), hidden=4), (4, 4, 1), "Conv_0/kernel"),  # 2 * 2 * 4 flattened are 16, as the image
        (ResNet(widths=(8, 16)), (8, 8, 3), "Conv_0/kernel"),
        (MLP(hidden=(8,)), (40,), "Dense_0/kernel"),  # features: a kernel, though no picture
    ],
)
def test_the_first_layer_of_our_networks_is_found(module, image_shape, path):
    params, _ = jax.eval_shape(Model(module).init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    found = first_kernel(params, image_shape)
    assert found is not None and found[0] == path
    layer, leaf = path.split("/")
    assert found[1] is params[layer][leaf]


def test_numbers_in_names_are_numbers():
    params = {f"Dense_{i}": {"kernel": kernel(64, 64), "bias": kernel(64)} for i in (10, 9, 2)}
    found = first_kernel(params, (8, 8))
    assert found is not None and found[0] == "Dense_2/kernel"


@pytest.mark.parametrize("params", [{}, {"Dense_0": {"kernel": kernel(3, 4)}}, {"scale": {"bias": kernel(64)}}])
def test_no_layer_that_takes_the_image_is_none(params):
    assert first_kernel(params, (8, 8, 1)) is None
