"""The step against a NumPy float64 computation of the same formulas, and its laws."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.errors import RequestError
from jaxtrain.models.dropout import hash_mask
from jaxtrain.step import make_setting
from jaxtrain.types import STEP_KEY, Batch, Hyper

RATE, EPS = 1e-2, 1e-5


class Tiny(nn.Module):
    """Dense(5), BatchNorm, ReLU, Dropout, Dense(3)."""

    @nn.compact
    def __call__(self, image, *, train, hyper):
        x = nn.Dense(5, use_bias=False)(image.reshape(image.shape[0], -1))
        x = nn.relu(jt.BatchNorm()(x, train=train))
        return nn.Dense(3)(jt.Dropout()(x, hyper.dropout_rate, train=train))


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(1)
    return jt.from_arrays(random.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3, val_share=0.2)


@pytest.fixture(scope="module")
def config():
    return jt.Config(epochs=2, batch_size=8, schedule=jt.Schedule(kind="constant"))


@pytest.fixture(scope="module")
def batch(data):
    return next(iter(jt.epoch(data, jax.random.key(0), 0, 8)))


def to64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def dropout_scale(state, hyper, shape):
    """The mask that the step draws, over 1 - rate."""
    step_key = jax.random.fold_in(jax.random.fold_in(state.key, STEP_KEY), state.step)
    _, key = jax.random.split(step_key)
    seen = []

    class Probe(nn.Module):
        @nn.compact
        def __call__(self, image, *, train, hyper):
            x = nn.Dense(5, use_bias=False)(image)
            x = nn.relu(jt.BatchNorm()(x, train=train))
            seen.append(jt.Dropout()(jnp.ones_like(x), hyper.dropout_rate, train=train))
            return nn.Dense(3)(seen[-1])

    Probe().apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        jnp.zeros((shape[0], 4)),
        train=True,
        hyper=hyper,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    return np.asarray(seen[0], np.float64)


def numpy_gradient(params, batch, scale):
    """Loss, gradient and the batch's statistics by the chain rule in float64 (Ioffe & Szegedy, section 3)."""
    x, label = np.asarray(batch.image, np.float64), np.asarray(batch.label)
    m, rows = len(x), np.arange(len(x))
    dense, norm, out = params["Dense_0"], params["BatchNorm_0"], params["Dense_1"]
    z = x @ dense["kernel"]
    mean, var = z.mean(0), z.var(0)
    hat = (z - mean) / np.sqrt(var + EPS)
    y = hat * norm["scale"] + norm["bias"]
    dropped = np.maximum(y, 0) * scale
    logits = dropped @ out["kernel"] + out["bias"]
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = -log_p[rows, label].mean()
    d_logits = np.exp(log_p)
    d_logits[rows, label] -= 1
    d_logits /= m
    d_y = (d_logits @ out["kernel"].T) * scale * (y > 0)
    d_hat = d_y * norm["scale"]
    d_z = (d_hat - d_hat.mean(0) - hat * (d_hat * hat).mean(0)) / np.sqrt(var + EPS)
    gradient = {
        "Dense_0": {"kernel": x.T @ d_z},
        "BatchNorm_0": {"scale": (d_y * hat).sum(0), "bias": d_y.sum(0)},
        "Dense_1": {"kernel": dropped.T @ d_logits, "bias": d_logits.sum(0)},
    }
    return loss, gradient, {"mean": mean, "var": var * m / (m - 1)}


