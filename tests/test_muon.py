"""Muon against a decomposition in float64, and the laws of an optimizer that is one of three."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxtrain as jt
from jaxtrain.config import Muon, Sgd
from jaxtrain.optim import freeze, frozen_mask, optimizer
from jaxtrain.optim.muon import COEFFICIENTS, hidden_mask, hold_norm, orthogonalise
from jaxtrain.types import Hyper

SHAPES = {"wide": (20, 48), "tall": (60, 16), "square": (24, 24), "filter": (3, 3, 8, 24)}


def constant(step):
    return jnp.ones_like(step, jnp.float32)


def polynomial(values, num_steps):
    """The iteration on singular values, in float64."""
    a, b, c = COEFFICIENTS
    for _ in range(num_steps):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_steps", [3, 5])
def test_singular_values_follow_the_polynomial_and_vectors_stay(shape, num_steps):
    gradient = np.random.default_rng(0).normal(size=SHAPES[shape])
    matrix = gradient.reshape(-1, gradient.shape[-1])
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    inputs, outputs = matrix.shape
    wanted = left * polynomial(values / np.linalg.norm(values), num_steps) @ right * max(1, outputs / inputs) ** 0.5
    with jax.default_matmul_precision("highest"):
        found = orthogonal(num_steps, jnp.asarray(gradient, jnp.float32))
    np.testing.assert_allclose(np.reshape(found, matrix.shape), wanted, atol=2e-5)


def test_five_steps_bring_all_that_is_not_tiny_near_one():
    values = polynomial(np.geomspace(0.01, 1, 100), 5)
    assert 0.68 < values.min() and values.max() < 1.21


def test_the_size_of_a_gradient_does_not_matter_and_none_gives_none():
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
    one, other, none = (orthogonal(5, factor * gradient) for factor in (1, 1e-6, 0))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(none, 0)


def orthogonal(num_steps, matrix) -> Any:
    """One leaf by the transformation."""
    updates: Any = orthogonalise(num_steps).update({"w": matrix}, optax.EmptyState())[0]
    return updates["w"]


def tree(seed=0) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"Dense_0": {"kernel": (5, 4), "bias": (4,)}, "outputs": {"kernel": (4, 3), "bias": (3,)}}
    return {
        name: {leaf: jnp.asarray(rng.normal(size=shape), jnp.float32) for leaf, shape in part.items()}
        for name, part in shapes.items()
    }


def stepped(rule, hyper, num_steps=3) -> Any:
    """Parameters after a few updates, by one compiled chain."""
    params = tree()

    @jax.jit
    def run(params):
        chain = optimizer(hyper, constant, rule)
        state = chain.init(params)
        for step in range(num_steps):
            updates, state = chain.update(tree(1 + step), state, params)
            params = optax.apply_updates(params, updates)
        return params

    return run(params)


def test_what_is_no_hidden_kernel_is_updated_by_nesterovs_sgd():
    hyper = Hyper(learning_rate=0.1, momentum=0.8, weight_decay=0.1)
    ours, sgd = stepped(Muon(), hyper), stepped(Sgd(nesterov=True), hyper)
    np.testing.assert_array_equal(ours["outputs"]["kernel"], sgd["outputs"]["kernel"])
    np.testing.assert_array_equal(ours["Dense_0"]["bias"], sgd["Dense_0"]["bias"])
    assert not np.allclose(ours["Dense_0"]["kernel"], sgd["Dense_0"]["kernel"])


def test_the_rest_may_have_a_rate_of_its_own():
    hyper = Hyper(learning_rate=0.02, momentum=0.8, rest_rate=5.0)
    ours, sgd = stepped(Muon(), hyper), stepped(Sgd(nesterov=True), Hyper(learning_rate=0.1, momentum=0.8))
    np.testing.assert_allclose(ours["outputs"]["kernel"], sgd["outputs"]["kernel"], rtol=1e-5, atol=1e-6)
    plain = stepped(Muon(), dataclasses.replace(hyper, rest_rate=None))
    np.testing.assert_array_equal(ours["Dense_0"]["kernel"], plain["Dense_0"]["kernel"])


@pytest.mark.parametrize("momentum", [0.6, None])
def test_the_rest_may_have_a_momentum_of_its_own(momentum):
    hyper = Hyper(learning_rate=0.1, momentum=momentum, rest_momentum=0.8)
    ours, sgd = stepped(Muon(), hyper), stepped(Sgd(nesterov=True), Hyper(learning_rate=0.1, momentum=0.8))
    for layer, leaf in (("outputs", "kernel"), ("outputs", "bias"), ("Dense_0", "bias")):
        np.testing.assert_allclose(ours[layer][leaf], sgd[layer][leaf], rtol=1e-5, atol=1e-6)
    plain = stepped(Muon(), dataclasses.replace(hyper, rest_momentum=None))
    np.testing.assert_array_equal(ours["Dense_0"]["kernel"], plain["Dense_0"]["kernel"])


@pytest.mark.parametrize("decay", ["lr", "paper"])
def test_the_chain_is_that_of_its_equations(decay):
    """By hand in float64: Nesterov, orthogonalised; the length held before each update; decay and both rates."""
    rate, rest, momentum, weight, steps = 0.3, 2.0, 0.7, 0.2, 3
    rule = Muon(steps=steps, hold_norm=True, decay=decay)
    with jax.default_matmul_precision("highest"):
        found = stepped(rule, Hyper(learning_rate=rate, rest_rate=rest, momentum=momentum, weight_decay=weight), 3)
    wanted = jax.tree.map(lambda x: np.asarray(x, np.float64), tree())
    buffer = jax.tree.map(np.zeros_like, wanted)
    for step in range(3):
        for layer, hidden in (("Dense_0", True), ("outputs", False)):
            for leaf, old in wanted[layer].items():
                gradient = np.asarray(tree(1 + step)[layer][leaf], np.float64)
                buffer[layer][leaf] = momentum * buffer[layer][leaf] + gradient
                update = gradient + momentum * buffer[layer][leaf]
                is_hidden = hidden and leaf == "kernel"
                if is_hidden:
                    left, values, right = np.linalg.svd(update, full_matrices=False)
                    update = left * polynomial(values / np.linalg.norm(values), steps) @ right
                own = rate * (1 if is_hidden else rest)
                shrink = weight * old if leaf == "kernel" else 0
                held = old * 2 / np.linalg.norm(old) if is_hidden else old
                wanted[layer][leaf] = held - own * update - (own if decay == "lr" else 1) * shrink
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), found, wanted)


def test_what_is_left_to_sgd_is_named_by_whole_names():
    params = {name: {"kernel": jnp.zeros((2, 2))} for name in ("Dense_1", "Dense_10", "outputs")}
    mask = hidden_mask(params, ("outputs", "Dense_1/"))
    assert mask == {"Dense_1": {"kernel": False}, "Dense_10": {"kernel": True}, "outputs": {"kernel": False}}


def test_what_is_no_matrix_product_is_left_to_sgd():
    shapes = {
        "Conv_0": (3, 8, 16),
        "query": (64, 4, 16),
        "Dense_0": (4, 3),
        "one_input": (1, 3),
        "filters": (3, 3, 4, 8),
    }
    params = {name: {"kernel": jnp.zeros(shape)} for name, shape in shapes.items()}
    params |= {"Embed_0": {"embedding": jnp.zeros((9, 4))}, "norm": {"scale": jnp.zeros(4)}}
    mask = hidden_mask(params, ("outputs",))
    assert {name for name, part in mask.items() if any(part.values())} == {"Conv_0", "Dense_0", "filters"}


def test_frozen_layers_stay_and_the_others_go_on():
    params, rule = tree(), Muon(hold_norm=True)
    chain = freeze(
        optimizer(Hyper(learning_rate=0.1, rest_rate=2.0), constant, rule), frozen_mask(params, ("outputs",))
    )
    updates: Any = chain.update(tree(1), chain.init(params), params)[0]
    np.testing.assert_array_equal(updates["outputs"]["kernel"], 0)
    assert np.abs(updates["Dense_0"]["kernel"]).max() > 0


def test_an_enormous_gradient_still_has_a_direction():
    gradient = jnp.full((4, 4), 1e25).at[0].set(0)
    found = orthogonal(5, gradient)
    assert np.isfinite(found).all() and np.abs(found).max() > 0.1


def test_a_name_of_no_layer_is_refused_and_the_default_may_be_that_of_none():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, image, *, train, hyper=None):
            return nn.Dense(10)(image.reshape(image.shape[0], -1))

    data, hyper = jt.DataConfig("digits"), jt.Hyper(learning_rate=0.02)
    config = jt.Config(epochs=1, optimizer=Muon(rest=("Dense_00",)))
    with pytest.raises(jt.errors.RequestError, match="config.optimizer.rest has 'Dense_00'.*nearest: Dense_0"):
        jt.fit(Own(), data, config, hyper, quiet=True)
    jt.fit(Own(), data, dataclasses.replace(config, optimizer=Muon()), hyper, quiet=True)


def test_held_kernels_have_their_length_before_each_update():
    params = tree()
    updates = jax.tree.map(jnp.zeros_like, params)
    moved, _ = hold_norm(("outputs",)).update(updates, None, params)
    after: Any = optax.apply_updates(params, moved)
    assert np.linalg.norm(after["Dense_0"]["kernel"]) == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_array_equal(after["outputs"]["kernel"], params["outputs"]["kernel"])
    with pytest.raises(ValueError, match="pass params"):
        hold_norm(()).update(updates, None)


def test_members_may_differ_in_both_rates():
    def after(rate, rest):
        return stepped(Muon(hold_norm=True), Hyper(learning_rate=rate, rest_rate=rest))

    rates, rests = jnp.array([0.1, 0.02]), jnp.array([1.0, 3.0])
    together = jax.vmap(after)(rates, rests)
    for index in range(2):
        one, alone = jax.tree.map(lambda x, i=index: x[i], together), after(rates[index], rests[index])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), one, alone)


def test_a_run_by_muon_learns_and_is_repeated_by_its_json(tmp_path):
    config = jt.Config(epochs=4, batch_size=64, optimizer=Muon(steps=3, hold_norm=True))
    hyper = jt.Hyper(learning_rate=0.1, momentum=0.6, rest_rate=0.3, label_smoothing=0.1)
    run = jt.fit(jt.MLP(hidden=(64,)), jt.DataConfig("digits"), config, hyper, workdir=tmp_path / "run", quiet=True)
    assert run.test.accuracy > 0.9
    again = jt.configfile.load_config(str(tmp_path / "run" / "config.json"))
    assert again.config == config and float(again.hyper.rest_rate) == 0.3
    with pytest.raises(jt.errors.RequestError, match="steps is 0"):
        jt.fit(jt.MLP(), jt.DataConfig("digits"), dataclasses.replace(config, optimizer=Muon(steps=0)))
