import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from jaxtrain.errors import RequestError
from jaxtrain.scores import confusion, entropy, error_auroc, per_class, reliability, scores, worst


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def example(num_examples: int = 1037, num_classes: int = 7, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A prediction f64[N, K] that is right more often than by chance, and the labels."""
    random = np.random.default_rng(num_examples)
    label = random.integers(0, num_classes, num_examples)
    logits = scale * (random.normal(size=(num_examples, num_classes)) + np.eye(num_classes)[label])
    return log_softmax(logits), label


def simple_ece(probability: np.ndarray, label: np.ndarray, num_bins: int = 15) -> float:
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    total = 0.0
    for b in range(num_bins):
        inside = (confidence > b / num_bins) & (confidence <= (b + 1) / num_bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_scores_are_those_of_scikit_learn_and_of_plain_numpy():
    prediction, label = example()
    found, probability = scores(prediction, label), np.exp(prediction)
    assert found.accuracy == accuracy_score(label, probability.argmax(axis=1))
    assert found.nll == pytest.approx(log_loss(label, probability), abs=1e-9)
    assert found.brier == pytest.approx(((probability - np.eye(7)[label]) ** 2).sum(axis=1).mean(), abs=1e-12)
    assert found.ece == pytest.approx(simple_ece(probability, label), abs=1e-12)


def test_float32_and_arrays_of_jax_score_the_same():
    prediction, label = example()
    np.testing.assert_allclose(
        scores(jnp.asarray(prediction), jnp.asarray(label)), scores(prediction, label), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        ([1.0, 0.0, 0.0], (1.0, 0.0, 0.0, 0.0)),  # sure and right
        ([0.0, 1.0, 0.0], (0.0, np.inf, 2.0, 1.0)),  # sure and wrong: the worst there is
        ([0.5, 0.5, 0.0], (1.0, np.log(2), 0.5, 0.5)),  # the first of equals is the answer
        ([0.2, 0.5, 0.3], (0.0, np.log(5), 0.64 + 0.25 + 0.09, 0.5)),
    ],
)
def test_scores_of_one_example_by_hand(probability, expected):
    with np.errstate(divide="ignore"):
        prediction = np.log([probability])
    np.testing.assert_allclose(scores(prediction, [0]), expected, atol=1e-12)


def test_a_confident_error_costs_what_the_logits_say():
    assert scores(log_softmax(np.array([[0.0, 1e4]])), [0]).nll == pytest.approx(1e4)


def test_a_confidence_on_the_edge_belongs_to_the_bin_below():
    prediction = np.log([[0.5, 0.5], [0.5 + 1e-9, 0.5 - 1e-9], [1.0 - 1e-12, 1e-12]])
    assert np.exp(prediction[0, 0]) == 0.5
    assert reliability(prediction, [0, 0, 0], num_bins=4).count.tolist() == [0, 1, 1, 1]
    rounded_up = np.array([[1e-7, -17.0]])  # a probability of 1.0000001, as float32 may give it
    assert reliability(rounded_up, [0]).count[-1] == 1


def test_bins_hold_every_example_and_average_to_the_whole():
    prediction, label = example()
    bins = reliability(prediction, label, num_bins=10)
    assert bins.count.sum() == len(label)
    assert np.nansum(bins.count * bins.accuracy) / len(label) == pytest.approx(scores(prediction, label).accuracy)
    assert np.nansum(bins.count * bins.confidence) == pytest.approx(np.exp(prediction).max(axis=1).sum())
    assert np.isnan(bins.accuracy[bins.count == 0]).all() and bins.count[0] == 0


def test_members_are_pooled_in_one_diagram():
    prediction, label = example()
    other, _ = example(scale=0.5)
    pooled = reliability(np.stack([prediction, other]), label)
    apart = reliability(np.concatenate([prediction, other]), np.concatenate([label, label]))
    np.testing.assert_allclose(pooled, apart)


def test_entropy_goes_from_nothing_to_log_k():
    certain, even = [0.0, -np.inf, -np.inf, -np.inf], np.log([0.25] * 4)
    np.testing.assert_allclose(entropy([certain, even]), [0.0, np.log(4)])


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_auroc_is_that_of_scikit_learn_ties_or_not(decimals):
    random = np.random.default_rng(decimals)
    wrong = random.random(500) < 0.2
    uncertainty = np.round(random.normal(size=500) + wrong, decimals)
    assert error_auroc(uncertainty, wrong) == pytest.approx(roc_auc_score(wrong, uncertainty), abs=1e-12)


@pytest.mark.parametrize(
    ("uncertainty", "expected"), [([0, 0, 1, 1], 1.0), ([1, 1, 0, 0], 0.0), ([3, 3, 3, 3], 0.5), ([0, 1, 1, 1], 0.75)]
)
def test_auroc_by_hand(uncertainty, expected):
    assert error_auroc(uncertainty, [False, False, True, True]) == expected


def test_auroc_keeps_its_value_when_the_uncertainty_is_rescaled():
    random = np.random.default_rng(3)
    uncertainty, wrong = random.random(200), random.random(200) < 0.3
    assert error_auroc(np.exp(5 * uncertainty), wrong) == error_auroc(uncertainty, wrong)


@pytest.mark.parametrize("wrong", [[True, True], [False, False]])
def test_without_errors_or_without_successes_there_is_no_auroc(wrong):
    assert error_auroc([0.1, 0.2], wrong) is None


@pytest.mark.parametrize("num_classes", [2, 7])
def test_the_confusion_matrix_is_that_of_scikit_learn(num_classes):
    prediction, label = example(num_classes=num_classes)
    predicted = prediction.argmax(axis=1).astype(np.int32)
    matrix = confusion(label, predicted, num_classes)
    np.testing.assert_array_equal(matrix, confusion_matrix(label, predicted))
    assert matrix.dtype == np.int64 and matrix.sum() == len(label)
    assert np.trace(matrix) / len(label) == scores(prediction, label).accuracy
    np.testing.assert_array_equal(confusion(predicted, label, num_classes), matrix.T)


def test_confusion_by_hand_with_an_answer_of_nan_counted_nowhere():
    assert confusion([0, 0, 1, 2, 2], [0, 1, 1, 0, -1], 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert confusion(np.zeros(0, int), np.zeros(0, int), 2).tolist() == [[0, 0], [0, 0]]


def test_precision_recall_and_f1_are_those_of_scikit_learn():
    label = np.array([0, 0, 0, 1, 1, 2, 2, 4])
    predicted = np.array([0, 1, 0, 1, 1, 0, 0, 5])  # 2 is never said, 3 is nowhere, 5 is only said
    found = per_class(confusion(label, predicted, 6))
    expected = precision_recall_fscore_support(label, predicted, labels=range(6), zero_division=np.nan)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found.recall, [2 / 3, 1, 0, np.nan, 0, np.nan])
    assert found.support.tolist() == [3, 2, 2, 0, 1, 0]


def test_recall_weighted_by_support_is_the_accuracy():
    prediction, label = example()
    found = per_class(confusion(label, prediction.argmax(axis=1), 7))
    assert found.recall @ found.support / len(label) == pytest.approx(scores(prediction, label).accuracy)


@pytest.mark.parametrize(
    ("label", "predicted", "message"),
    [
        ([0, 1], [0], r"\(2,\) and answers \(1,\)"),
        ([[0]], [[0]], "one answer a label"),
        ([0, 3], [0, 1], "labels go from 0 to 3; expected 0 to 2"),
        ([0, -1], [0, 1], "labels go from -1"),
        ([0, 1], [0, -2], "answers go from -2 to 0; expected -1 to 2"),
        ([0, 1], [0.0, 1.0], "answers are float64"),
    ],
)
def test_what_cannot_be_counted_is_refused(label, predicted, message):
    with pytest.raises(RequestError, match=message):
        confusion(label, predicted, 3)


def test_the_worst_have_the_largest_loss_in_order():
    prediction, label = example()
    loss = -prediction[np.arange(len(label)), label]
    chosen = worst(label, prediction, 20)
    assert (np.diff(loss[chosen]) <= 0).all() and len(set(chosen.tolist())) == 20
    assert loss[chosen].min() >= np.delete(loss, chosen).max()
    assert worst(label, prediction, 10**6).size == len(label)


def test_of_equally_bad_examples_the_first_come_first():
    with np.errstate(divide="ignore"):
        prediction = np.log([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]])
    assert worst([1, 0, 0, 1], prediction, 4).tolist() == [0, 2, 1, 3]
    with pytest.raises(RequestError, match="count is 0"):
        worst([0], [[0.0, -1.0]], 0)


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), r"shape \[0, 3\]"),
        (np.zeros(3), [0], r"expected \[example, class\]"),
        ([[0.0, np.nan]], [0], "NaN at example 0, class 1"),
        ([[0.0, 3.0]], [0], "log_softmax"),
        ([[0.0, -9.0]], [2], "expected 0 to 1"),
        ([[0.0, -9.0]], [-1], "go from -1"),
        ([[0.0, -9.0]], [[0]], r"int64\[1, 1\]"),
        ([[0.0, -9.0]], [0.0], "class indices"),
    ],
)
def test_what_cannot_be_scored_is_refused(prediction, label, message):
    with pytest.raises(RequestError, match=message):
        scores(prediction, label)
