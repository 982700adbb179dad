import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import absolute_error, cross_entropy, squared_error

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(20, 5), scale=4), jnp.float32)
LABEL = jnp.asarray(RNG.integers(0, 5, 20), jnp.int32)


def log_softmax(logits) -> np.ndarray:
    logits = np.float64(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["bare", "jit"])
def test_cross_entropy_equals_numpy(wrap):
    loss = wrap(cross_entropy)(LOGITS, LABEL)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, -log_softmax(LOGITS)[np.arange(20), LABEL], rtol=1e-5)


def test_cross_entropy_equals_scikit_learn():
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    probability = np.exp(log_softmax(LOGITS))
    np.testing.assert_allclose(cross_entropy(LOGITS, LABEL).mean(), log_loss(LABEL, probability), rtol=1e-5)


def test_one_hot_labels_equal_classes():
    np.testing.assert_array_equal(cross_entropy(LOGITS, LABEL), cross_entropy(LOGITS, jax.nn.one_hot(LABEL, 5)))


def test_smoothing_mixes_the_label_with_the_uniform_one():
    smoothed = jax.jit(cross_entropy)(LOGITS, LABEL, 0.2)
    uniform = -log_softmax(LOGITS).mean(axis=1)
    np.testing.assert_allclose(smoothed, 0.8 * cross_entropy(LOGITS, LABEL) + 0.2 * uniform, rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABEL, 0.0), cross_entropy(LOGITS, LABEL), rtol=1e-6)


def test_gradient_is_probability_minus_target():
    gradient = jax.grad(lambda logits: cross_entropy(logits, LABEL).sum())(LOGITS)
    np.testing.assert_allclose(gradient, np.exp(log_softmax(LOGITS)) - np.eye(5)[LABEL], atol=1e-6)


def test_equal_logits_lose_the_logarithm_of_the_number_of_classes():
    np.testing.assert_allclose(cross_entropy(jnp.zeros((3, 10)), jnp.array([0, 4, 9])), np.log(10), rtol=1e-6)


def test_large_logits_and_excluded_classes_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0], [1.0, -jnp.inf, 1.0]])
    loss, gradient = jax.value_and_grad(lambda x: cross_entropy(x, jnp.array([1, 0])).sum())(logits)
    np.testing.assert_allclose(loss, 2e4 + np.log(2), rtol=1e-6)
    assert jnp.isfinite(gradient).all()
    assert jnp.isnan(cross_entropy(jnp.full((1, 3), jnp.nan), jnp.array([0]))).all()


def test_errors_are_means_over_the_targets():
    outputs, target = jnp.asarray(RNG.normal(size=(2, 7, 3)), jnp.float32)
    np.testing.assert_allclose(squared_error(outputs, target), ((outputs - target) ** 2).mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(absolute_error(outputs, target), np.abs(outputs - target).mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "outputs", "label"),
    [
        (cross_entropy, (4, 3), jnp.zeros((4, 1), jnp.int32)),
        (cross_entropy, (4, 3), jnp.zeros((3,), jnp.int32)),
        (cross_entropy, (4, 3), jnp.zeros((4, 1), jnp.float32)),
        (cross_entropy, (4,), jnp.zeros((4,), jnp.int32)),
        (squared_error, (4, 1), jnp.zeros((4,))),
        (squared_error, (4,), jnp.zeros((4,))),
        (absolute_error, (4, 2), jnp.zeros((4, 1))),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss, outputs, label):
    with pytest.raises(AssertionError):
        loss(jnp.zeros(outputs), label)
