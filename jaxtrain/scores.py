"""How good predicted probabilities are, and how well their uncertainty finds the errors.

Imports `errors` and NumPy. The fact that surprises: probabilities come as logarithms. A network that is sure gives the
other classes exp(-200), which is 0 in float32, and a single such answer that is wrong would cost infinitely much.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtrain.errors import RequestError


class Scores(NamedTuple):
    """How good one prediction is, over N examples. Small is good in all but the first."""

    accuracy: float  # share of examples whose most probable class is the label
    nll: float  # nats per example: -log of the label's probability
    brier: float  # in [0, 2]: squared difference to the one-hot label, summed over the classes
    ece: float  # in [0, 1]: mean distance of confidence and accuracy, over 15 bins of confidence


class PerClass(NamedTuple):
    """How good the answers are, class by class; NaN where there is nothing to divide by."""

    precision: np.ndarray  # f64[K], of the answers that name this class, the share that is right
    recall: np.ndarray  # f64[K], of the examples of this class, the share that is found
    f1: np.ndarray  # f64[K], harmonic mean of the two
    support: np.ndarray  # i64[K], examples of this class


class Reliability(NamedTuple):
    """Confidence against accuracy, by equally wide bins of confidence; a bin without examples has NaN."""

    count: np.ndarray  # i64[num_bins]
    confidence: np.ndarray  # f64[num_bins], mean probability of the most probable class
    accuracy: np.ndarray  # f64[num_bins]


def scores(log_probability: ArrayLike, label: ArrayLike) -> Scores:
    """Accuracy, NLL, Brier score and expected calibration error of one prediction.

    Args:
      log_probability: f[N, K], natural logarithms.
      label: i[N], classes from 0.

    Raises:
      RequestError: shapes that do not fit, labels outside the classes, NaN, or numbers that are no log-probabilities.

    References:
      Brier, Verification of Forecasts Expressed in Terms of Probability, 1950 (over all classes, as there)
      Guo et al., On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599 (ECE, equation 3)
    """
    prediction = as_log_probability(log_probability, ("example", "class")).astype(np.float64)
    label = as_label(label, prediction)
    examples, difference = np.arange(len(label)), np.exp(prediction)
    difference[examples, label] -= 1
    bins = reliability(prediction, label)
    return Scores(
        accuracy=float(np.mean(prediction.argmax(axis=1) == label)),
        nll=float(-prediction[examples, label].mean()),
        brier=float(np.square(difference).sum(axis=1).mean()),
        ece=float(np.nansum(bins.count * np.abs(bins.accuracy - bins.confidence)) / len(label)),
    )


def confusion(label: ArrayLike, predicted: ArrayLike, num_classes: int) -> np.ndarray:
    """How often each class is taken for each: i64[K, K], a row a label, a column an answer.

    An answer of -1, which stands for NaN, is counted nowhere; N less the sum of the matrix says how many there are.

    Args:
      label: i[N], classes from 0.
      predicted: i[N], the answers.
      num_classes: K.

    Raises:
      RequestError: not one answer for each label, or classes outside of 0 to K - 1.
    """
    label, predicted = np.asarray(label), np.asarray(predicted)
    if label.ndim != 1 or label.shape != predicted.shape:
        raise RequestError(f"labels have shape {label.shape} and answers {predicted.shape}; give one answer a label")
    for what, classes, lowest in (("labels", label, 0), ("answers", predicted, -1)):
        if classes.dtype.kind not in "iu":
            raise RequestError(f"{what} are {classes.dtype}; expected class indices, as of argmax")
        if classes.size and not lowest <= classes.min() <= classes.max() < num_classes:
            given = f"{what} go from {classes.min()} to {classes.max()}"
            raise RequestError(f"{given}; expected {lowest} to {num_classes - 1} for {num_classes} classes")
    answered = predicted >= 0
    cell = label[answered].astype(np.int64) * num_classes + predicted[answered]
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(matrix: ArrayLike) -> PerClass:
    """Precision, recall and F1 of each class, of the matrix that `confusion` gives."""
    matrix = np.asarray(matrix)
    right, support, named = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return PerClass(_share(right, named), _share(right, support), _share(2 * right, support + named), support)


def worst(label: ArrayLike, log_probability: ArrayLike, count: int) -> np.ndarray:
    """Indices i64[min(count, N)] of the examples with the largest loss, largest first; of equals the first.

    Args:
      label: i[N], classes from 0.
      log_probability: f[N, K], natural logarithms.
      count: how many.

    Raises:
      RequestError: as for `scores`; or `count` is below 1.
    """
    if count < 1:
        raise RequestError(f"count is {count}; give 1 or more examples")
    prediction = as_log_probability(log_probability, ("example", "class"))
    label = as_label(label, prediction)
    return np.argsort(prediction[np.arange(len(label)), label], kind="stable")[:count]


def reliability(log_probability: ArrayLike, label: ArrayLike, num_bins: int = 15) -> Reliability:
    """What a reliability diagram shows: how often a prediction is right, by how sure it is.

    Bins are closed on the right, as in Guo et al. (2017): confidence c is in bin b where b < c * num_bins <= b + 1.

    Args:
      log_probability: f[N, K]; or f[M, N, K], whose M answers to each example are counted one by one.
      label: i[N].
      num_bins: of equal width over [0, 1].

    Raises:
      RequestError: labels that do not fit.
    """
    log_probability = np.asarray(log_probability)
    right = (log_probability.argmax(axis=-1) == as_label(label, log_probability)).ravel()
    confidence = np.exp(log_probability.max(axis=-1), dtype=np.float64).ravel()
    place = np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], confidence, side="left")
    count = np.bincount(place, minlength=num_bins)
    sums = [np.bincount(place, weights=values, minlength=num_bins) for values in (confidence, right)]
    return Reliability(count, *(_share(total, count) for total in sums))


def log_softmax(outputs: np.ndarray) -> np.ndarray:
    """Log-probabilities of a network's outputs, f[..., K], on the host; NaN of outputs that are infinite."""
    with np.errstate(invalid="ignore"):
        shifted = outputs - outputs.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def entropy(log_probability: ArrayLike) -> np.ndarray:
    """Uncertainty of a prediction in nats, f64[N], from 0 to log K; of f[N, K]."""
    prediction = np.asarray(log_probability, dtype=np.float64)
    probability = np.exp(prediction)
    return -np.sum(np.multiply(probability, prediction, out=np.zeros_like(prediction), where=probability > 0), axis=-1)


