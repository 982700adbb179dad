"""Dropout's laws, and the statistics of both masks: rate and independence, at fixed seeds."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.errors import RequestError
from jaxtrain.models import Dropout
from jaxtrain.models.dropout import hash_mask, threefry_mask

MASKS = {"hash": hash_mask, "threefry": threefry_mask}
RATES = [0.1, 0.2, 0.5, 0.8]
SHAPE = (128, 512)
NUM_MASKS = 32


def drop(x, rate, key=0, train=True, mask="hash"):
    return Dropout(mask=mask).apply({}, x, rate, train=train, rngs={"dropout": jax.random.key(key)})


@functools.cache
def draw_masks(mask):
    return jax.jit(jax.vmap(lambda key, rate: MASKS[mask](key, SHAPE, rate), (0, None)))


def standardised(mask, rate, seeds=range(NUM_MASKS)):
    """f32[len(seeds), 128, 512]: masks with mean 0 and variance 1, if the rate is right. One key a training step."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(7), seed))(jnp.asarray(list(seeds)))
    masks = np.asarray(draw_masks(mask)(keys, jnp.float32(rate)), np.float32)
    return (masks - np.float32(1 - rate)) / np.float32(math.sqrt(rate * (1 - rate)))


def assert_unrelated(a, b):
    """Correlations of independent pairs, in units of their deviation: standard normal, one for each mask."""
    scores = np.einsum("kij,kij->k", a, b) / math.sqrt(a[0].size)
    assert abs(scores).max() < 4.5  # 1 in 150,000 each
    assert 0.3 < np.square(scores).mean() < 2.2  # chi-square with 32 degrees of freedom: 1 in 100,000 on either side


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rate", RATES)
def test_rate_is_as_asked_and_varies_as_it_should(mask, rate):
    x = standardised(mask, rate)
    assert_unrelated(x, np.ones_like(x))
    assert abs(x.sum() / math.sqrt(x.size)) < 4
    for axis in (1, 2):  # counts per column and per row are binomial: chi-square over all of them
        counts = x.sum(axis) / math.sqrt(x.shape[axis])
        assert abs(np.square(counts).mean() - 1) < 5 * math.sqrt(2 / counts.size)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rate", RATES)
def test_neighbours_rows_and_steps_are_independent(mask, rate):
    x = standardised(mask, rate)
    for lag in (1, 2, 3, 4, 8, 16, 64, 256):
        assert_unrelated(x[:, :, lag:], x[:, :, :-lag])
    for lag in (1, 2, 32):
        assert_unrelated(x[:, lag:], x[:, :-lag])
    assert_unrelated(x, np.roll(x, 1, axis=0))  # the next step's mask
    assert_unrelated(x, x[::-1, ::-1, ::-1])


@pytest.mark.parametrize("mask", MASKS)
def test_runs_of_eight_are_equally_frequent_at_one_half(mask):
    kept = standardised(mask, 0.5) > 0
    words = np.packbits(kept.reshape(-1)).astype(int)
    expected = words.size / 256
    chi_square = np.square(np.bincount(words, minlength=256) - expected).sum() / expected
    assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("mask", MASKS)
def test_pairs_of_neighbours_are_as_frequent_as_independence_says(mask):
    dropped = standardised(mask, 0.2) < 0
    pairs = 2 * dropped[:, :, 1::2] + dropped[:, :, ::2]
    expected = pairs.size * np.array([0.64, 0.16, 0.16, 0.04])
    assert (np.square(np.bincount(pairs.reshape(-1), minlength=4) - expected) / expected).sum() < 25  # 3 degrees


@pytest.mark.parametrize("rate", RATES)
def test_keys_that_differ_in_one_bit_give_unrelated_hash_masks(rate, monkeypatch):
    monkeypatch.setattr(jax.random, "bits", lambda words, *_: words)  # the words of the key as they are
    words = np.random.default_rng(3).integers(0, 2**32, 2, dtype=np.uint32)
    flips = np.array([[1 << bit, 0] for bit in range(32)] + [[0, 1 << bit] for bit in range(32)], np.uint32)
    masks = jax.vmap(lambda words: hash_mask(words, SHAPE, jnp.float32(rate)))(jnp.asarray(words ^ flips))
    base = hash_mask(jnp.asarray(words), SHAPE, jnp.float32(rate))
    agreement = np.mean(np.asarray(masks) == np.asarray(base)[None], axis=(1, 2))
    np.testing.assert_allclose(agreement, rate**2 + (1 - rate) ** 2, atol=0.015)  # 65,536 pairs: 7 deviations


