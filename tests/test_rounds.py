"""A round of trials: one group a program, and with halving less work for the same best."""

import math

import pytest
from fake_training import Trainer, changed, data, search, static_search

import jaxtrain as jt
from jaxtrain.search.rounds import End, Rung, run_round, rungs, score
from jaxtrain.search.trials import Trial
from jaxtrain.space import Halving, check_search, program_key, with_values

DATA = data()


def trials(searched, count=27):
    """As a study would ask them: the rates spread over the range."""
    found = []
    for number in range(count):
        unit = (number * 0.618) % 1
        params = {"hyper.learning_rate": searched.space["hyper.learning_rate"].at(unit)}
        for name, drawn in searched.space.items():
            if name != "hyper.learning_rate":
                params[name] = (
                    drawn.at(unit * 7 % 1) if hasattr(drawn, "at") else drawn.labels()[number % len(drawn.labels())]
                )
        found.append(Trial(number, params, "running"))
    return found


def play(searched, asked, trainer=None, stop=lambda: False):
    """The events of a round, by kind, and who trained."""
    trainer = trainer or Trainer()
    options = {"load": lambda config: DATA, "training": trainer.training, "stop": stop}
    events = list(run_round(searched, asked, metric="accuracy", sign=1, **options))
    return [e for e in events if isinstance(e, Rung)], [e for e in events if isinstance(e, End)], trainer