def error_auroc(uncertainty: ArrayLike, wrong: ArrayLike) -> float | None:
    """How well an uncertainty finds the errors: the chance that it is larger for a wrong answer than for a right one.

    1 is perfect, 0.5 tells nothing, a tie counts one half. It is the area under the ROC curve, taken from the ranks.

    Args:
      uncertainty: f[N], for example the `entropy`.
      wrong: bool[N].

    Returns:
      None where all answers are right, or all wrong.

    References:
      Hendrycks & Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks,
      2017, https://arxiv.org/abs/1610.02136
    """
    wrong = np.asarray(wrong, dtype=bool)
    num_wrong, num_right = int(wrong.sum()), int((~wrong).sum())
    if num_wrong == 0 or num_right == 0:
        return None
    _, place, count = np.unique(uncertainty, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # from 1; equal values share the mean of their ranks
    return float((rank[wrong].sum() - num_wrong * (num_wrong + 1) / 2) / (num_wrong * num_right))


def as_log_probability(log_probability: ArrayLike, axes: tuple[str, ...]) -> np.ndarray:
    """The array, if it has these axes and can be log-probabilities; NaN is named by where it stands."""
    array = np.asarray(log_probability)
    if array.ndim != len(axes) or 0 in array.shape:
        expected = f"[{', '.join(axes)}], none of them 0"
        raise RequestError(f"log-probabilities have shape {list(array.shape)}; expected {expected}")
    highest = array.max()
    if np.isnan(highest):
        place = ", ".join(map("{} {}".format, axes, np.argwhere(np.isnan(array))[0]))
        raise RequestError(f"log-probabilities hold NaN at {place}; leave out the members that diverged")
    if highest > 1e-3:  # more than rounding to float32 can do
        raise RequestError(
            f"log-probabilities go up to {highest:g}, expected at most 0; pass log_softmax of the logits"
        )
    return array


def as_label(label: ArrayLike, log_probability: np.ndarray) -> np.ndarray:
    """The labels as an array, if they are classes for f[..., N, K]."""
    label, (num_examples, num_classes) = np.asarray(label), log_probability.shape[-2:]
    if label.shape != (num_examples,) or label.dtype.kind not in "iu":
        given = f"{label.dtype}{list(label.shape)}"
        raise RequestError(f"labels are {given}; expected class indices, one for each of {num_examples} examples")
    if label.min() < 0 or label.max() >= num_classes:
        raise RequestError(f"labels go from {label.min()} to {label.max()}; expected 0 to {num_classes - 1}")
    return label


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, f64; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
