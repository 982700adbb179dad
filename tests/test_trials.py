"""What is concluded from trials: the order, how sure it is, what mattered, borders, and the next search."""

import dataclasses
import math

import numpy as np
import pytest
from fake_training import search

from jaxtrain.search.trials import Trial, accuracy_interval, borders, importance, narrow, ranked
from jaxtrain.space import Choice, Range, check_search

SPACE = {
    "hyper.learning_rate": Range(1e-5, 1e-1, log=True),
    "hyper.dropout_rate": Range(0.0, 0.5),
    "hyper.weight_decay": Range(1e-4, 1e-1, log=True),
    "batch_size": Choice((10, 15, 30)),
}
SEARCH = check_search(search(SPACE))


def draw(score, count=60, seed=0):
    """Complete trials of random values, scored by a function of the positions in the ranges and the batch size."""
    random = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        unit = {name: random.random() for name in SPACE}
        size = (10, 15, 30)[int(3 * unit["batch_size"])]
        params = {name: d.at(unit[name]) for name, d in SPACE.items() if isinstance(d, Range)} | {"batch_size": size}
        value = score(unit["hyper.learning_rate"], unit["hyper.dropout_rate"], size) + 0.01 * random.normal()
        trials.append(Trial(number, params, "complete", value))
    return trials


def trial(number, state="complete", value=None, epochs=0):
    return Trial(number, {}, state, value, epochs)


@pytest.mark.parametrize("sign", [1, -1])
def test_complete_trials_come_first_then_those_that_came_far_then_the_diverged(sign):
    trials = [
        trial(0, "diverged"),
        trial(1, "pruned", sign * 0.99, epochs=1),
        trial(2, "complete", sign * 0.5),
        trial(3, "running"),
        trial(4, "pruned", sign * 0.7, epochs=3),
        trial(5, "complete", sign * 0.9),
        trial(6, "lost"),
        trial(7, "complete", sign * 0.9),
    ]
    assert [t.number for t in ranked(trials, sign)] == [5, 7, 2, 4, 1, 0]


def test_the_interval_is_wilsons():
    low, high = accuracy_interval(0.9, 100)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)  # by hand
    assert accuracy_interval(1.0, 100)[1] == pytest.approx(1) and accuracy_interval(1.0, 100)[0] < 0.97
    assert np.ptp(accuracy_interval(0.9, 10_000)) < np.ptp(accuracy_interval(0.9, 100))


def test_a_hump_is_as_important_as_a_slope_and_noise_is_not():
    hump = importance(SEARCH, draw(lambda rate, dropout, size: -(((rate - 0.5) * 4) ** 2) - 0.5 * dropout), 1)
    assert list(hump)[:2] == ["hyper.learning_rate", "hyper.dropout_rate"]
    assert hump["hyper.learning_rate"].share > 0.6 and abs(hump["hyper.learning_rate"].direction) < 0.4
    assert hump["hyper.dropout_rate"].direction < -0.1
    assert hump["hyper.weight_decay"].share < 0.15 and hump["batch_size"].share < 0.15


def test_a_choice_can_matter():
    found = importance(SEARCH, draw(lambda rate, dropout, size: float(size == 15)), 1)
    assert next(iter(found)) == "batch_size" and found["batch_size"].share > 0.6
    assert math.isnan(found["batch_size"].direction)


def test_importance_goes_by_ranks_so_no_monotone_change_of_the_score_matters():
    trials = draw(lambda rate, dropout, size: rate)
    bent = [dataclasses.replace(t, value=-math.exp(-5 * t.value)) for t in trials]
    smaller_is_better = [dataclasses.replace(t, value=-t.value) for t in trials]
    first = importance(SEARCH, trials, 1)
    assert importance(SEARCH, bent, 1) == first
    again = importance(SEARCH, smaller_is_better, -1)
    assert {name: f.share for name, f in again.items()} == {name: f.share for name, f in first.items()}


