"""The shipped networks: shapes, parameters, and what training and evaluation may depend on."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.models import CNN, MLP, Airbench, Linear, ResNet
from jaxtrain.types import Hyper, Model


def residual_block(inputs, features, shortcut):
    convolutions = 9 * inputs * features + 9 * features * features + 4 * features
    return convolutions + (inputs * features + 2 * features if shortcut else 0)


# network, image shape, parameters by hand
FORMULAS = [
    (Linear(3), (8, 8, 1), 64 * 3 + 3),
    (MLP(), (28, 28, 1), 784 * 512 + 512 * 512 + 2 * 2 * 512 + 512 * 10 + 10),
    (MLP(3, (32,), batch_norm=False), (64,), 64 * 32 + 32 + 32 * 3 + 3),
    (CNN(), (28, 28, 1), 9 * 32 + 9 * 32 * 64 + 2 * 96 + 49 * 64 * 128 + 2 * 128 + 1290),
    (CNN(3, (4,), 2, hidden=0, pool="avg", batch_norm=False), (9, 9), 9 * 4 + 4 + 9 * 16 + 4 + 64 * 3 + 3),
    (
        ResNet(3, (4, 8), blocks_per_stage=2),
        (8, 8, 3),
        27 * 4 + 8 + 2 * residual_block(4, 4, False) + residual_block(4, 8, True) + residual_block(8, 8, False) + 27,
    ),
    (
        ResNet(3, (4, 8), shortcut="pad", zero_init=False),
        (8, 8, 3),
        27 * 4 + 8 + residual_block(4, 4, False) + residual_block(4, 8, False) + 27,
    ),
    # 1.97 million, as the paper has it.
    (Airbench(), (32, 32, 3), 12 * 24 + 24 + 9 * 64 * (24 + 64) + 9 * 256 * (64 + 3 * 256) + 2 * 576 + 256 * 10),
    (Airbench(3, (4, 8), patch_size=3), (9, 9), 9 * 18 + 18 + 9 * 4 * (18 + 4) + 9 * 8 * (4 + 8) + 2 * 12 + 8 * 3),
]
# The smallest that have every part, for the tests that compile.
NETWORKS = {
    "linear": (Linear(3), (4, 4, 1)),
    "mlp": (MLP(3, (64,)), (4, 4, 1)),
    "plain": (MLP(3, (64,), batch_norm=False, activation="sigmoid"), (16,)),
    "cnn": (CNN(3, (8,), hidden=32), (4, 4, 1)),
    "resnet": (ResNet(3, (16, 24)), (4, 4, 3)),
    "airbench": (Airbench(3, (16, 24)), (9, 9, 3)),
}


@functools.cache
def build(name):
    """The network, its parameters and statistics, and six images."""
    network, shape = NETWORKS[name]
    image = jnp.asarray(np.random.default_rng(0).normal(size=(6, *shape)), jnp.float32)
    return Model(network), *jax.jit(Model(network).init)(jax.random.key(0), image), image


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def outputs(model, params, batch_stats, image, hyper=None, key=None, *, train=False):
    return model.apply(params, batch_stats, image, train=train, hyper=hyper, key=key).outputs


def rates(hidden, at_input):
    return Hyper(dropout_rate=jnp.float32(hidden), input_dropout_rate=jnp.float32(at_input))


@pytest.mark.parametrize("network, shape, num_parameters", FORMULAS)
def test_shapes_and_number_of_parameters_are_those_of_the_formula(network, shape, num_parameters):
    model, image = Model(network), jax.ShapeDtypeStruct((6, *shape), jnp.float32)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_parameters
    for train in (False, True):
        y = jax.eval_shape(lambda *args, train=train: model.apply(*args, train=train), params, batch_stats, image)
        assert y.outputs.shape == (6, network.num_outputs) and y.outputs.dtype == jnp.float32
        assert jax.tree.map(jnp.shape, y.batch_stats) == jax.tree.map(jnp.shape, batch_stats)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_evaluation_an_output_depends_on_its_own_image_only(name):
    model, params, batch_stats, image = build(name)
    together, others = (outputs(model, params, batch_stats, x) for x in (image, image.at[1:].set(image[1:] * 9 - 1)))
    np.testing.assert_array_equal(together[0], others[0])
    assert np.all(np.any(together[1:] != others[1:], axis=1))


@pytest.mark.parametrize("name", NETWORKS)
def test_training_differs_from_evaluation_by_batch_norm(name):
    model, params, batch_stats, image = build(name)
    evaluated, trained = (outputs(model, params, batch_stats, image, train=train) for train in (False, True))
    assert np.any(np.abs(evaluated - trained) > 1e-4) == bool(batch_stats)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_dropout_rate_acts_in_training_and_zero_is_none(name):
    model, params, batch_stats, image = build(name)

    def trained(hyper, seed=0):
        return outputs(model, params, batch_stats, image, hyper, jax.random.key(seed), train=True)

    plain = trained(None)
    np.testing.assert_allclose(trained(rates(0, 0)), plain, atol=1e-6)
    assert np.any(trained(rates(0, 0.5)) != plain)
    assert np.any(trained(rates(0, 0.5)) != trained(rates(0, 0.5), seed=1))
    assert np.any(np.abs(trained(rates(0.5, 0)) - plain) > 1e-3) == (name != "linear")


@pytest.mark.parametrize("name", NETWORKS)
def test_no_mask_is_in_the_program_in_evaluation_or_without_rates(name):
    model, params, batch_stats, image = build(name)
    for hyper, train in [(rates(0.5, 0.5), False), (Hyper(), True), (None, True)]:
        args = (params, batch_stats, image, hyper, jax.random.key(0))
        text = str(jax.make_jaxpr(lambda *args, train=train: outputs(model, *args, train=train))(*args))
        assert "random" not in text and "threefry" not in text


@pytest.mark.parametrize("network, shape, _", FORMULAS)
def test_no_bias_stands_before_batch_norm(network, shape, _):
    image = jax.ShapeDtypeStruct((6, *shape), jnp.float32)
    params, batch_stats = jax.eval_shape(Model(network).init, jax.random.key(0), image)
    owners = {path[-2].key for path, _ in jax.tree.leaves_with_path(params) if path[-1].key == "bias"}
    if batch_stats:
        assert all("norm" in owner.lower() for owner in owners - {"outputs", "whitening"})


@pytest.mark.parametrize("name", ["mlp", "resnet", "airbench"])
def test_every_parameter_has_a_gradient(name):
    model, params, batch_stats, image = build(name)

    def loss(params):
        return jnp.sin(outputs(model, params, batch_stats, image, train=True)).sum()

    grads = jax.jit(jax.grad(loss))(jax.tree.map(lambda leaf: leaf + 0.1, params))
    assert all(np.abs(grad).max() > 1e-6 for grad in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_fields_are_equal_networks(name):
    network = NETWORKS[name][0]
    twin = dataclasses.replace(network)
    assert twin is not network and Model(twin) == Model(network) and hash(Model(twin)) == hash(Model(network))
    assert Model(dataclasses.replace(network, num_outputs=4)) != Model(network)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "airbench"])
def test_bfloat16_is_close_to_float32_with_float32_parameters(name):
    model, params, batch_stats, image = build(name)
    half = Model(dataclasses.replace(model.module, dtype="bfloat16"))
    kept = jax.eval_shape(half.init, jax.random.key(0), image)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(kept)} == {"float32"}
    y = outputs(half, params, batch_stats, image)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, outputs(model, params, batch_stats, image), atol=0.01)
    wide = [
        eqn for eqn in jax.make_jaxpr(lambda x: half.apply(params, batch_stats, x, train=False).outputs)(image).eqns
    ]
    products = [eqn.outvars[0].aval.dtype.name for eqn in wide if eqn.primitive.name in ("dot_general", "conv_general")]
    assert set(products[:-1]) == {"bfloat16"} and products[-1] == "float32"  # the outputs alone are float32


def test_vmapped_members_are_the_single_ones():
    model, _, _, image = build("mlp")

    @jax.jit
    def member(key):
        params, batch_stats = model.init(key, image)
        return model.apply(params, batch_stats, image, train=True, key=key, hyper=rates(0.5, 0.1))[:2]

    keys = jax.random.split(jax.random.key(0), 3)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[member(key) for key in keys])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), jax.vmap(member)(keys), stacked)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_under_vmap_are_the_single_ones(name):
    model, params, batch_stats, image = build(name)

    def loss(params):
        return jnp.sin(3 * model.apply(params, batch_stats, image, train=True).outputs).sum()

    alone = jax.jit(jax.grad(loss))(params)
    stacked = jax.jit(jax.vmap(jax.grad(loss)))(jax.tree.map(lambda leaf: leaf[None], params))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], atol=1e-4 * scale), alone, stacked)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_loss_is_that_of_a_uniform_guess(name):
    y = outputs(*build(name), train=True)
    np.testing.assert_allclose(-jax.nn.log_softmax(y).mean(), np.log(3), atol=0.05 if name == "airbench" else 0.02)


def test_a_block_that_begins_at_zero_passes_its_input_on():
    model, params, batch_stats, image = build("resnet")
    kept = jax.jit(lambda x: model.apply(params, batch_stats, x, train=False, activations=True).activations)(image)
    first, stem = (kept[layer]["__call__"][0] for layer in ("ResidualBlock_0", "BatchNorm_0"))
    np.testing.assert_array_equal(first, nn.relu(stem))


def test_images_without_a_channel_axis_get_one():
    model, params, batch_stats, image = build("cnn")
    flat = outputs(model, params, batch_stats, image[..., 0])
    np.testing.assert_array_equal(flat, outputs(model, params, batch_stats, image))
