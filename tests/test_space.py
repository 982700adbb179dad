"""What can be searched, and what a trial's values make of the experiment."""

import math

import jax
import pytest
from fake_training import Net, experiment

import jaxtrain as jt
from jaxtrain.configfile import load_config, load_search
from jaxtrain.errors import RequestError
from jaxtrain.space import (
    Choice,
    Halving,
    Range,
    Search,
    check_search,
    default_round,
    is_static,
    label,
    num_static,
    program_key,
    with_values,
)

RATE = {"hyper.learning_rate": Range(1e-4, 1e-1, log=True)}


def make(space, **options):
    return Search(experiment(), space, **options)


@pytest.mark.parametrize("name", ["batch_size", "config.batch_size"])
def test_names_are_those_of_the_command_line_with_or_without_config(name):
    assert list(check_search(make({name: Choice((5, 10))})).space) == ["batch_size"]


def test_a_trials_values_are_put_where_their_names_say():
    schedules = jt.Schedule("cosine"), jt.Schedule("linear", warmup=1)
    space = {
        **RATE,
        "hyper.extra.mine": Range(0, 1),
        "batch_size": Choice((5, 10)),
        "model.width": Range(2, 8, integer=True),
        "schedule": Choice(schedules),
    }
    base = jt.Experiment(Net(), jt.DataConfig(), hyper=jt.Hyper(extra={"mine": 0.5}))
    drawn = {
        "hyper.learning_rate": 2e-3,
        "hyper.extra.mine": 0.25,
        "batch_size": 5,
        "model.width": 3,
        "schedule": label(schedules[1]),
    }
    changed = with_values(check_search(Search(base, space)), drawn)
    assert (changed.hyper.learning_rate, changed.hyper.extra) == (2e-3, {"mine": 0.25})
    assert (changed.config.batch_size, changed.model, changed.config.schedule) == (5, Net(3), schedules[1])


def test_one_program_serves_what_differs_in_numbers_only():
    search = check_search(make({**RATE, "hyper.clip_norm": Choice((None, 1.0, 2.0)), "batch_size": Choice((5, 10))}))
    keys = {
        drawn: program_key(with_values(search, dict(zip(search.space, drawn, strict=True))))
        for drawn in [(1e-3, 1.0, 5), (1e-2, 2.0, 5), (1e-3, None, 5), (1e-3, 1.0, 10)]
    }
    first, second, without, larger = keys.values()
    assert first == second and len({first, without, larger}) == 3
    assert [is_static(search, name) for name in search.space] == [False, True, True]


def test_a_number_that_is_none_in_the_experiment_is_one_in_every_trial():
    search = check_search(make({"hyper.weight_decay": Range(0, 1)}))
    assert search.experiment.hyper.weight_decay is None
    assert jax.tree.leaves(with_values(search, {"hyper.weight_decay": 0.0}).hyper.weight_decay) == [0.0]


@pytest.mark.parametrize("drawn", [Range(1e-4, 1e-1, log=True), Range(-2, 5), Range(1, 512, log=True, integer=True)])
def test_unit_and_at_are_inverse_and_the_ends_are_0_and_1(drawn):
    assert (drawn.unit(drawn.low), drawn.unit(drawn.high)) == pytest.approx((0, 1))
    for share in (0, 0.25, 0.5, 1):
        value = drawn.at(share)
        assert drawn.at(drawn.unit(value)) == pytest.approx(value)
    assert Range(1e-4, 1e-2, log=True).at(0.5) == pytest.approx(1e-3)
    assert Range(3, 3).unit(3) == 0.5


LABELS = [
    (None, None),
    (True, True),
    (64, 64),
    ("unit", "unit"),
    ((256, 256), "(256, 256)"),
    (jt.Schedule(), "Schedule()"),
    (jt.Schedule("linear", warmup=1.0), "Schedule(kind='linear', warmup=1.0)"),
    (math.sqrt, "sqrt"),
]


@pytest.mark.parametrize(("value", "expected"), LABELS, ids=lambda value: str(value))
def test_a_label_is_plain_and_short(value, expected):
    assert label(value) == expected


def test_a_choice_gives_back_what_a_label_stands_for():
    values = (1, 1.0, True, None, (2, 2), jt.Adam(), jt.Sgd(nesterov=True))
    choice = Choice(values)
    assert [choice.value(entry) for entry in choice.labels()] == list(values)
    assert [type(choice.value(entry)) for entry in (1, 1.0, True)] == [int, float, bool]


