import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from jaxtrain.errors import RequestError
from jaxtrain.scores import entropy, error_auroc, reliability, scores


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