def test_each_program_is_one_group_and_each_trial_ends_once():
    searched = check_search(static_search())
    asked = trials(searched)
    _, ends, trainer = play(searched, asked)
    assert sorted(end.trial.number for end in ends) == list(range(27))
    assert len(trainer.groups) == len({program_key(with_values(searched, t.params)) for t in asked}) == 3
    assert all(group.closed for group in trainer.groups)
    for end in ends:
        assert end.experiment == with_values(searched, end.trial.params)
        assert end.steps == end.num_steps == 9 * (90 // end.experiment.config.batch_size) and end.epochs == 9


def test_all_trials_have_the_experiments_seed():
    searched = check_search(search())
    searched = changed(searched, experiment=changed(searched.experiment, seed=7))
    _, ends, _ = play(searched, trials(searched, 3))
    assert {end.group.members[end.index].seed for end in ends} == {7}


def test_a_group_is_no_wider_than_what_fits():
    searched = check_search(search())
    trainer = Trainer()
    trainer.width = lambda setting, data, hyper, count, parallel: 4
    _, ends, _ = play(searched, trials(searched, 10), trainer)
    assert [width for width, _ in trainer.calls] == [4, 4, 2] and len(ends) == 10


def test_an_end_tells_which_member_it_is_when_it_comes():
    searched = check_search(search(halving=Halving(eta=3)))
    trainer, seen = Trainer(), []
    options = {"load": lambda config: DATA, "training": trainer.training}
    for event in run_round(searched, trials(searched), metric="accuracy", sign=1, **options):
        if isinstance(event, End):
            member = event.group.members[event.index]
            seen.append(member.hyper.learning_rate == event.trial.params["hyper.learning_rate"])
            assert event.value == member.history[-1]["val/accuracy"]
    assert len(seen) == 27 and all(seen)


@pytest.mark.parametrize("make", [search, static_search], ids=["one program", "three programs"])
def test_halving_finds_the_best_of_all_trials_in_less_than_half_the_steps(make):
    full, halved = check_search(make()), check_search(make(halving=Halving(eta=3)))
    asked = trials(full)
    _, every, _ = play(full, asked)
    reported, some, trainer = play(halved, asked)
    best = max(every, key=lambda end: end.value)
    winner = max((end for end in some if end.outcome == "complete"), key=lambda end: end.value)
    assert winner.trial.number == best.trial.number and winner.value == best.value
    assert sum(end.steps for end in some) < 0.5 * sum(end.steps for end in every)
    assert [len([r for r in reported if r.epoch == epoch]) for epoch in (1, 3)] == [27, 9]


def test_halving_makes_narrower_groups_so_that_it_saves_work():
    searched = check_search(search(halving=Halving(eta=3)))
    _, _, trainer = play(searched, trials(searched))
    assert trainer.calls == [(27, 9), (9, 18), (3, 54)]  # members, steps: to epochs 1, 3 and 9


def test_those_that_go_on_are_better_than_those_that_end_at_a_rung():
    searched = check_search(search(halving=Halving(eta=2)))
    reported, ends, _ = play(searched, trials(searched))
    ended = {end.trial.number: end for end in ends}
    for epoch in (1, 2, 4, 8):
        here = {rung.trial.number: rung.value for rung in reported if rung.epoch == epoch}
        going_on = [value for number, value in here.items() if ended[number].epochs > epoch]
        ending = [value for number, value in here.items() if ended[number].epochs == epoch]
        assert min(going_on) >= max(ending) and len(going_on) == math.ceil(len(here) / 2)


def test_smaller_is_better_where_the_sign_says_so():
    searched = check_search(search(halving=Halving(eta=3)))
    options = {"load": lambda config: DATA, "training": Trainer().training}
    by_loss = list(run_round(searched, trials(searched), metric="loss", sign=-1, **options))
    _, by_accuracy, _ = play(searched, trials(searched))
    best = [
        {e.trial.number for e in events if isinstance(e, End) and e.outcome == "complete"}
        for events in (by_loss, by_accuracy)
    ]
    assert best[0] == best[1]


def test_diverged_trials_end_at_once_and_are_never_the_best():
    space = {"hyper.learning_rate": static_search().space["hyper.learning_rate"]}
    searched = check_search(search(space, halving=Halving(eta=3)))
    wild = [Trial(n, {"hyper.learning_rate": 0.9}, "running") for n in range(5)]
    tame = [Trial(5 + n, {"hyper.learning_rate": 1e-3 * (1 + n)}, "running") for n in range(4)]
    _, ends, _ = play(searched, wild + tame)
    assert {end.trial.number for end in ends if end.outcome == "diverged"} == set(range(5))
    assert all(end.value is None for end in ends if end.outcome == "diverged")
    _, ends, _ = play(searched, wild)
    assert [end.outcome for end in ends] == ["diverged"] * 5


def test_a_stop_leaves_what_is_not_finished_without_an_end():
    searched = check_search(static_search())
    asked, trainer = trials(searched), Trainer()
    _, ends, _ = play(searched, asked, trainer, stop=lambda: len(trainer.calls) >= 2)
    assert 0 < len(ends) < len(asked) and all(end.outcome == "complete" for end in ends)
    assert all(group.closed for group in trainer.groups)


RUNGS = [
    (dict(epochs=9), Halving(3, 1), [1, 3, 9]),
    (dict(epochs=40), Halving(3, 1), [1, 3, 9, 27, 40]),
    (dict(epochs=10), Halving(2, 3), [3, 6, 10]),
    (dict(epochs=40, eval_every_epochs=4), Halving(3, 1), [4, 12, 28, 40]),
    (dict(epochs=9), None, [9]),
]


@pytest.mark.parametrize(("config", "halving", "expected"), RUNGS, ids=lambda value: str(value))
def test_rungs_are_where_there_is_an_evaluation(config, halving, expected):
    assert rungs(search(config=config, halving=halving), config["epochs"]) == expected


def history(*values):
    return [{"step": i, "val/accuracy": v, "val/loss": 1 - v} for i, v in enumerate(values)]


SCORES = [
    (jt.Config(), "accuracy", 1, 0.7),
    (jt.Config(final="best"), "accuracy", 1, 0.9),
    (jt.Config(final="best"), "loss", -1, 0.1),
    (jt.Config(early_stopping=jt.EarlyStopping()), "accuracy", 1, 0.9),
    (jt.Config(final="last", early_stopping=jt.EarlyStopping()), "accuracy", 1, 0.7),
]


@pytest.mark.parametrize(
    ("config", "metric", "sign", "expected"), SCORES, ids=["last", "best", "loss", "early", "both"]
)
def test_a_trial_is_judged_by_the_weights_that_final_would_choose(config, metric, sign, expected):
    assert score(config, history(0.5, 0.9, 0.7), metric, sign) == pytest.approx(expected)


def test_what_is_not_finite_has_no_score():
    assert score(jt.Config(), history(), "accuracy", 1) is None
    assert score(jt.Config(), history(0.5, math.nan), "accuracy", 1) is None