def test_importance_agrees_with_fanova_on_what_matters_most():
    import optuna

    trials = draw(lambda rate, dropout, size: -(((rate - 0.6) * 4) ** 2) - 0.8 * dropout, count=100)
    study = optuna.create_study(direction="maximize")
    ranges = {name: drawn for name, drawn in SPACE.items() if isinstance(drawn, Range)}
    kinds = {name: optuna.distributions.FloatDistribution(d.low, d.high, log=d.log) for name, d in ranges.items()}
    for t in trials:
        params = {name: t.params[name] for name in kinds}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=t.value))
    forest = optuna.importance.FanovaImportanceEvaluator(seed=0)
    theirs = list(optuna.importance.get_param_importances(study, evaluator=forest))
    assert [name for name in importance(SEARCH, trials, 1) if name in theirs][:2] == theirs[:2]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_trials_say_nothing(count):
    assert importance(SEARCH, draw(lambda rate, dropout, size: rate, count), 1) == {}


def test_trials_that_are_all_alike_say_nothing():
    alike = [dataclasses.replace(t, value=0.5) for t in draw(lambda rate, dropout, size: rate)]
    assert importance(SEARCH, alike, 1) == {}


def at(*units, **others):
    """Complete trials, the best first, at these positions of the learning rate; all else in the middle, or as given."""
    middle = {name: d.at(0.5) for name, d in SPACE.items() if isinstance(d, Range)} | {"batch_size": 15}
    rates = [SPACE["hyper.learning_rate"].at(unit) for unit in units]
    params = [{**middle, "hyper.learning_rate": rate, **others} for rate in rates]
    return [Trial(number, values, "complete", 1 - 0.01 * number) for number, values in enumerate(params)]


BORDERS = [
    ((0.99, 0.5, 0.5, 0.5, 0.5), "the best value of hyper.learning_rate lies at the upper border (0.1)", "higher"),
    ((0.02, 0.5, 0.5, 0.5, 0.5), "the best value of hyper.learning_rate lies at the lower border (1e-05)", "lower"),
    ((0.9, 0.97, 0.98, 0.99, 0.5), "the middle of the best 5 values of hyper.learning_rate", "higher"),
]


@pytest.mark.parametrize(("units", "start", "where"), BORDERS, ids=["upper", "lower", "middle of five"])
def test_a_best_value_at_the_border_is_told_in_words(units, start, where):
    (sentence,) = borders(SEARCH, at(*units), 1)
    assert sentence.startswith(start) and sentence.endswith(f"search {where}")


def test_the_middle_and_natural_borders_are_no_warning():
    assert borders(SEARCH, at(0.5, 0.3, 0.7), 1) == []
    assert borders(SEARCH, [], 1) == []
    assert borders(SEARCH, at(0.5, 0.4, **{"hyper.dropout_rate": 0.0}), 1) == []  # there is nothing below 0


def test_refining_covers_the_best_and_is_at_most_a_third_as_wide():
    trials = at(0.5, 0.55, 0.6)
    drawn, old = narrow(SEARCH, trials, 1).space["hyper.learning_rate"], SPACE["hyper.learning_rate"]
    assert old.unit(drawn.low) == pytest.approx(0.45) and old.unit(drawn.high) == pytest.approx(0.65)
    spread = narrow(SEARCH, at(0.5, 0.1, 0.9), 1).space["hyper.learning_rate"]
    assert old.unit(spread.high) - old.unit(spread.low) == pytest.approx(1 / 3)
    assert spread.low < trials[0].params["hyper.learning_rate"] < spread.high
    check_search(narrow(SEARCH, trials, 1))


def test_refining_goes_on_beyond_a_border_that_was_hit_but_not_beyond_what_can_be():
    old = SPACE["hyper.learning_rate"]
    assert narrow(SEARCH, at(0.99, 0.9), 1).space["hyper.learning_rate"].high > old.high
    assert narrow(SEARCH, at(0.5, 0.4, **{"hyper.dropout_rate": 0.0}), 1).space["hyper.dropout_rate"].low == 0


def test_refining_keeps_the_choices_that_the_best_trials_have():
    mixed = at(0.5, batch_size=30) + at(0.4, batch_size=10)
    assert narrow(SEARCH, mixed, 1).space["batch_size"] == Choice((10, 30))
