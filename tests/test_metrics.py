import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.errors import RequestError
from jaxtrain.metrics import compute, empty, evidence, from_examples, scores_alone

RNG = np.random.default_rng(0)


def random_metrics(size: int):
    # Multiples of 1/64 add without rounding, so that the laws hold exactly.
    values = {name: RNG.integers(0, 640, size).astype(np.float32) / 64 for name in ("loss", "accuracy")}
    return from_examples(jax.tree.map(jnp.asarray, values), jnp.ones(size))


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_merge_is_associative_commutative_and_has_a_neutral_element():
    a, b, c = (random_metrics(size) for size in (3, 8, 1))
    same((a + b) + c, a + (b + c))
    same(a + b, b + a)
    same(a + empty(["loss", "accuracy"]), a)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100])
def test_result_does_not_depend_on_the_batch_size(batch_size):
    value = np.random.default_rng(1).normal(size=100).astype(np.float32)
    total = empty(["loss"])
    for start in range(0, 100, batch_size):
        part = value[start : start + batch_size]
        padded = np.pad(part, (0, batch_size - len(part)), constant_values=np.nan)
        weight = (np.arange(batch_size) < len(part)).astype(np.float32)
        total = total + jax.jit(from_examples)({"loss": padded}, weight)
    np.testing.assert_allclose(compute(total)["loss"], value.mean(), rtol=1e-5)
    assert total.count == 100


def test_weight_zero_is_an_absent_example_whatever_its_value():
    value, weight = jnp.array([1.0, jnp.nan, 3.0, jnp.inf]), jnp.array([1.0, 0.0, 1.0, 0.0])
    same(from_examples({"loss": value}, weight), from_examples({"loss": value[::2]}, weight[::2]))


def test_a_counted_nan_is_not_hidden():
    assert np.isnan(compute(from_examples({"loss": jnp.array([1.0, jnp.nan])}, jnp.ones(2)))["loss"])


def test_weights_weigh():
    metrics = from_examples({"right": jnp.array([True, False])}, jnp.array([3.0, 1.0]))
    assert compute(metrics) == {"right": 0.75}


def test_members_are_summed_apart():
    value, weight = jnp.arange(12.0).reshape(3, 4), jnp.ones((3, 4))
    np.testing.assert_array_equal(jax.vmap(from_examples)({"loss": value}, weight).sums["loss"], value.sum(axis=1))


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(RequestError, match="no examples"):
        compute(empty(["loss"]))


@pytest.mark.parametrize("shape", [(3,), (4, 1), ()])
def test_values_of_another_shape_than_the_weights_are_refused(shape):
    with pytest.raises(AssertionError):
        from_examples({"loss": jnp.zeros(shape)}, jnp.ones(4))


def test_evidence_is_summed_with_the_scores_and_shown_with_none():
    metrics = from_examples(
        {"loss": jnp.array([1.0, 3.0]), "evidence/rank": jnp.array([1.0, 4.0])}, jnp.array([1.0, 1.0])
    )
    assert compute(metrics) == {"loss": 2} and evidence(jax.device_get(metrics)) == {"rank": 2.5}
    assert set(scores_alone(metrics).sums) == {"loss"} and float(scores_alone(metrics).count) == 2
    assert evidence(jax.device_get(empty(["evidence/rank"]))) == {}
