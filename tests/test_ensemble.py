import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import ensemble
from jaxtrain.errors import RequestError
from jaxtrain.files import jsonable
from jaxtrain.scores import entropy, scores

SCALES = [0.0, 1.0, 30.0, 1e3]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def example(num_members: int = 5, num_examples: int = 400, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Members f64[M, N, 6] that are right more often than by chance and err in common and apart; and the labels."""
    random = np.random.default_rng(num_members)
    label = random.integers(0, 6, num_examples)
    common, own = (random.normal(size=(m, num_examples, 6)) for m in (1, num_members))
    return log_softmax(scale * (common + own + np.eye(6)[label])), label


def same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), left, right)


@pytest.mark.parametrize("scale", SCALES)
def test_the_mean_is_at_least_as_good_as_its_mean_member_in_nll_and_brier(scale):
    members, label = example(scale=scale)
    found = ensemble.report(members, label)
    for name in ("nll", "brier"):
        assert found["mean_of_probabilities"][name] <= found["mean_member"][name] + 1e-12
    assert np.isfinite(found["mean_of_probabilities"]["nll"]) and found["gain"]["nll"] >= -1e-12


@pytest.mark.parametrize("scale", SCALES)
def test_the_mean_of_probabilities_is_a_distribution(scale):
    members, _ = example(scale=scale)
    mean = ensemble.mean_log_probability(members)
    np.testing.assert_allclose(np.exp(mean), np.exp(members).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(np.exp(mean).sum(axis=1), 1, rtol=1e-12)


def test_what_float32_would_round_to_nothing_is_kept():
    members = np.array([[[0.0, -2e3]], [[0.0, -1e3]]], np.float32)
    np.testing.assert_allclose(ensemble.mean_log_probability(members)[0, 1], -1e3 - np.log(2), rtol=1e-12)


def test_a_class_that_all_members_rule_out_stays_out():
    members = np.array([[[0.0, -np.inf, -np.inf]], [[np.log(0.5), np.log(0.5), -np.inf]]])
    np.testing.assert_allclose(np.exp(ensemble.mean_log_probability(members)), [[0.75, 0.25, 0.0]])
    assert ensemble.report(members, [2])["mean_of_probabilities"]["nll"] == np.inf


def test_the_order_of_the_members_changes_nothing():
    members, label = example()
    order = [3, 0, 4, 2, 1]
    found, expected = ensemble.report(members[order], label), ensemble.report(members, label)
    inner = found.pop("by_size"), expected.pop("by_size")  # its subsets are drawn by position; the ends are fixed
    same({k: [v[0], v[-1]] for k, v in inner[0].items()}, {k: [v[0], v[-1]] for k, v in inner[1].items()})
    found["members"] = {name: sorted(values) for name, values in found["members"].items()}
    expected["members"] = {name: sorted(values) for name, values in expected["members"].items()}
    same(jsonable(found["reliability"]["members"]), jsonable(expected["reliability"]["members"]))
    same(found, expected)


@pytest.mark.parametrize("copies", [1, 2, 7])
def test_copies_of_one_member_are_that_member(copies):
    members, label = example()
    member = members[:1]
    found = ensemble.report(np.repeat(member, copies, axis=0), label)
    same(found["mean_of_probabilities"], scores(member[0], label)._asdict())
    same(found["mean_member"], found["mean_of_probabilities"])
    same(found["gain"], {"accuracy": 0.0, "nll": 0.0})
    assert found["disagreement"] == 0 and found["vote"]["accuracy"] == found["mean_of_probabilities"]["accuracy"]
    assert found["error_auroc"]["mutual_information"] == 0.5  # all of it is exactly 0, so it tells nothing
    same(found["by_size"], {name: [found["mean_member"][name]] * copies for name in ("accuracy", "nll")})


def test_votes_are_counted_and_ties_go_to_the_more_probable():
    probability = np.array(
        [
            [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.1, 0.5, 0.4]],
            [[0.4, 0.6, 0.0], [0.1, 0.9, 0.0], [0.1, 0.4, 0.5]],
            [[0.4, 0.6, 0.0], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]],
        ]
    )
    with np.errstate(divide="ignore"):
        members = np.log(probability)
    np.testing.assert_allclose(ensemble.vote_share(members)[0], [1 / 3, 2 / 3, 0])
    # The first: outvoted, though class 0 has the larger mean. The others: one vote each.
    np.testing.assert_array_equal(ensemble.vote(members), [1, 1, 0])
    assert ensemble.mean_log_probability(members)[0].argmax() == 0


def test_a_tie_is_broken_among_the_tied_only():
    # Two for class 0, two for class 1, and class 2 everybody's close second.
    probability = np.array([[0.5, 0.02, 0.48], [0.5, 0.02, 0.48], [0.01, 0.51, 0.48], [0.01, 0.51, 0.48]])
    assert ensemble.mean_log_probability(np.log(probability)[:, None]).argmax() == 2
    assert ensemble.vote(np.log(probability)[:, None]) == [1]


@pytest.mark.parametrize("num_members", [1, 2, 5, 12])
def test_disagreement_is_the_mean_over_the_pairs(num_members):
    members, _ = example(num_members)
    named = members.argmax(axis=2)
    pairs = [np.mean(a != b) for a, b in itertools.combinations(named, 2)]
    assert ensemble.disagreement(members) == pytest.approx(np.mean(pairs) if pairs else 0.0, abs=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_mutual_information_is_the_entropy_of_the_mean_minus_the_mean_entropy(scale):
    members, _ = example(scale=scale)
    found = ensemble.mutual_information(members)
    mean_entropy = np.mean([entropy(member) for member in members], axis=0)
    np.testing.assert_allclose(found, entropy(ensemble.mean_log_probability(members)) - mean_entropy, atol=1e-12)
    assert (found >= -1e-12).all() and (found <= np.log(len(members)) + 1e-12).all()


def test_members_that_are_sure_of_different_classes_have_log_m_nats():
    members = log_softmax(1e3 * np.eye(3)[:, None])
    np.testing.assert_allclose(ensemble.mutual_information(members), [np.log(3)])


@pytest.mark.parametrize("num_members", [1, 3, 8, 24])
def test_the_curve_over_sizes_ends_in_the_mean_of_all(num_members):
    members, label = example(num_members)
    found, whole = ensemble.gain_by_size(members, label), scores(ensemble.mean_log_probability(members), label)
    assert found.accuracy.shape == found.nll.shape == (num_members,)
    np.testing.assert_allclose([found.accuracy[-1], found.nll[-1]], [whole.accuracy, whole.nll], rtol=1e-12)


def test_the_curve_over_sizes_starts_at_the_mean_member_and_falls():
    members, label = example(8, scale=100.0)
    found, each = ensemble.gain_by_size(members, label), [scores(member, label) for member in members]
    np.testing.assert_allclose(found.accuracy[0], np.mean([one.accuracy for one in each]), rtol=1e-12)
    np.testing.assert_allclose(found.nll[0], np.mean([one.nll for one in each]), rtol=1e-12)
    assert (np.diff(found.nll) < 0).all()


def test_a_size_is_scored_on_the_mean_of_that_many():
    members, label = example(4)
    found = ensemble.gain_by_size(members, label, num_subsets=1, seed=5)
    pairs = [ensemble.mean_log_probability(members[list(pair)]) for pair in itertools.combinations(range(4), 2)]
    nearest = min((scores(pair, label) for pair in pairs), key=lambda one: abs(one.nll - found.nll[1]))
    np.testing.assert_allclose([found.accuracy[1], found.nll[1]], [nearest.accuracy, nearest.nll], rtol=1e-12)


def test_report_is_plain_json_and_the_same_twice():
    members, label = example()
    found = ensemble.report(jnp.asarray(members), jnp.asarray(label))
    assert json.loads(json.dumps(found, allow_nan=False)) == found == ensemble.report(jnp.asarray(members), label)
    assert found["num_members"] == 5 and found["num_examples"] == 400 and len(found["members"]["ece"]) == 5
    assert 0.5 < found["error_auroc"]["entropy"] < 1 and 0 < found["disagreement"] < 1
    assert found["gain"]["accuracy"] == found["mean_of_probabilities"]["accuracy"] - found["mean_member"]["accuracy"]
    assert sum(found["reliability"]["members"]["count"]) == 5 * 400
    assert found["reliability"]["mean_of_probabilities"]["accuracy"][0] is None  # no confidence below 1 / K


def test_a_perfect_ensemble_has_no_errors_to_find():
    label = np.arange(6)
    found = ensemble.report(log_softmax(9.0 * np.eye(6))[None], label)
    assert found["error_auroc"] == {"entropy": None, "mutual_information": None}


def test_nan_is_refused_by_the_name_of_its_member():
    members, label = example()
    members[3, 17, 2] = np.nan
    for function in (ensemble.mean_log_probability, ensemble.vote, ensemble.disagreement):
        with pytest.raises(RequestError, match="NaN at member 3, example 17"):
            function(members)


@pytest.mark.parametrize(
    ("members", "label", "message"),
    [
        (np.zeros((4, 3)), [0] * 4, r"expected \[member, example, class\]"),
        (np.zeros((0, 4, 3)), [0] * 4, "none of them 0"),
        (np.full((2, 4, 3), 0.5), [0] * 4, "log_softmax"),
        (np.full((2, 4, 3), -1.0), [0] * 3, "one for each of 4 examples"),
    ],
)
def test_what_is_no_ensemble_is_refused(members, label, message):
    with pytest.raises(RequestError, match=message):
        ensemble.report(members, label)


@pytest.mark.parametrize("num_members", [1, 2, 9])
def test_the_squared_error_of_the_mean_is_the_mean_error_minus_the_ambiguity(num_members):
    random = np.random.default_rng(num_members)
    outputs, target = random.normal(size=(num_members, 50, 3)), random.normal(size=(50, 3))
    found = ensemble.regression_report(outputs, target)
    by_hand = np.mean((outputs.mean(axis=0) - target) ** 2)
    assert found["mean_of_outputs"]["mse"] == pytest.approx(by_hand, rel=1e-12)
    assert found["mean_member"]["mse"] == pytest.approx(np.mean((outputs - target) ** 2), rel=1e-12)
    assert found["gain"]["mse"] == pytest.approx(found["ambiguity"], rel=1e-12, abs=1e-15)
    assert found["mean_of_outputs"]["mae"] <= found["mean_member"]["mae"] + 1e-15
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_members_that_agree_are_certain():
    outputs = np.stack([np.ones((4, 2)), np.ones((4, 2)) + [0.0, 2.0]])
    answer = ensemble.mean_outputs(outputs)
    np.testing.assert_array_equal(answer.mean, np.tile([1.0, 2.0], (4, 1)))
    np.testing.assert_array_equal(answer.std, np.tile([0.0, 1.0], (4, 1)))


@pytest.mark.parametrize(
    ("outputs", "target", "message"),
    [
        (np.zeros((2, 5)), np.zeros((5, 1)), r"expected \[members, examples, targets\]"),
        (np.zeros((2, 5, 1)), np.zeros(5), r"targets have shape \[5\]"),
        (np.array([[[1.0]], [[np.inf]]]), np.zeros((1, 1)), "member 1 has outputs that are not finite"),
    ],
)
def test_regression_that_does_not_fit_is_refused(outputs, target, message):
    with pytest.raises(RequestError, match=message):
        ensemble.regression_report(outputs, target)