WRONG = {
    "unknown field": (
        {"hyper.learning_rat": Range(0, 1)},
        ["hyper.learning_rat", "did you mean 'hyper.learning_rate'"],
    ),
    "a field without its group": ({"learning_rate": Range(0, 1)}, ["did you mean 'hyper.learning_rate'"]),
    "of the network": ({"model.widht": Choice((1, 2))}, ["did you mean 'model.width'"]),
    "in a part that is off": ({"plateau.patience": Choice((1, 2))}, ["config.plateau is None"]),
    "low above high": ({"hyper.l1": Range(1.0, 0.5)}, ["low 1 is larger than high 0.5"]),
    "logarithm of 0": ({"hyper.l1": Range(0.0, 0.5, log=True)}, ["logarithm", "more than 0"]),
    "infinite": ({"hyper.l1": Range(0.0, math.inf)}, ["finite"]),
    "out of the field's range": ({"hyper.dropout_rate": Range(0.0, 1.0)}, ["dropout_rate", "[0, 1)"]),
    "not whole": ({"batch_size": Range(5, 20)}, ["expected int", "integer=True"]),
    "whole with broken ends": ({"batch_size": Range(5.5, 20, integer=True)}, ["whole ends"]),
    "wrong type": ({"optimizer": Choice(("adam",))}, ["optimizer", "'adam'"]),
    "no values": ({"batch_size": Choice(())}, ["one or more"]),
    "a word for values": ({"batch_size": Choice("ab")}, ["one or more"]),
    "twice the same": ({"batch_size": Choice((5, 5))}, ["two values"]),
    "neither": ({"batch_size": (5, 10)}, ["expected Range(low, high) or Choice"]),
    "one field twice": ({"batch_size": Choice((5, 10)), "config.batch_size": Choice((5,))}, ["one field"]),
    "one in the other": (
        {"schedule": Choice((jt.Schedule(),)), "schedule.warmup": Range(0, 1)},
        ["one holds the other"],
    ),
    "the seed": ({"seed": Range(0, 9, integer=True)}, ["luck"]),
    "the examples": ({"data.val_share": Range(0.1, 0.2)}, ["cannot be compared"]),
    "the judge": ({"watch": Choice(("loss", "accuracy"))}, ["judged alike"]),
    "speed": ({"eval_batch_size": Choice((10, 20))}, ["not its result"]),
    "a group": ({"hyper": Choice((jt.Hyper(),))}, ["name the fields"]),
    "nothing": ({}, ["nothing to search"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_space_is_one_sentence(name):
    space, parts = WRONG[name]
    with pytest.raises(RequestError) as raised:
        check_search(make(space))
    for part in parts:
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)


OPTIONS = [
    (dict(trials=0), "trials is 0"),
    (dict(round_size=0), "round_size is 0"),
    (dict(keep=-1), "keep is -1"),
    (dict(sampler="tp"), "did you mean 'tpe'"),
    (dict(halving=Halving(eta=1)), "halving.eta is 1"),
    (dict(halving=Halving(min_epochs=9)), "must lie in 1..8"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=lambda value: str(value))
def test_wrong_options_are_refused(options, message):
    with pytest.raises(RequestError, match=message.replace(".", "[.]").replace("[.][.]", "..")):
        check_search(make(RATE, **options))


def test_halving_shares_out_the_epochs_so_they_are_not_searched():
    with pytest.raises(RequestError, match="cannot be searched too"):
        check_search(make({"epochs": Choice((3, 9))}, halving=Halving()))


def test_a_round_leaves_work_for_others_and_enough_for_halving():
    static = check_search(make({**RATE, "batch_size": Choice((5, 10))}, trials=200))
    assert num_static(static) == 2 and default_round(static) == 32
    assert default_round(check_search(make(RATE, trials=60))) == 16
    assert default_round(check_search(make(RATE, trials=60, halving=Halving(eta=3)))) == 27
    assert default_round(check_search(make(RATE, trials=5))) == 5
    assert num_static(check_search(make({"schedule.warmup": Range(0, 1)}))) == math.inf


CONFIG = """
import jaxtrain as jt
from jaxtrain.space import Range, Search

def get_config():
    return {}
"""


def test_a_config_file_of_a_search_is_for_the_search_and_others_are_not(tmp_path):
    one, many = tmp_path / "one.py", tmp_path / "many.py"
    plain = "jt.Experiment(jt.MLP(), jt.DataConfig())"
    one.write_text(CONFIG.format(plain))
    many.write_text(CONFIG.format(f"Search({plain}, {{'hyper.l1': Range(0, 1)}})"))
    assert list(load_search(str(many)).space) == ["hyper.l1"]
    with pytest.raises(RequestError, match="describes a search; run it with scripts/search.py"):
        load_config(str(many))
    with pytest.raises(RequestError, match="describes one experiment"):
        load_search(str(one))
