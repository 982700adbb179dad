"""A probe against the step that it repeats, NumPy's histogram, and networks whose units are dead by construction."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.optim.parameters import parameter_path
from jaxtrain.probe import NUM_BINS, NUM_SHOWN, histogram, make_probe
from jaxtrain.types import Hyper

PLAIN = Hyper(learning_rate=1.0, momentum=None)  # with SGD the update is the gradient


class Scanned(nn.Module):
    """Layers under nn.scan and nn.remat, whose outputs live in another trace."""

    @nn.compact
    def __call__(self, image, *, train):
        x = nn.Dense(8)(image.reshape(image.shape[0], -1))

        class Layer(nn.Module):
            @nn.compact
            def __call__(self, carry, _):
                return nn.relu(nn.Dense(8)(carry)), None

        scanned = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = scanned(name="stack")(x, None)
        return nn.remat(nn.Dense)(4)(x)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, image, *, train):
        x = nn.Dense(8)(image.reshape(image.shape[0], 8, -1))
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return nn.Dense(4)(x.mean(axis=1))


NETS = {
    "linear": jt.Linear(4),
    "mlp": jt.MLP(4, hidden=(8, 8)),
    "cnn": jt.CNN(4, features=(4,), hidden=8),
    "resnet": jt.ResNet(4, widths=(4, 8)),
    "scan": Scanned(),
    "attention": Attention(),
}


@pytest.fixture
def data(tiny):
    return jt.from_arrays(*tiny)


def prepared(net, data, hyper=PLAIN, **config):
    config = jt.Config(**{"epochs": 2, "batch_size": 16, "optimizer": jt.Sgd(), "schedule": constant, **config})
    state = jt.make_init(net, data, config)(jax.random.key(3), hyper)
    batch = next(iter(jt.epoch(data, jax.random.key(3), 0, config.batch_size)))
    return state, batch, config


def constant(step):
    return jnp.ones_like(step, jnp.float32)


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree)))


QUICK = [name if name in ("mlp", "attention") else pytest.param(name, marks=pytest.mark.slow) for name in NETS]


@pytest.mark.parametrize("name", QUICK)
def test_norms_and_ratios_are_those_of_the_step_that_follows(name, data):
    state, batch, config = prepared(NETS[name], data)
    seen = jax.jit(make_probe(NETS[name], data, config))(state, batch)
    after, _ = jax.jit(jt.make_train_step(NETS[name], data, config))(state, batch)
    update = jax.tree.map(lambda new, old: new - old, after.params, state.params)
    assert float(seen.scalars["gradient_norm"]) == pytest.approx(norm(update), rel=1e-4)
    for path, leaf in jax.tree.leaves_with_path(update):
        layer = parameter_path(path).removesuffix("/kernel")
        if f"update_ratio/{layer}" in seen.scalars:
            before = dict(jax.tree.leaves_with_path(state.params))[path]
            assert float(seen.scalars[f"update_ratio/{layer}"]) == pytest.approx(norm(leaf) / norm(before), rel=1e-3)
            assert float(seen.scalars[f"gradient_norm/{layer}"]) == pytest.approx(norm(leaf), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("name", QUICK)
def test_every_parameter_is_counted_whole_and_every_layer_seen(name, data):
    state, batch, config = prepared(NETS[name], data)
    seen = jax.jit(make_probe(NETS[name], data, config))(state, batch)
    for path, leaf in jax.tree.leaves_with_path(state.params):
        for group in ("params", "gradients"):
            assert int(seen.histograms[f"{group}/{parameter_path(path)}"].count.sum()) == leaf.size
    if name != "scan":  # what a scan holds is one module, called many times
        layers = {parameter_path(path).rpartition("/")[0] for path, _ in jax.tree.leaves_with_path(state.params)}
        assert {f"activations/{layer}" for layer in layers} <= set(seen.histograms)


def test_a_histogram_is_numpys_and_says_where_values_are_not_finite():
    x = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    seen = jax.jit(histogram)(x)
    expected, _ = np.histogram(x, bins=NUM_BINS, range=(x.min(), x.max()))
    assert np.abs(np.asarray(seen.count) - expected).sum() <= 2  # a value on an edge may fall on either side
    assert (float(seen.low), float(seen.high), int(seen.count.sum())) == (x.min(), x.max(), x.size)
    assert int(histogram(jnp.full(9, 2.5)).count.max()) == 9
    assert np.isnan(float(histogram(jnp.array([1.0, jnp.nan])).low))


def test_units_behind_a_relu_that_is_never_on_are_dead(data):
    net = jt.MLP(4, hidden=(8, 6), batch_norm=False)
    state, batch, config = prepared(net, data, dataclasses.replace(PLAIN, l2=1e-2))
    bias = state.params["Dense_0"]["bias"].at[:6].set(-1e4)
    alive = jnp.full(6, 10.0)
    state = dataclasses.replace(state, params={**state.params, "Dense_1": {**state.params["Dense_1"], "bias": alive}})
    params = {**state.params, "Dense_0": {**state.params["Dense_0"], "bias": bias}}
    look = jax.jit(make_probe(net, data, config))
    assert float(look(state, batch).scalars["dead_units/Dense_0"]) == 0
    seen = look(dataclasses.replace(state, params=params), batch)
    assert float(seen.scalars["dead_units/Dense_0"]) == pytest.approx(6 / 8)
    assert float(seen.scalars["dead_units/Dense_1"]) == 0


def test_a_kernel_of_zeros_has_no_ratio(data):
    state, batch, config = prepared(jt.Linear(4), data)
    state = dataclasses.replace(state, params=jax.tree.map(jnp.zeros_like, state.params))
    assert np.isnan(float(make_probe(jt.Linear(4), data, config)(state, batch).scalars["update_ratio/outputs"]))


def test_what_is_shown_is_what_the_step_sees_augmentation_included(data):
    net = jt.Linear(4)
    state, batch, config = prepared(net, data, augment=jt.Augment(crop=2, flip=True), batch_size=48)
    seen = make_probe(net, data, config)(state, batch)
    assert seen.shown.image.shape == (NUM_SHOWN, 8, 8, 1)
    assert not np.array_equal(seen.shown.image, batch.image[:NUM_SHOWN])
    plain = make_probe(net, data, dataclasses.replace(config, augment=jt.Augment()))(state, batch)
    np.testing.assert_array_equal(plain.shown.image, batch.image[:NUM_SHOWN])
    assert float(seen.scalars["gradient_norm"]) != float(plain.scalars["gradient_norm"])


def test_with_micro_batches_it_looks_at_the_first(data):
    net = jt.Linear(4)
    state, batch, config = prepared(net, data, num_micro_batches=2)
    half = make_probe(net, data, config)(state, batch)
    alone = make_probe(net, data, dataclasses.replace(config, num_micro_batches=1))
    part = jax.tree.map(lambda x: x[:8], batch)
    assert float(half.scalars["gradient_norm"]) == pytest.approx(float(alone(state, part).scalars["gradient_norm"]))


def test_a_stack_of_members_is_probed_as_each_alone(data):
    net, keys = NETS["mlp"], jax.random.split(jax.random.key(1), 3)
    state, batch, config = prepared(net, data)
    states = jax.vmap(jt.make_init(net, data, config), (0, None))(keys, PLAIN)
    look = make_probe(net, data, config)
    stacked = jax.jit(jax.vmap(look, (0, None)))(states, batch)
    for index in range(3):
        alone = look(jax.tree.map(lambda x: x[index], states), batch)  # noqa: B023
        for name, value in alone.scalars.items():
            assert float(stacked.scalars[name][index]) == pytest.approx(float(value), rel=1e-4)
        for name, counted in alone.histograms.items():
            assert int(stacked.histograms[name].count[index].sum()) == int(counted.count.sum())


def test_agreement_is_the_cosine_of_the_gradients_of_both_halves(data):
    net = jt.MLP(4, hidden=(8,), batch_norm=False)
    state, batch, config = prepared(net, data)
    seen = jax.jit(make_probe(net, data, config))(state, batch)
    step = jax.jit(jt.make_train_step(net, data, dataclasses.replace(config, batch_size=8)))

    def update(half):
        after = step(state, jax.tree.map(lambda x: x[half], batch))[0].params
        parts = jax.tree.map(lambda new, old: np.ravel(new - old), after, state.params)
        return np.concatenate(jax.tree.leaves(parts))

    first, second = update(slice(0, 8)), update(slice(8, 16))
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert float(seen.scalars["gradient_agreement"]) == pytest.approx(cosine, rel=1e-3)


def test_two_equal_halves_agree_and_three_examples_have_no_halves(data):
    net = jt.MLP(4, hidden=(8,), batch_norm=False)
    state, batch, config = prepared(net, data)
    look = make_probe(net, data, config)
    twice = jax.tree.map(lambda x: jnp.concatenate([x[:8], x[:8]]), batch)
    assert float(look(state, twice).scalars["gradient_agreement"]) == pytest.approx(1, abs=1e-5)
    few = jax.tree.map(lambda x: x[:3], batch)
    assert np.isnan(float(look(state, few).scalars["gradient_agreement"]))


def test_the_input_is_measured_as_the_network_sees_it():
    rng = np.random.default_rng(0)
    table = rng.normal(5, 1, (64, 3)).astype(np.float32) * np.array([1, 10, 0], np.float32)
    data = jt.from_arrays(table, rng.integers(0, 4, 64), preprocess="none")
    state, batch, config = prepared(jt.Linear(4), data)
    seen = make_probe(jt.Linear(4), data, config)(state, batch).scalars
    image = np.asarray(batch.image, np.float64)
    assert float(seen["input_mean"]) == pytest.approx(image.mean(), rel=1e-5)
    assert float(seen["input_std"]) == pytest.approx(image.std(), rel=1e-5)
    sizes = np.sqrt(np.square(image).mean(axis=0))  # of the empty feature there is none
    assert float(seen["input_feature_ratio"]) == pytest.approx(sizes[1] / sizes[0], rel=1e-4)
