"""The shipped networks: shapes, parameters, and what training and evaluation may depend on."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.models import CNN, MLP, Linear, ResNet
from jaxtrain.types import Hyper, Model


def residual_block(inputs, features, shortcut):
    convolutions = 9 * inputs * features + 9 * features * features + 4 * features
    return convolutions + (inputs * features + 2 * features if shortcut else 0)


# network, image shape, parameters by hand
NETWORKS = {
    "linear": (Linear(3), (8, 8, 1), 64 * 3 + 3),
    "mlp": (MLP(3, (32, 16)), (8, 8, 1), 64 * 32 + 2 * 32 + 32 * 16 + 2 * 16 + 16 * 3 + 3),
    "mlp_plain": (MLP(3, (32,), batch_norm=False, activation="sigmoid"), (64,), 64 * 32 + 32 + 32 * 3 + 3),
    "cnn": (
        CNN(3, (4, 8), hidden=16),
        (8, 8, 1),
        9 * 4 + 2 * 4 + 9 * 4 * 8 + 2 * 8 + 2 * 2 * 8 * 16 + 2 * 16 + 16 * 3 + 3,
    ),
    "cnn_plain": (
        CNN(3, (4,), convs_per_stage=2, hidden=0, pool="avg", batch_norm=False),
        (9, 9),
        9 * 4 + 4 + 9 * 4 * 4 + 4 + 4 * 4 * 4 * 3 + 3,
    ),
    "resnet": (
        ResNet(3, (4, 8), blocks_per_stage=2),
        (8, 8, 3),
        27 * 4 + 8 + 2 * residual_block(4, 4, False) + residual_block(4, 8, True) + residual_block(8, 8, False) + 27,
    ),
    "resnet_pad": (
        ResNet(3, (4, 8), shortcut="pad", zero_init=False),
        (8, 8, 3),
        27 * 4 + 8 + residual_block(4, 4, False) + residual_block(4, 8, False) + 27,
    ),
}
DROPS_HIDDEN = [name for name in NETWORKS if name != "linear"]


def images(shape, count=6):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, *shape)), jnp.float32)


def build(name, **changes):
    network, shape, _ = NETWORKS[name]
    model, image = Model(dataclasses.replace(network, **changes)), images(shape)
    params, batch_stats = jax.jit(model.init)(jax.random.key(0), image)
    return model, params, batch_stats, image


def outputs(model, params, batch_stats, image, train=False, hyper=None, key=0):
    return jax.jit(
        lambda *args: model.apply(*args, train=train, hyper=hyper, key=jax.random.key(key)).outputs,
    )(params, batch_stats, image)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_number_of_parameters_are_those_of_the_formula(name):
    model, params, batch_stats, image = build(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == NETWORKS[name][2]
    for train in (False, True):
        y = outputs(model, params, batch_stats, image, train=train)
        assert y.shape == (6, 3) and y.dtype == jnp.float32 and np.isfinite(y).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_in_evaluation_an_output_depends_on_its_own_image_only(name):
    model, params, batch_stats, image = build(name)
    together = outputs(model, params, batch_stats, image)
    alone = jnp.concatenate([outputs(model, params, batch_stats, image[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    gradient = jax.grad(lambda x: outputs(model, params, batch_stats, x)[0].sum())(image)
    assert np.any(gradient[0]) and not np.any(gradient[1:])


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_dropout_acts_in_training_only(name):
    args, hyper = build(name), Hyper(dropout_rate=0.5)
    plain = outputs(*args, train=True)
    dropped = outputs(*args, train=True, hyper=hyper)
    assert np.any(dropped != plain) == (name in DROPS_HIDDEN)
    np.testing.assert_array_equal(outputs(*args, hyper=hyper), outputs(*args))
    np.testing.assert_allclose(outputs(*args, train=True, hyper=Hyper(dropout_rate=0.0)), plain, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_input_dropout_acts_on_every_network(name):
    args, hyper = build(name), Hyper(input_dropout_rate=0.5)
    assert np.any(outputs(*args, train=True, hyper=hyper) != outputs(*args, train=True))
    assert np.any(outputs(*args, train=True, hyper=hyper) != outputs(*args, train=True, hyper=hyper, key=1))


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norm_makes_training_differ_from_evaluation(name):
    model, params, batch_stats, image = build(name)
    differs = np.any(
        outputs(model, params, batch_stats, image, train=True) != outputs(model, params, {**batch_stats}, image)
    )
    assert differs == bool(batch_stats)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_bias_stands_before_batch_norm(name):
    model, params, batch_stats, image = build(name)
    if not batch_stats:
        pytest.skip("no BatchNorm in it")
    layers = [path for path, _ in jax.tree.leaves_with_path(params) if path[-1].key == "bias"]
    assert {"Norm" in path[-2].key or "norm" in path[-2].key for path in layers if path[-2].key != "outputs"} <= {True}

    def loss(params):
        return jnp.square(model.apply(params, batch_stats, image, train=True).outputs).sum()

    grads = jax.grad(loss)(jax.tree.map(lambda leaf: leaf + 0.1, params))
    assert all(np.abs(grad).max() > 1e-6 for grad in jax.tree.leaves(grads))  # every parameter has a say


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_fields_are_equal_networks(name):
    network = NETWORKS[name][0]
    twin = dataclasses.replace(network)
    assert twin is not network and twin == network and hash(Model(twin)) == hash(Model(network))
    assert Model(dataclasses.replace(network, num_outputs=4)) != Model(network)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "linear"])
def test_bfloat16_computes_close_to_float32_with_float32_parameters(name):
    model, params, batch_stats, image = build(name, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, batch_stats))} == {"float32"}
    half = outputs(model, params, batch_stats, image, train=True)
    full = outputs(Model(NETWORKS[name][0]), params, batch_stats, image, train=True)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, full, atol=0.01)
    jaxpr = str(jax.make_jaxpr(lambda image: model.apply(params, batch_stats, image, train=True).outputs)(image))
    assert "bf16" in jaxpr


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_vmapped_members_are_the_single_ones(name):
    model, _, _, image = build(name)
    hyper = Hyper(dropout_rate=0.5)

    def member(key):
        params, batch_stats = model.init(key, image)
        return model.apply(params, batch_stats, image, train=True, key=key, hyper=hyper)[:2]

    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(member))(keys)
    alone = [jax.jit(member)(key) for key in keys]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), many, stacked)


def test_the_first_loss_is_that_of_a_uniform_guess():
    for name in NETWORKS:
        y = outputs(*build(name), train=True)
        np.testing.assert_allclose(-jax.nn.log_softmax(y).mean(), np.log(3), atol=0.02)


@pytest.mark.parametrize("shortcut", ["conv", "pad"])
def test_a_block_that_begins_at_zero_passes_its_input_on(shortcut):
    model, params, batch_stats, image = build("resnet", shortcut=shortcut)
    applied = model.apply(params, batch_stats, image, train=False, activations=True)
    first = applied.activations["ResidualBlock_0"]["__call__"][0]
    stem = nn.relu(applied.activations["BatchNorm_0"]["__call__"][0])
    np.testing.assert_array_equal(first, stem)


def test_images_without_a_channel_axis_get_one():
    model, params, batch_stats, image = build("cnn")
    np.testing.assert_array_equal(
        outputs(model, params, batch_stats, image[..., 0]), outputs(model, params, batch_stats, image)
    )