def test_layers_and_members_draw_their_own_masks():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Dropout()(x, 0.5, train=True), Dropout()(x, 0.5, train=True)

    keys = jax.random.split(jax.random.key(0), 8)
    first, second = jax.vmap(lambda key: Two().apply({}, jnp.ones(SHAPE), rngs={"dropout": key}))(keys)
    first, second = np.asarray(first, np.float64) - 1, np.asarray(second, np.float64) - 1
    for a, b in [(first, second), (first, np.roll(first, 1, 0)), (first, np.roll(second, 3, 0))]:
        assert abs((a * b).mean()) < 5 / math.sqrt(a.size)


@pytest.mark.parametrize("mask", MASKS)
def test_vmapped_members_are_the_single_ones(mask):
    x, rates = jnp.ones((3, 8, 16)), jnp.array([0.1, 0.5, 0.9])
    keys = jax.random.split(jax.random.key(0), 3)
    layer = Dropout(mask=mask)

    def alone(x, rate, key):
        return layer.apply({}, x, rate, train=True, rngs={"dropout": key})

    many = jax.vmap(alone)(x, rates, keys)
    for member in range(3):
        np.testing.assert_array_equal(many[member], alone(x[member], rates[member], keys[member]))


@pytest.mark.parametrize("mask", MASKS)
def test_kept_elements_are_scaled_so_that_the_mean_is_kept(mask):
    y = np.asarray(drop(jnp.ones(SHAPE), 0.2, mask=mask))
    np.testing.assert_allclose(np.unique(y), [0, 1.25])
    assert abs(y.mean() - 1) < 0.01


@pytest.mark.parametrize("mask", MASKS)
def test_gradient_is_the_same_mask(mask):
    y, grad = jax.value_and_grad(lambda x: drop(x, 0.5, mask=mask).sum())(jnp.ones((8, 16)))
    np.testing.assert_array_equal(grad, drop(jnp.ones((8, 16)), 0.5, mask=mask))
    assert y == grad.sum()


@pytest.mark.parametrize("mask", MASKS)
def test_traced_rate_gives_the_mask_of_the_number(mask):
    x = jnp.ones((8, 16))
    traced = jax.jit(lambda rate: drop(x, rate, mask=mask))(0.3)
    np.testing.assert_allclose(traced, drop(x, 0.3, mask=mask), rtol=1e-6)


def test_rate_zero_keeps_all_and_the_largest_rate_keeps_hardly_any():
    x = jnp.arange(1.0, 1025.0)
    np.testing.assert_array_equal(drop(x, 0.0), x)
    assert np.count_nonzero(drop(x, 1 - 2**-24)) == 0


def test_evaluation_and_no_rate_are_the_identity_with_no_mask_in_the_program():
    x = jnp.ones((8, 16))
    for rate, train in [(None, True), (0.5, False), (None, False)]:
        y = jax.make_jaxpr(lambda x, rate=rate, train=train: drop(x, rate, train=train))(x)
        assert y.jaxpr.outvars == y.jaxpr.invars


def test_same_key_same_mask():
    x = jnp.ones((8, 16))
    np.testing.assert_array_equal(drop(x, 0.5, key=3), drop(x, 0.5, key=3))
    assert np.any(drop(x, 0.5, key=3) != drop(x, 0.5, key=4))


def test_the_input_keeps_its_dtype_though_the_rate_is_float32():
    assert drop(jnp.ones((8, 16), jnp.bfloat16), jnp.float32(0.5)).dtype == jnp.bfloat16


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, math.nan, jnp.float32(1.5), np.float64(2)])
@pytest.mark.parametrize("train", [True, False])
def test_concrete_rate_outside_its_range_is_refused(rate, train):
    with pytest.raises(RequestError, match="dropout rate is"):
        drop(jnp.ones(4), rate, train=train)


def test_training_without_a_key_says_what_to_do():
    with pytest.raises(RequestError, match="key="):
        Dropout().apply({}, jnp.ones(4), 0.5, train=True)
