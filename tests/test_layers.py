"""Conv by patches against `lax.conv`, pooling against NumPy, initialisations against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.errors import RequestError
from jaxtrain.models import Conv, activation, avg_pool, global_avg_pool, global_max_pool, initializer, max_pool

# image [H, W, C], features, kernel, strides, padding
CONVS = [
    ((8, 8, 1), 4, (3, 3), (1, 1), "SAME"),
    ((8, 8, 3), 4, (3, 3), (2, 2), "SAME"),
    ((7, 9, 2), 3, (3, 3), (2, 2), "SAME"),
    ((7, 9, 2), 3, (3, 3), (2, 1), "VALID"),
    ((8, 8, 3), 4, (1, 1), (1, 1), "SAME"),
    ((9, 8, 3), 4, (1, 1), (2, 2), "SAME"),
    ((9, 9, 2), 3, (5, 5), (3, 3), "SAME"),
    ((9, 9, 2), 3, (5, 3), (1, 2), "VALID"),
    ((8, 7, 2), 3, (2, 4), (1, 1), "SAME"),
    ((4, 4, 2), 3, (7, 7), (1, 1), "SAME"),
    ((8, 8, 16), 8, (3, 3), (1, 1), "SAME"),  # from here on by columns of the kernel
    ((9, 7, 16), 8, (3, 5), (1, 1), "VALID"),
    ((3, 8, 4), 2, (1, 4), (1, 1), "SAME"),
]


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("image, features, kernel, strides, padding", CONVS)
def test_patches_and_lax_agree_in_values_and_gradients(image, features, kernel, strides, padding):
    x = normal((2, *image))
    fields = dict(features=features, kernel_size=kernel, strides=strides, padding=padding)
    patches, by_lax = Conv(**fields, method="patches"), Conv(**fields, method="lax")
    params = jax.tree.map(lambda p: normal(p.shape), jax.eval_shape(patches.init, jax.random.key(0), x))
    weights = normal(jax.eval_shape(by_lax.apply, params, x).shape, 1)

    def loss(params, x, layer):
        y = layer.apply(params, x)
        return (jnp.sin(y) * weights).sum(), y

    @jax.jit
    def both(params, x):
        return [jax.grad(loss, (0, 1), has_aux=True)(params, x, layer) for layer in (patches, by_lax)]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *both(params, x))


def test_the_method_does_not_change_the_parameters():
    x = normal((2, 8, 8, 3))
    trees = [jax.jit(Conv(4, method=method).init)(jax.random.key(0), x) for method in ("auto", "patches", "lax")]
    assert trees[0]["params"]["kernel"].shape == (3, 3, 3, 4)
    for tree in trees[1:]:
        jax.tree.map(np.testing.assert_array_equal, tree, trees[0])


def test_auto_uses_no_convolution_on_a_cpu():
    x = normal((2, 8, 8, 3))
    text = str(jax.make_jaxpr(Conv(4).init)(jax.random.key(0), x))
    assert ("conv_general_dilated" in text) == (jax.default_backend() != "cpu")


def test_a_hand_computed_convolution():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    params = {"params": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.array([100.0])}}
    y = Conv(1).apply(params, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[108, 115, 112], [121, 136, 127], [120, 133, 124]])


@pytest.mark.parametrize("method", ["patches", "lax"])
def test_conv_computes_in_its_dtype(method):
    x = normal((2, 8, 8, 3))
    layer = Conv(4, dtype="bfloat16", method=method)
    params = jax.jit(layer.init)(jax.random.key(0), x)
    assert {p.dtype.name for p in jax.tree.leaves(params)} == {"float32"}
    y = layer.apply(params, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), Conv(4).apply(params, x), atol=0.05)


def test_vmapped_kernels_are_the_single_ones():
    x, layer = normal((3, 2, 8, 8, 3)), Conv(4, method="patches")
    apply = jax.jit(layer.apply)
    params = jax.tree.map(lambda p: normal((3, *p.shape)), jax.eval_shape(layer.init, jax.random.key(0), x[0]))
    many = jax.vmap(apply)(params, x)
    for member in range(3):
        alone = apply(jax.tree.map(lambda p, member=member: p[member], params), x[member])
        np.testing.assert_allclose(many[member], alone, atol=1e-5)


def test_conv_refuses_what_it_cannot_take():
    with pytest.raises(RequestError, match=r"\[B, H, W, C\]; it got \(2, 784\)"):
        Conv(4).init(jax.random.key(0), jnp.ones((2, 784)))
    with pytest.raises(RequestError, match="larger than its input"):
        Conv(4, (5, 5), padding="VALID").init(jax.random.key(0), jnp.ones((2, 4, 8, 1)))


@pytest.mark.parametrize("shape, size", [((2, 4, 6, 3), 2), ((2, 5, 7, 3), 2), ((2, 7, 9, 1), 3)])
def test_pooling_is_over_windows_that_do_not_overlap(shape, size):
    x = normal(shape)
    rows, columns = shape[1] // size, shape[2] // size
    for i, j in np.ndindex(rows, columns):
        window = np.asarray(x[:, i * size : (i + 1) * size, j * size : (j + 1) * size])
        np.testing.assert_array_equal(max_pool(x, size)[:, i, j], window.max((1, 2)))
        np.testing.assert_allclose(avg_pool(x, size)[:, i, j], window.mean((1, 2)), atol=1e-6)
    assert max_pool(x, size).shape == (shape[0], rows, columns, shape[3])
    np.testing.assert_allclose(global_avg_pool(x), np.asarray(x).mean((1, 2)), atol=1e-6)


def test_the_gradient_of_max_pool_goes_to_the_first_of_the_largest():
    x = jnp.array([[1.0, 3.0], [3.0, 2.0]]).reshape(1, 2, 2, 1)
    grad = jax.grad(lambda x: max_pool(x).sum())(x)
    np.testing.assert_array_equal(grad[0, :, :, 0], [[0, 1], [0, 0]])


@pytest.mark.parametrize("size", [2, 3, 16, 17])
def test_the_gradient_of_max_pool_is_at_the_largest_of_blocks_of_any_size(size):
    x, weights = normal((2, 2 * size + 1, size, 3)), normal((2, 2, 1, 3), 1)
    grad = np.asarray(jax.grad(lambda x: (max_pool(x, size) * weights).sum())(x))
    blocks = [grad[:, :size], grad[:, size : 2 * size]]
    for i, block in enumerate(blocks):
        window = np.asarray(x[:, i * size : (i + 1) * size])
        largest = window == window.max((1, 2), keepdims=True)
        np.testing.assert_array_equal(block, largest * weights[:, i : i + 1])
    assert not grad[:, 2 * size :].any()


def test_max_pool_has_the_derivative_of_a_maximum_forwards_and_backwards():
    x, direction = normal((2, 7, 6, 3)), normal((2, 7, 6, 3), 1)

    def plain(x):
        return x[:, :6].reshape(2, 3, 2, 3, 2, 3).max((2, 4))

    for derivative in (jax.jvp, lambda f, x, v: jax.vjp(f, *x)[1](jnp.cos(f(*x)))):
        for ours, expected in zip(
            derivative(max_pool, (x,), (direction,)), derivative(plain, (x,), (direction,)), strict=True
        ):
            np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_pooling_to_nothing_is_refused():
    with pytest.raises(RequestError, match="leaves nothing of 1 x 4"):
        max_pool(jnp.ones((1, 1, 4, 1)))


@pytest.mark.parametrize(
    "name, std",
    [
        ("he", np.sqrt(2 / 288)),
        ("lecun", np.sqrt(1 / 288)),
        ("glorot", np.sqrt(2 / (288 + 576))),
        ("small", 0.01),
        ("zeros", 0),
    ],
)
def test_initialisations_have_the_deviation_of_their_formula(name, std):
    kernel = initializer(name)(jax.random.key(0), (3, 3, 32, 64), jnp.float32)
    np.testing.assert_allclose(kernel.std(), std, rtol=0.02)
    np.testing.assert_allclose(kernel.mean(), 0, atol=4 * std / np.sqrt(kernel.size) + 1e-9)


def test_the_largest_of_all_positions_and_its_gradient_are_numpys():
    x = normal((3, 4, 5, 2))
    np.testing.assert_array_equal(global_max_pool(x), np.asarray(x).max((1, 2)))
    gradient = jax.grad(lambda x: (global_max_pool(x) * jnp.arange(6.0).reshape(3, 2)).sum())(x)
    largest = np.asarray(x) == np.asarray(x).max((1, 2), keepdims=True)
    np.testing.assert_array_equal(gradient, largest * np.arange(6.0).reshape(3, 1, 1, 2))


@pytest.mark.parametrize("inputs, outputs", [(5, 5), (5, 9), (9, 5)])
@pytest.mark.parametrize("size", [3, 4])
def test_dirac_passes_on_what_it_is_given(inputs, outputs, size):
    x = normal((2, 7, 7, inputs))
    layer = Conv(outputs, (size, size), use_bias=False, kernel_init="dirac")
    variables = layer.init(jax.random.key(0), x)
    y, passed = layer.apply(variables, x), min(inputs, outputs)
    moved = 1 if size == 4 else 0  # an even kernel has its middle before or behind the pixel
    np.testing.assert_allclose(y[:, :6, :6, :passed], x[:, moved : 6 + moved, moved : 6 + moved, :passed], atol=1e-6)
    beyond = np.asarray(variables["params"]["kernel"])[..., passed:]
    if outputs > inputs:
        np.testing.assert_allclose(beyond.std(), np.sqrt(1 / 3 / (size**2 * inputs)), rtol=0.1)


def test_dirac_of_a_matrix_is_the_identity():
    np.testing.assert_array_equal(initializer("dirac")(jax.random.key(0), (4, 4), jnp.float32), jnp.eye(4))


def test_unknown_names_list_the_known_ones():
    with pytest.raises(RequestError, match="'hee'; choose one of he, glorot"):
        initializer("hee")
    with pytest.raises(RequestError, match="choose one of relu"):
        activation("relo")
