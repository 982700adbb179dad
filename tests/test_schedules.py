import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import Schedule
from jaxtrain.errors import RequestError
from jaxtrain.optim import make_schedule

SPE = 100  # steps an epoch
MISSPELT: Any = {"kind": "cosin"}

TABLE = {
    "constant": (Schedule("constant"), lambda t, p: np.ones_like(t)),
    "step": (Schedule("step", period=3, factor=0.5), lambda t, p: 0.5 ** np.floor(t / 3 + 1e-9)),
    "step_to_zero": (Schedule("step", period=3, factor=0.0), lambda t, p: np.where(t < 3 - 1e-9, 1.0, 0.0)),
    "many_steps": (
        Schedule("step", unit="steps", period=1, factor=0.999, warmup=7),
        lambda t, p: 0.999**t,
    ),
    "exponential": (Schedule("exponential", rate=0.3), lambda t, p: np.exp(-0.3 * t)),
    "exponential_in_steps": (Schedule("exponential", unit="steps", rate=0.003), lambda t, p: np.exp(-0.003 * t)),
    "inverse": (Schedule("inverse", rate=0.7, warmup=2), lambda t, p: 1 / (1 + 0.7 * t)),
    "linear": (Schedule("linear", warmup=1, floor=0.1), lambda t, p: 0.1 + 0.9 * (1 - p)),
    "cosine": (Schedule("cosine", warmup=0.5), lambda t, p: (1 + np.cos(np.pi * p)) / 2),
    "cosine_restarts": (
        Schedule("cosine_restarts", period=3, floor=0.01),
        lambda t, p: 0.01 + 0.99 * (1 + np.cos(np.pi * (t / 3 - np.floor(t / 3 + 1e-9)))) / 2,
    ),
}


def values(schedule, num_steps: int, spe: int, steps) -> np.ndarray:
    factor = jax.jit(jax.vmap(make_schedule(schedule, num_steps, spe)))(jnp.asarray(steps, jnp.int32))
    assert factor.dtype == jnp.float32
    return np.asarray(factor)


def expected(schedule: Schedule, line, steps: np.ndarray, num_steps: int, spe: int) -> np.ndarray:
    unit = spe if schedule.unit == "epochs" else 1
    warmup = schedule.warmup * unit
    after = np.maximum(steps - warmup, 0).astype(np.float64)
    factor = line(after / unit, np.minimum(after / (num_steps - warmup), 1))
    return np.where(steps < warmup, (steps + 1) / max(warmup, 1), factor)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize(("num_steps", "spe"), [(1_000, SPE), (10_000_000, 1_000_000)])
def test_schedule_equals_a_float64_line(name, num_steps, spe):
    schedule, line = TABLE[name]
    steps = np.unique(np.linspace(0, num_steps - 1, 3001).astype(np.int64))
    steps = np.union1d(steps, np.arange(num_steps - 20, num_steps))
    factor = values(schedule, num_steps, spe, steps)
    np.testing.assert_allclose(factor, expected(schedule, line, steps, num_steps, spe), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["constant", "step", "exponential", "inverse", "linear", "cosine", "cosine_restarts"])
def test_warmup_reaches_the_full_rate_once_and_then_never_exceeds_it(kind):
    factor = values(Schedule(kind, unit="steps", warmup=10, period=20), 100, SPE, np.arange(120))
    np.testing.assert_allclose(factor[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert factor[9] == factor[10] == 1
    assert np.all((factor >= 0) & (factor <= 1))


@pytest.mark.parametrize("kind", ["linear", "cosine", "one_cycle"])
def test_annealing_ends_at_the_floor_and_stays(kind):
    np.testing.assert_allclose(values(Schedule(kind, floor=0.25), 1000, SPE, [1000, 5000]), 0.25, atol=1e-6)


def test_one_cycle_rises_for_30_percent_and_falls_to_zero():
    factor = values(Schedule("one_cycle"), 1000, SPE, np.arange(1000))
    assert factor.argmax() == 299 and factor[0] > 0 and factor[-1] < 1e-4
    assert np.all(np.diff(factor[:300]) > 0) and np.all(np.diff(factor[300:]) < 0)


def test_cycles_stretch():
    schedule = Schedule("cosine_restarts", unit="steps", period=10, stretch=2.0)
    factor = values(schedule, 200, SPE, np.arange(250))
    assert list(np.flatnonzero(factor == 1)) == [0, 10, 30, 70, 150]
    for start, length in [(0, 10), (10, 20), (30, 40), (70, 80)]:
        p = np.arange(length) / length
        np.testing.assert_allclose(factor[start : start + length], (1 + np.cos(np.pi * p)) / 2, atol=1e-6)
    assert np.isfinite(values(schedule, 200, SPE, np.arange(0, 9000, 7))).all()


def test_a_run_may_be_all_warmup():
    factor = values(Schedule("cosine", warmup=1), SPE, SPE, np.arange(SPE))
    np.testing.assert_allclose(factor, np.arange(1, SPE + 1) / SPE, rtol=1e-6)


def test_a_function_of_the_users_own_is_used():
    assert values(lambda step: 1 / (1 + step), 10, 5, [3]) == 0.25


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule("cosine", warmup=10.5), "longer than the whole run"),
        (Schedule("cosine_restarts", stretch=0.5), "at least 1"),
        (Schedule(**MISSPELT), "did you mean 'cosine'"),
        (lambda step: jnp.ones(3), "one number"),
        (0.5, "must be a Schedule or a function"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule, message):
    with pytest.raises(RequestError, match=message):
        make_schedule(schedule, 1000, SPE)


def test_an_empty_run_is_refused():
    with pytest.raises(RequestError, match="at least 1"):
        make_schedule(Schedule(), 0, SPE)


def test_step_reduces_at_whole_steps_even_for_odd_periods():
    factor = values(Schedule("step", period=1 / 3), 1000, 469, np.arange(1000))
    assert list(np.flatnonzero(np.diff(factor))) == [k * round(469 / 3) - 1 for k in range(1, 7)]
    assert math.isclose(factor[-1], 0.5**6)
