"""The range test: same start, one axis, and a suggestion that follows from what was seen."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.errors import RequestError
from jaxtrain.lr_range import lr_range, suggest
from jaxtrain.types import Hyper

RATES = np.geomspace(1e-4, 1, 9)


@pytest.fixture(scope="module")
def digits():
    return jt.load_data(jt.DataConfig(name="digits"))


def losses_of(shape):
    """A loss for each rate: down to a valley at RATES[5], or as told."""
    curves = {
        "valley": [2.2, 2.1, 1.8, 1.0, 0.4, 0.2, 0.3, math.inf, math.inf],
        "cliff": [2.2, 2.1, 1.8, 1.0, 0.4, 0.2, math.inf, math.inf, math.inf],
        "lucky": [2.2, 2.1, 1.8, 1.0, 0.4, 0.5, 5.0, 0.1, 5.0],
        "falling": [2.2, 2.1, 1.8, 1.0, 0.4, 0.3, 0.2, 0.1, 0.05],
        "rising": [0.1, 0.2, 0.3, 1.0, 1.4, 2.0, 3.0, math.inf, math.inf],
    }
    return np.array(curves[shape])


def test_where_all_but_the_lowest_rates_fail_nothing_is_suggested():
    suggested, reason = suggest(np.geomspace(1, 100, 32), np.array([2.0] * 4 + [math.inf] * 28), 2.3)
    assert suggested is None and "look below it" in reason


@pytest.mark.parametrize(
    ("shape", "index", "words"),
    [
        ("valley", 5, "from 0.32 on it fails"),
        ("cliff", 4, "from 0.1 on it fails"),
        ("lucky", 4, "lowest at 0.01"),
        ("falling", 8, "the upper border of the range, so look above it too"),
        ("rising", 0, "the lower border of the range, so look below it too"),
    ],
)
def test_the_suggestion_follows_from_the_losses(shape, index, words):
    suggested, reason = suggest(RATES, losses_of(shape), start_loss=2.3)
    assert suggested == pytest.approx(RATES[index]) and words in reason


def test_a_suggestion_keeps_away_from_the_cliff():
    rates = np.geomspace(0.1, 1, 9)
    suggested, reason = suggest(rates, losses_of("valley"), start_loss=2.3)
    assert suggested == pytest.approx(rates[3]) and rates[3] * 3 <= rates[7]
    assert "0.24 keeps a factor of 3 from 0.75, which fails" in reason


def test_where_nothing_learns_nothing_is_suggested():
    suggested, reason = suggest(RATES, np.full(9, math.inf), start_loss=2.3)
    assert suggested is None and "no rate from 0.0001 to 1 ends below" in reason


def test_a_rate_is_judged_by_its_own_short_run_and_diverging_ones_by_infinity(digits):
    net, hyper = jt.MLP(hidden=(16,), batch_norm=False), Hyper(momentum=0.9)
    config = jt.Config(batch_size=64, optimizer=jt.Sgd(), epochs=50, early_stopping=jt.EarlyStopping())
    wild = lr_range(net, digits, config, hyper, low=1.0, high=1e30, count=3, num_steps=25)
    assert wild.losses[-1] == math.inf
    found = lr_range(net, digits, config, hyper, low=1e-6, high=1e2, count=5, num_steps=25)
    assert found.losses[0] == pytest.approx(found.start_loss, rel=0.02)  # a rate of 1e-6 has done nothing
    assert found.losses[-1] > found.start_loss and found.suggested is not None
    # The member with rate r is the run with rate r and a constant schedule.
    one = dataclasses.replace(hyper, learning_rate=found.learning_rates[2])
    constant = jt.Config(batch_size=64, optimizer=jt.Sgd(), epochs=2, schedule=jt.Schedule("constant"))
    state = jt.make_init(net, digits, constant)(jax.random.key(0), one)
    step = jax.jit(jt.make_train_step(net, digits, constant))
    batches = [b for epoch in range(2) for b in jt.epoch(digits, jax.random.key(0), epoch, 64)]
    for batch in batches[:25]:
        state, _ = step(state, batch)
    image, label = (getattr(digits, name)[: digits.num_train] for name in ("image", "label"))
    run = jt.fit(net, digits, dataclasses.replace(constant, epochs=1), one, quiet=True)
    run = dataclasses.replace(run, params=state.params, batch_stats=state.batch_stats)
    assert found.losses[2] == pytest.approx(run.evaluate(image, label).loss, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(low=1.0, high=0.1), "0 < low < high"),
        (dict(low=0.0), "0 < low < high"),
        (dict(count=2), "at least 3 rates"),
        (dict(num_steps=0), "1 step"),
    ],
)
def test_a_wrong_range_is_refused(digits, changes, message):
    with pytest.raises(RequestError, match=message):
        lr_range(jt.MLP(hidden=(4,)), digits, **changes)
