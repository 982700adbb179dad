"""Many members as one prediction, what that gains, and how far they differ.

Imports `scores`, `errors` and NumPy. The fact that surprises: the mean of the members' probabilities is never worse in
NLL than its members are on average, on any data (Jensen's inequality); in accuracy it may be.

float64 inside; members are taken one after the other, so that beside the input lie only arrays [N, K] and [M, N].
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtrain.errors import RequestError
from jaxtrain.scores import Reliability, as_label, as_log_probability, entropy, error_auroc, reliability, scores

AXES = ("member", "example", "class")


class BySize(NamedTuple):
    """Scores of the mean of 1, 2, ..., M members, each a mean over subsets of that size."""

    accuracy: np.ndarray  # f64[M]
    nll: np.ndarray  # f64[M]


class MeanOutputs(NamedTuple):
    """A regression ensemble's answer, and how far its members differ."""

    mean: np.ndarray  # f64[N, T]
    std: np.ndarray  # f64[N, T], of the members there are (over M, not M - 1): 0 for one member


def mean_log_probability(log_probability: ArrayLike) -> np.ndarray:
    """The logarithm of the mean of the members' probabilities, f64[N, K]: the ensemble's prediction.

    Args:
      log_probability: f[M, N, K], natural logarithms; -inf rules a class out.

    Raises:
      RequestError: another rank, NaN (its member is named), or numbers that are no log-probabilities.

    References:
      Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, 2017,
      https://arxiv.org/abs/1612.01474, section 2.4
    """
    members = as_log_probability(log_probability, AXES)
    peak = members.max(axis=0).astype(np.float64)
    peak[np.isneginf(peak)] = 0.0  # a class that all rule out: -inf minus -inf would be NaN
    total = sum((np.exp(member - peak) for member in members), np.zeros_like(peak))
    with np.errstate(divide="ignore"):
        return peak + np.log(total / len(members))


def vote(log_probability: ArrayLike) -> np.ndarray:
    """The class that most members name, i64[N]; among equally many, the one more probable by the mean.

    Args:
      log_probability: f[M, N, K].

    Raises:
      RequestError: as `mean_log_probability`.
    """
    votes = _votes(as_log_probability(log_probability, AXES))
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, mean_log_probability(log_probability), -np.inf).argmax(axis=1)


def vote_share(log_probability: ArrayLike) -> np.ndarray:
    """Share of the members that name each class, f64[N, K]; of f[M, N, K]."""
    members = as_log_probability(log_probability, AXES)
    return _votes(members) / len(members)


def disagreement(log_probability: ArrayLike) -> float:
    """Share of the examples on which two members name different classes, mean over the pairs of members; f[M, N, K].

    Counted from the votes: a class that c members name makes c (c - 1) of the M (M - 1) ordered pairs agree. A single
    member has nobody to disagree with: 0.

    References:
      Fort et al., Deep Ensembles: A Loss Landscape Perspective, 2019, https://arxiv.org/abs/1912.02757
    """
    members = as_log_probability(log_probability, AXES)
    votes, num_pairs = _votes(members), len(members) * (len(members) - 1)
    return float(1 - (votes * (votes - 1)).sum(axis=1).mean() / num_pairs) if num_pairs else 0.0


def mutual_information(log_probability: ArrayLike) -> np.ndarray:
    """How much of the uncertainty is the members' disagreement, f64[N] in nats, from 0 to log M.

    The information that the member has of the class (BALD): the entropy of the mean minus the mean entropy. It is
    taken as the members' mean divergence from their mean, the same number, but exactly 0 where all members are equal.

    Args:
      log_probability: f[M, N, K].

    Raises:
      RequestError: as `mean_log_probability`.

    References:
      Houlsby et al., Bayesian Active Learning for Classification and Preference Learning, 2011,
      https://arxiv.org/abs/1112.5745
    """
    members, mean = as_log_probability(log_probability, AXES), mean_log_probability(log_probability)
    total = np.zeros(len(mean))
    for member in members:
        probability = np.exp(member, dtype=np.float64)
        ratio = np.subtract(member, mean, out=np.zeros_like(mean), where=probability > 0)
        total += (probability * ratio).sum(axis=1)
    return total / len(members)


def gain_by_size(log_probability: ArrayLike, label: ArrayLike, *, num_subsets: int = 20, seed: int = 0) -> BySize:
    """What each further member brings: scores of the mean of m members, for m from 1 to M.

    The subsets of a size are arcs of a circle on which the members stand in random order. With no more members than
    `num_subsets` each is in equally many of them, so that size 1 is exactly the mean member.

    Args:
      log_probability: f[M, N, K].
      label: i[N], classes from 0.
      num_subsets: of each size, at most.
      seed: of the order on the circle.

    Raises:
      RequestError: as `scores.scores`.
    """
    members = as_log_probability(log_probability, AXES)
    num_members, label = len(members), as_label(label, members)
    of_label = members[:, np.arange(len(label)), label].astype(np.float64)
    log_size = np.log(np.arange(1, num_members + 1))
    circle = np.random.default_rng(seed).permutation(num_members)
    accuracy, nll = [], []
    for start in np.linspace(0, num_members, min(num_members, num_subsets), endpoint=False).astype(int):
        order = np.roll(circle, -start)
        accuracy.append(_running_accuracy(members, order, label))
        nll.append(log_size - np.logaddexp.accumulate(of_label[order]).mean(axis=1))
    return BySize(np.mean(accuracy, axis=0), np.mean(nll, axis=0))