def test_one_adam_step_equals_a_numpy_float64_computation(data, config, batch):
    hyper = Hyper(learning_rate=RATE, dropout_rate=0.4)
    state = jt.make_init(Tiny(), data, config)(jax.random.key(3), hyper)
    after, metrics = jax.jit(jt.make_train_step(Tiny(), data, config))(state, batch)
    scale = dropout_scale(state, state.hyper, (8, 5))
    assert 0 < (scale == 0).mean() < 1  # the mask is no trivial one
    loss, gradient, stats = numpy_gradient(to64(state.params), batch, scale)
    # First Adam step: both moments are bias-corrected to g and g^2.
    expected = jax.tree.map(lambda p, g: p - RATE * g / (np.sqrt(g * g) + 1e-8), to64(state.params), gradient)
    np.testing.assert_allclose(metrics.sums["loss"] / metrics.count, loss, rtol=1e-6)
    # Entries whose gradient is near zero (dead units) are at the mercy of rounding: Adam divides noise by noise.
    for path, g in jax.tree_util.tree_leaves_with_path(gradient):
        clear = np.abs(g) > 1e-6
        np.testing.assert_allclose(
            np.asarray(at(after.params, path))[clear], at(expected, path)[clear], rtol=2e-6, atol=1e-7
        )
        moment = at(after.opt_state[0].mu, path)
        np.testing.assert_allclose(moment, 0.1 * g, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(after.batch_stats["BatchNorm_0"]["mean"], stats["mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.batch_stats["BatchNorm_0"]["var"], stats["var"], rtol=1e-5)


def at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_step_with_micro_batches_averages_the_gradient_of_the_whole_batch(data, config, batch):
    """Without BatchNorm and dropout the gradient of a mean is the mean of the gradients."""
    net = jt.MLP(num_outputs=3, hidden=(6,), batch_norm=False)
    hyper = Hyper(learning_rate=0.1, momentum=None, l2=0.1)
    config = dataclasses.replace(config, optimizer=jt.Sgd())
    split = dataclasses.replace(config, num_micro_batches=4)
    state = jt.make_init(net, data, config)(jax.random.key(0), hyper)
    one, metrics = jt.make_train_step(net, data, config)(state, batch)
    four, summed = jt.make_train_step(net, data, split)(state, batch)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(metrics.sums["loss"], summed.sums["loss"], rtol=1e-6)


def test_members_under_vmap_are_the_members_alone(data, config, batch):
    step, init = jt.make_train_step(Tiny(), data, config), jt.make_init(Tiny(), data, config)
    hyper = Hyper(learning_rate=RATE, dropout_rate=0.4, weight_decay=0.1)
    keys = jax.random.split(jax.random.key(5), 3)
    members, metrics = jax.jit(jax.vmap(step, (0, None)))(jax.vmap(init, (0, None))(keys, hyper), batch)
    for i in range(3):
        alone, own = jax.jit(step)(init(keys[i], hyper), batch)
        for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(members.params), strict=True):
            np.testing.assert_allclose(a, b[i], atol=2e-6)
        np.testing.assert_allclose(own.sums["loss"], metrics.sums["loss"][i], rtol=1e-5)


def test_members_may_differ_in_their_hyper_parameters(data, config, batch):
    step, init = jt.make_train_step(Tiny(), data, config), jt.make_init(Tiny(), data, config)
    two = [Hyper(learning_rate=1e-3, dropout_rate=0.0), Hyper(learning_rate=1e-1, dropout_rate=0.5)]
    rates = jax.tree.map(lambda *x: jnp.array(x), *two)
    states = jax.vmap(init, (None, 0))(jax.random.key(0), rates)
    after, _ = jax.vmap(step, (0, None))(states, batch)
    moved = [np.abs(after.params["Dense_1"]["bias"][i] - states.params["Dense_1"]["bias"][i]).max() for i in (0, 1)]
    np.testing.assert_allclose(moved, [1e-3, 1e-1], rtol=1e-3)


def test_frozen_parts_stay_bit_for_bit_and_the_others_move(data, config, batch):
    frozen = dataclasses.replace(config, frozen=("Dense_0", "BatchNorm_0"))
    hyper = Hyper(learning_rate=RATE, weight_decay=0.5)
    state = jt.make_init(Tiny(), data, frozen)(jax.random.key(0), hyper)
    after, _ = jt.make_train_step(Tiny(), data, frozen)(state, batch)
    for name, same in [("Dense_0", True), ("BatchNorm_0", True), ("Dense_1", False)]:
        pairs = zip(jax.tree.leaves(state.params[name]), jax.tree.leaves(after.params[name]), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs) is same
    assert np.array_equal(state.batch_stats["BatchNorm_0"]["mean"], after.batch_stats["BatchNorm_0"]["mean"])


def test_the_loss_holds_the_penalty_only_in_its_gradient(data, config, batch):
    """The reported loss is that of the data; the penalty acts through the gradient: SGD moves by rate * l2 * w more."""
    config = dataclasses.replace(config, optimizer=jt.Sgd())
    moves = []
    for l2 in (None, 0.5):
        hyper = Hyper(learning_rate=0.1, momentum=None, l2=l2)
        state = jt.make_init(Tiny(), data, config)(jax.random.key(0), hyper)
        after, metrics = jt.make_train_step(Tiny(), data, config)(state, batch)
        moves.append((state, after, metrics))
    (state, plain, first), (_, decayed, second) = moves
    assert float(first.sums["loss"]) == float(second.sums["loss"])
    difference = plain.params["Dense_1"]["kernel"] - decayed.params["Dense_1"]["kernel"]
    np.testing.assert_allclose(difference, 0.05 * state.params["Dense_1"]["kernel"], atol=1e-6)
    np.testing.assert_array_equal(plain.params["Dense_1"]["bias"], decayed.params["Dense_1"]["bias"])


def test_recalibrate_is_the_mean_of_single_batch_statistics(data, config):
    state = jt.make_init(Tiny(), data, config)(jax.random.key(0), Hyper(dropout_rate=0.5))
    batches = list(jt.epoch(data, state.key, 0, 8))
    found = jt.recalibrate(Tiny(), state.params, state.batch_stats, batches, hyper=state.hyper)["BatchNorm_0"]
    z = [np.asarray(b.image, np.float64) @ np.asarray(state.params["Dense_0"]["kernel"], np.float64) for b in batches]
    np.testing.assert_allclose(found["mean"], np.mean([x.mean(0) for x in z], 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["var"], np.mean([x.var(0, ddof=1) for x in z], 0), rtol=1e-5)


def test_recalibrate_refuses_statistics_that_it_cannot_take_apart(data, config):
    class Foreign(nn.Module):
        @nn.compact
        def __call__(self, image, *, train):
            return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(image))

    state = jt.make_init(Foreign(), data, config)(jax.random.key(0), Hyper())
    with pytest.raises(RequestError, match="cannot be recalibrated"):
        jt.recalibrate(Foreign(), state.params, state.batch_stats, jt.epoch(data, state.key, 0, 8))


def test_any_linen_module_trains_with_its_own_norm_and_dropout(data, config, batch):
    class Foreign(nn.Module):
        @nn.compact
        def __call__(self, image, *, train):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(image))
            return nn.Dense(3)(nn.Dropout(0.2, deterministic=not train)(nn.relu(x)))

    state = jt.make_init(Foreign(), data, config)(jax.random.key(0), Hyper(learning_rate=1e-2))
    step, losses = jax.jit(jt.make_train_step(Foreign(), data, config)), []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics.sums["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_ema_follows_the_parameters_and_starts_at_them(data, config, batch):
    with_ema = dataclasses.replace(config, ema_decay=0.9)
    state = jt.make_init(Tiny(), data, with_ema)(jax.random.key(0), Hyper(learning_rate=RATE))
    after, _ = jt.make_train_step(Tiny(), data, with_ema)(state, batch)
    decay = min(0.9, 1 / 10)  # warm-up: (1 + t) / (10 + t) at t = 0
    expected = decay * state.params["Dense_1"]["kernel"] + (1 - decay) * after.params["Dense_1"]["kernel"]
    np.testing.assert_allclose(after.ema["Dense_1"]["kernel"], expected, atol=1e-6)


def test_a_users_optimizer_comes_in_as_one_function(data, config, batch):
    import optax

    def lion(hyper, schedule):
        return optax.lion(lambda step: hyper.learning_rate * schedule(step), b1=0.9, b2=0.99)

    config = dataclasses.replace(config, optimizer=lion)
    state = jt.make_init(Tiny(), data, config)(jax.random.key(0), Hyper(learning_rate=1e-3))
    after, _ = jax.jit(jt.make_train_step(Tiny(), data, config))(state, batch)
    moved = np.abs(after.params["Dense_1"]["bias"] - state.params["Dense_1"]["bias"])
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-4)  # Lion moves every entry by the rate


def test_equal_modules_make_equal_settings(data, config):
    assert make_setting(Tiny(), data, config) == make_setting(Tiny(), data, config)
    assert hash(make_setting(Tiny(), data, config)) == hash(make_setting(Tiny(), data, config))


def test_the_mask_is_the_one_of_the_step_not_of_the_run(data, config, batch):
    """Two steps draw two masks: the same state one step on loses other units."""
    assert not np.array_equal(
        hash_mask(jax.random.fold_in(jax.random.key(0), 0), (64,), jnp.float32(0.5)),
        hash_mask(jax.random.fold_in(jax.random.key(0), 1), (64,), jnp.float32(0.5)),
    )


def test_batches_of_epoch_have_weight_one(batch: Batch):
    assert np.array_equal(batch.weight, np.ones(8))
