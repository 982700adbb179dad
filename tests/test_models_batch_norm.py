"""BatchNorm against the paper's formulas in NumPy float64, and the laws of its running averages."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.errors import RequestError
from jaxtrain.models import BatchNorm, is_own_batch_stats, reset_batch_stats
from jaxtrain.models.batch_norm import batch_moments, normalise_batch, update_weight

SHAPES = [(16, 5), (4, 3, 3, 5)]


def batch(shape, seed=0, mean=0.0, std=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(mean, std, shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def start(norm, x):
    variables = norm.init(jax.random.key(0), x, train=False)
    return variables.get("params", {}), variables["batch_stats"]


@functools.partial(jax.jit, static_argnums=0)
def train(norm, params, stats, x):
    y, updated = norm.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def oracle(x, scale, bias, epsilon=1e-5):
    """Algorithm 1, float64: output, mean, biased variance, number of values per channel."""
    x = np.asarray(x, np.float64)
    axes = tuple(range(x.ndim - 1))
    mean, var, num_values = x.mean(axes), x.var(axes), x.size // x.shape[-1]
    return scale * (x - mean) / np.sqrt(var + epsilon) + bias, mean, var, num_values


@pytest.mark.parametrize("shape", SHAPES)
def test_training_output_is_algorithm_1(shape):
    x, norm = batch(shape, mean=3, std=2), BatchNorm()
    _, stats = start(norm, x)
    scale, bias = np.linspace(0.5, 2, 5), np.linspace(-1, 1, 5)
    y, _ = train(norm, {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}, stats, x)
    np.testing.assert_allclose(y, oracle(x, scale, bias)[0], atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_update_leaves_exactly_the_batch_mean_and_unbiased_variance(shape):
    x, norm = batch(shape, mean=3, std=2), BatchNorm()
    _, mean, var, num_values = oracle(x, 1, 0)
    _, after = train(norm, *start(norm, x), x)
    np.testing.assert_allclose(after["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(after["var"], var * num_values / (num_values - 1), rtol=1e-6)
    fresh, other = reset_batch_stats(after), batch(shape, 1)
    once, again = train(norm, start(norm, x)[0], fresh, other)[1], train(norm, *start(norm, x), other)[1]
    jax.tree.map(np.testing.assert_array_equal, once, again)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.999])
def test_running_averages_are_the_debiased_exponential_ones(momentum):
    norm = BatchNorm(momentum=momentum)
    params, stats = start(norm, batch((8, 5)))
    mean, var = np.zeros(5), np.zeros(5)
    for step in range(6):
        x = batch((8, 5), seed=step, mean=step)
        _, stats = train(norm, params, stats, x)
        _, batch_mean, batch_var, _ = oracle(x, 1, 0)
        mean = momentum * mean + (1 - momentum) * batch_mean
        var = momentum * var + (1 - momentum) * batch_var * 8 / 7
        correction = 1 - momentum ** (step + 1)
        np.testing.assert_allclose(stats["mean"], mean / correction, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stats["var"], var / correction, rtol=1e-5)


def test_the_weight_of_a_new_value_falls_to_one_minus_momentum():
    weights = [float(update_weight(0.9, jnp.float32(count))) for count in (0, 1, 10_000)]
    np.testing.assert_allclose(weights, [1, 0.1 / (1 - 0.81), 0.1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(128, 5), (16, 4, 4, 5)])
@pytest.mark.parametrize("mean, std", [(1000, 0.1), (-1000, 0.1), (0, 1e-2), (1e-3, 30)])
def test_far_from_zero_the_output_still_has_deviation_one(mean, std, shape):
    x, norm = batch(shape, mean=mean, std=std), BatchNorm(epsilon=0.0)
    y = train(norm, *start(norm, x), x)[0].reshape(-1, 5)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-3)
    np.testing.assert_allclose(y.mean(0), 0, atol=2e-3)  # numbers of 1000 have steps of 6e-5


def test_moments_are_exact_though_the_first_example_is_an_outlier():
    x = batch((256, 8, 8, 3)).at[0].add(1000.0)
    mean, var = jax.jit(batch_moments)(x)
    np.testing.assert_allclose(mean, np.asarray(x, np.float64).mean((0, 1, 2)), rtol=1e-4)  # 1e-6 of the deviation, 62
    np.testing.assert_allclose(var, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-4)


def test_constant_channels_become_zero_and_keep_a_finite_gradient():
    x, norm = jnp.full((8, 5), 7.0), BatchNorm()
    params, stats = start(norm, x)
    y, grad = jax.jit(jax.value_and_grad(lambda x: jnp.square(train(norm, params, stats, x)[0] - 1).sum()))(x)
    assert y == 40 and np.isfinite(grad).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_finite_difference_of_the_oracle(shape):
    x, norm = batch(shape), BatchNorm()
    weights = np.random.default_rng(1).normal(size=shape)
    params, stats = start(norm, x)
    grad = jax.jit(jax.grad(lambda x: (train(norm, params, stats, x)[0] * weights).sum()))(x)
    for index in [(0,) * len(shape), (2, *(1,) * (len(shape) - 1)), tuple(size - 1 for size in shape)]:
        shift = np.zeros(shape)
        shift[index] = 1e-5
        up, down = (np.asarray(x, np.float64) + sign * shift for sign in (1, -1))
        difference = ((oracle(up, 1, 0)[0] - oracle(down, 1, 0)[0]) * weights).sum() / 2e-5
        np.testing.assert_allclose(grad[index], difference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_derivative_that_is_written_down_is_that_of_the_formula(shape):
    def formula(x, scale, bias):
        axes = tuple(range(x.ndim - 1))
        mean, var = x.mean(axes), x.var(axes)
        wide = [v.reshape((1,) * len(axes) + (-1,)) for v in (mean, var, scale, bias)]
        return (x - wide[0]) / jnp.sqrt(wide[1] + 1e-5) * wide[2] + wide[3], mean, var

    def ours(x, scale, bias):
        return normalise_batch(1e-5, x, scale, bias)

    point = batch(shape, mean=1, std=2), jnp.linspace(0.5, 2, 5), jnp.linspace(-1, 1, 5)
    direction = batch(shape, 1), jnp.linspace(1, -2, 5), jnp.linspace(0.3, 2, 5)

    def loss(f):
        return lambda *x: sum(jnp.sin(output).sum() for output in f(*x))

    def derivatives(f):
        forwards = jax.jvp(f, point, direction)
        second = jax.jvp(jax.grad(loss(f), (0, 1, 2)), point, direction)  # the first, and along the direction
        return forwards, second

    expected = jax.jit(lambda: derivatives(formula))()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        jax.jit(lambda: derivatives(ours))(),
        expected,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_flax_where_the_semantics_coincide(shape):
    x = batch(shape)
    ours, theirs = BatchNorm(), nn.BatchNorm(use_running_average=False, use_fast_variance=False)
    params, stats = start(ours, x)
    loss = {
        "ours": lambda x: jnp.sin(train(ours, params, stats, x)[0]).sum(),
        "theirs": lambda x: jnp.sin(theirs.init_with_output(jax.random.key(0), x)[0]).sum(),
    }
    values = {name: jax.jit(jax.value_and_grad(f))(x) for name, f in loss.items()}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), values["ours"], values["theirs"])
    evaluated = ours.apply({"params": params, "batch_stats": stats}, x, train=False)
    np.testing.assert_allclose(evaluated, x / np.sqrt(1 + 1e-5), atol=1e-6)  # before any update: mean 0, variance 1


def test_evaluation_uses_the_running_statistics_and_changes_nothing():
    norm = BatchNorm()
    params, stats = start(norm, batch((8, 5)))
    stats = {**stats, "mean": jnp.arange(5.0), "var": jnp.full(5, 4.0)}
    x = batch((8, 5))
    y, updated = norm.apply({"params": params, "batch_stats": stats}, x, train=False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (np.asarray(x) - np.arange(5)) / np.sqrt(4 + 1e-5), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], stats)


def test_init_in_training_mode_updates_no_average():
    x = batch((8, 5), mean=3)
    stats = BatchNorm().init(jax.random.key(0), x, train=True)["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, stats, start(BatchNorm(), x)[1])


def test_vmapped_members_are_the_single_ones():
    norm = BatchNorm()
    x = jnp.stack([batch((8, 5), seed, mean=seed) for seed in range(3)])
    params, stats = start(norm, x[0])
    many = jax.vmap(lambda x: train(norm, params, stats, x))(x)
    for member in range(3):
        alone = train(norm, params, stats, x[member])
        picked = jax.tree.map(lambda leaf, member=member: leaf[member], many)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), picked, alone)


def test_statistics_are_float32_and_the_output_has_the_asked_dtype():
    x = batch((64, 5), mean=100).astype(jnp.bfloat16)
    for norm, dtype in [(BatchNorm(), "bfloat16"), (BatchNorm(dtype="float32"), "float32")]:
        y, stats = train(norm, *start(norm, x), x)
        assert y.dtype == dtype and {leaf.dtype.name for leaf in jax.tree.leaves(stats)} == {"float32"}
        np.testing.assert_allclose(stats["mean"], np.asarray(x, np.float64).mean(0), rtol=1e-5)


def test_scale_and_bias_can_be_left_out_or_begin_at_zero():
    x = batch((8, 5))
    assert start(BatchNorm(use_scale=False, use_bias=False), x)[0] == {}
    norm = BatchNorm(initial_scale=0.0)
    assert not np.any(train(norm, *start(norm, x), x)[0])


@pytest.mark.parametrize("shape", [(1, 5), (1, 1, 1, 5)])
def test_one_value_per_channel_is_refused_in_training_only(shape):
    x, norm = jnp.ones(shape), BatchNorm()
    params, stats = start(norm, x)
    with pytest.raises(RequestError, match="1 value per channel.*examples or more"):
        train(norm, params, stats, x)
    assert norm.apply({"params": params, "batch_stats": stats}, x, train=False).shape == shape


def test_one_image_has_many_values_per_channel():
    x, norm = batch((1, 3, 3, 5)), BatchNorm()
    assert np.isfinite(train(norm, *start(norm, x), x)[0]).all()


def test_momentum_out_of_range_is_refused():
    norm, x = BatchNorm(momentum=1.0), batch((8, 5))
    with pytest.raises(RequestError, match="momentum is 1.0"):
        train(norm, *start(norm, x), x)


def test_our_statistics_are_told_from_flax_ones():
    x = batch((8, 5))
    ours, theirs = start(BatchNorm(), x)[1], nn.BatchNorm(use_running_average=True).init(jax.random.key(0), x)
    assert is_own_batch_stats({}) and is_own_batch_stats({"A": {"B": ours}})
    assert not is_own_batch_stats({"A": ours, "B": theirs["batch_stats"]})
    both = {"A": {**ours, "mean": jnp.ones(5)}, "B": theirs["batch_stats"]}
    cleared = reset_batch_stats(both)
    jax.tree.map(np.testing.assert_array_equal, cleared, {"A": ours, "B": theirs["batch_stats"]})