def report(log_probability: ArrayLike, label: ArrayLike) -> dict[str, Any]:
    """What there is to say of an ensemble of classifiers, in plain numbers and lists for a JSON file.

    A gain is positive where the mean of the probabilities is better than the mean member. `members` has the scores of
    each, but none is called the best: chosen on the examples that it is scored on, it would look better than it is.

    Args:
      log_probability: f[M, N, K]; M may be 1. Members that diverged are left out by the caller.
      label: i[N], classes from 0.

    Raises:
      RequestError: as `scores.scores`.
    """
    members = as_log_probability(log_probability, AXES)
    label, mean = as_label(label, members), mean_log_probability(members)
    together = scores(mean, label)._asdict()
    alone = _columns([scores(member, label)._asdict() for member in members])
    mean_member = _means(alone)
    wrong = mean.argmax(axis=1) != label
    return {
        "num_members": len(members),
        "num_examples": len(label),
        "mean_of_probabilities": together,
        "vote": {"accuracy": float(np.mean(vote(members) == label))},
        "mean_member": mean_member,
        "members": alone,
        "gain": {
            "accuracy": together["accuracy"] - mean_member["accuracy"],
            "nll": mean_member["nll"] - together["nll"],
        },
        "disagreement": disagreement(members),
        "error_auroc": {
            "entropy": error_auroc(entropy(mean), wrong),
            "mutual_information": error_auroc(mutual_information(members), wrong),
        },
        "by_size": {name: values.tolist() for name, values in gain_by_size(members, label)._asdict().items()},
        "reliability": {
            "mean_of_probabilities": _plain(reliability(mean, label)),
            "members": _plain(reliability(members, label)),
        },
    }


def mean_outputs(outputs: ArrayLike) -> MeanOutputs:
    """The answer of a regression ensemble and its uncertainty: mean and standard deviation over the members.

    Args:
      outputs: f[M, N, T].

    Raises:
      RequestError: another rank, or a number that is not finite (its member is named).
    """
    members = _as_outputs(outputs)
    return MeanOutputs(members.mean(axis=0), members.std(axis=0))


def regression_report(outputs: ArrayLike, target: ArrayLike) -> dict[str, Any]:
    """What there is to say of an ensemble of regressors, as `report` does of classifiers.

    The squared error of the mean is exactly the members' mean squared error minus their `ambiguity`, the variance of
    their answers: what the ensemble gains is how far its members differ.

    Args:
      outputs: f[M, N, T]; M may be 1.
      target: f[N, T].

    Raises:
      RequestError: shapes that do not fit, or a number that is not finite.

    References:
      Krogh & Vedelsby, Neural Network Ensembles, Cross Validation, and Active Learning, 1995
    """
    members, target = _as_outputs(outputs), np.asarray(target, dtype=np.float64)
    if target.shape != members.shape[1:]:
        raise RequestError(f"targets have shape {list(target.shape)}; these outputs need {list(members.shape[1:])}")
    answer = mean_outputs(members)
    together, alone = _errors(answer.mean, target), _columns([_errors(member, target) for member in members])
    mean_member = _means(alone)
    return {
        "num_members": len(members),
        "num_examples": len(target),
        "mean_of_outputs": together,
        "mean_member": mean_member,
        "members": alone,
        "gain": {name: mean_member[name] - together[name] for name in together},
        "ambiguity": float(np.square(answer.std).mean()),
    }


def _votes(members: np.ndarray) -> np.ndarray:
    """i64[N, K], how many members name each class."""
    _, num_examples, num_classes = members.shape
    place = members.argmax(axis=2) + num_classes * np.arange(num_examples)[None]
    return np.bincount(place.ravel(), minlength=num_examples * num_classes).reshape(num_examples, num_classes)


def _running_accuracy(members: np.ndarray, order: np.ndarray, label: np.ndarray) -> np.ndarray:
    """f64[M], of the mean of the first m members in this order.

    The plain sum of probabilities will do: the largest one, which alone counts, is at least 1 / K.
    """
    total, accuracy = np.zeros(members.shape[1:]), []
    for member in order:
        total += np.exp(members[member], dtype=np.float64)
        accuracy.append(np.mean(total.argmax(axis=1) == label))
    return np.array(accuracy)


def _as_outputs(outputs: ArrayLike) -> np.ndarray:
    members = np.asarray(outputs, dtype=np.float64)
    if members.ndim != 3 or 0 in members.shape:
        raise RequestError(
            f"outputs have shape {list(members.shape)}; expected [members, examples, targets], none of them 0"
        )
    for index, member in enumerate(members):
        if not np.isfinite(member).all():
            raise RequestError(f"member {index} has outputs that are not finite; leave out members that diverged")
    return members


def _errors(outputs: np.ndarray, target: np.ndarray) -> dict[str, float]:
    difference = outputs - target
    return {"mse": float(np.square(difference).mean()), "mae": float(np.abs(difference).mean())}


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _means(columns: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: float(np.mean(values)) for name, values in columns.items()}


def _plain(bins: Reliability) -> dict[str, list[float | None]]:
    """As lists, with None for what an empty bin does not have."""
    return {
        name: [None if np.isnan(value) else value for value in values.tolist()]
        for name, values in bins._asdict().items()
    }
