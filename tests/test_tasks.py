from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.errors import RequestError
from jaxtrain.losses import cross_entropy
from jaxtrain.tasks import Classification, Regression, chance, default_task
from jaxtrain.types import Batch, Hyper, Task

LOGITS = jnp.array([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [5.0, 0.0, 0.0], [jnp.nan, 0.0, 0.0]])


def batch(label) -> Batch:
    return Batch(jnp.zeros((len(label), 1)), jnp.asarray(label), jnp.ones(len(label)))


def test_both_are_tasks_and_equal_ones_are_equal():
    assert isinstance(Classification(3), Task) and isinstance(Regression(2), Task)
    assert hash(Classification(3)) == hash(Classification(3)) and Regression(2) == Regression(2)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["bare", "jit"])
def test_accuracy_counts_nan_as_wrong_even_for_class_zero(wrap):
    metrics = wrap(Classification(3).metrics)(LOGITS, batch([0, 2, 1, 0]))
    np.testing.assert_array_equal(metrics["accuracy"], [1, 1, 0, 0])


def test_accuracy_after_mixup_asks_for_the_more_probable_class():
    mixed = jnp.array([[0.7, 0.3, 0.0], [0.6, 0.0, 0.4], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(Classification(3).metrics(LOGITS, batch(mixed))["accuracy"], [1, 0, 1, 0])


def test_smoothing_is_trained_on_and_not_reported():
    logits, given = LOGITS[:3], batch([0, 2, 1])
    task, hyper = Classification(3), Hyper(label_smoothing=0.1)
    np.testing.assert_array_equal(task.loss(logits, given, hyper), cross_entropy(logits, given.label, 0.1))
    np.testing.assert_array_equal(task.metrics(logits, given)["loss"], cross_entropy(logits, given.label))
    np.testing.assert_array_equal(task.loss(logits, given, Hyper()), cross_entropy(logits, given.label))


def test_prediction_has_probabilities_and_no_label_for_nan():
    answer = Classification(3).predict(LOGITS)
    np.testing.assert_allclose(answer.probability[:3].sum(axis=1), 1, rtol=1e-6)
    assert answer.label.dtype == jnp.int32
    np.testing.assert_array_equal(answer.label, [0, 2, 0, -1])


def test_regression_reports_both_errors():
    outputs, target = jnp.array([[1.0, 3.0], [0.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 2.0]])
    metrics = Regression(2).metrics(outputs, batch(target))
    np.testing.assert_allclose(metrics["mse"], [2.5, 2.0])
    np.testing.assert_allclose(metrics["mae"], [1.5, 1.0])
    np.testing.assert_array_equal(metrics["loss"], metrics["mse"])
    np.testing.assert_array_equal(Regression(2).loss(outputs, batch(target), Hyper()), metrics["mse"])
    np.testing.assert_array_equal(Regression(2).predict(outputs), outputs)


@pytest.mark.parametrize("task", [Classification(10), Regression(10)])
@pytest.mark.parametrize("shape", [(4, 9), (4,), (4, 2, 10)])
def test_outputs_that_do_not_fit_the_data_are_refused(task, shape):
    with pytest.raises(RequestError, match=r"last layer must give \[batch, 10\]"):
        task.metrics(jnp.zeros(shape), batch([0, 1, 2, 3]))


def test_default_task_follows_the_data():
    assert default_task(SimpleNamespace(num_classes=10, num_targets=None)) == Classification(10)
    assert default_task(SimpleNamespace(num_classes=None, num_targets=2)) == Regression(2)
    with pytest.raises(RequestError, match="neither"):
        default_task(SimpleNamespace(num_classes=None, num_targets=None))


def test_the_rank_of_a_label_is_its_place_among_the_answers():
    logits = jnp.array([[4.0, 3, 2, 1], [4.0, 3, 2, 1], [4.0, 3, 2, 1], [jnp.nan, 3, 2, 1]])
    batch = Batch(None, jnp.array([0, 1, 3, 1]), jnp.ones(4))
    told = Classification(4).evidence(logits, batch)
    assert told["label_rank"].tolist() == [1, 2, 4, 4]  # NaN is as wrong as can be
    assert Classification(3).evidence(logits[:, :3], batch) == {}


def test_chance_is_what_the_best_constant_answer_scores():
    labels = np.array([0, 0, 0, 1, 2, 2])
    found = chance(Classification(4), labels)
    share = np.array([3, 1, 2]) / 6
    constant = jnp.log(jnp.array([*share, 1e-30]))
    expected = Classification(4).metrics(jnp.tile(constant, (6, 1)), Batch(None, jnp.asarray(labels), jnp.ones(6)))
    assert found["loss"] == pytest.approx(float(expected["loss"].mean()), rel=1e-5)
    assert found["accuracy"] == float(expected["accuracy"].mean()) == 0.5
    targets = np.array([[0.0, 1], [2, 5], [4, 3]])
    assert chance(Regression(2), targets)["loss"] == pytest.approx(np.mean((targets - targets.mean(axis=0)) ** 2))
    assert chance(object(), labels) == {}
