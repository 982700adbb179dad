"""Annealing: the factor in [0, 1] by which the learning rate is multiplied, as a function of the step.

Imports `types`, `errors` and `config`. The fact that surprises: lengths are rounded to whole steps before anything is
traced, so that t comes from integer arithmetic and float32 is exact enough at ten million steps.
"""

import difflib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import Schedule, UnitSchedule
from jaxtrain.errors import RequestError
from jaxtrain.types import Array

ONE_CYCLE_RISE = 0.3
"""Share of a one-cycle run in which the rate rises, where `warmup` does not say."""


def make_schedule(schedule: Schedule | UnitSchedule, num_steps: int, steps_per_epoch: int) -> UnitSchedule:
    """The factor f(step), i32[] -> f32[], for a run of `num_steps` updates.

    During a warm-up of w steps f is (step + 1) / w: step 0 already moves, and step w - 1 has the full rate. From step w
    on, with t = (step - w) in the schedule's unit and p = (step - w) / (num_steps - w), at most 1:

        constant         1
        step             factor ** floor(t / period)
        exponential      exp(-rate t)
        inverse          1 / (1 + rate t)
        linear           floor + (1 - floor) (1 - p)
        cosine           floor + (1 - floor) (1 + cos(pi p)) / 2
        cosine_restarts  the same with p the share of the current cycle; cycles last period, period stretch, ...
        one_cycle        cosine after a long rise: `warmup`, or 30 % of the run where it is 0

    `warmup` and `period` are rounded to whole steps. A function of the user's own is returned with its result cast to
    float32. One-cycle anneals the rate only; Smith also moves the momentum.

    Args:
      schedule: what the config says, or any function of the step that JAX can trace.
      num_steps: updates in the whole run, as asked for now (a resumed run may ask for more than before).
      steps_per_epoch: updates in an epoch, which turns epochs into steps.

    Raises:
      RequestError: warm-up longer than the run, cycles that shrink, an unknown kind, a function that gives no scalar.

    References:
      CS231n, https://cs231n.github.io/neural-networks-3/#anneal (step, exponential, 1/t)
      Loshchilov and Hutter, SGDR, 2016, https://arxiv.org/abs/1608.03983 (cosine, restarts)
      Smith and Topin, Super-Convergence, 2017, https://arxiv.org/abs/1708.07120 (one cycle)
    """
    if num_steps < 1 or steps_per_epoch < 1:
        raise RequestError(
            f"a schedule was asked for {num_steps} steps of {steps_per_epoch} an epoch; both must be at least 1"
        )
    if not isinstance(schedule, Schedule):
        return _checked(schedule)
    warmup = _warmup_steps(schedule, num_steps, steps_per_epoch)
    anneal = _anneal(schedule, max(num_steps - warmup, 1), steps_per_epoch)

    def unit_schedule(step: Array) -> Array:
        step = jnp.asarray(step)
        after = anneal(jnp.maximum(step - warmup, 0))
        if not warmup:
            return after
        return jnp.where(step < warmup, (step + 1) / np.float32(warmup), after).astype(jnp.float32)

    return unit_schedule


def _anneal(schedule: Schedule, num_steps: int, steps_per_epoch: int) -> Callable[[Array], Array]:
    """f after the warm-up, of the number of steps since then, i32[]."""
    unit = steps_per_epoch if schedule.unit == "epochs" else 1
    period, rate = _whole_steps(schedule.period, unit), np.float32(schedule.rate / unit)
    # factor ** k as exp(k log(factor)): float32 powers of a rounded factor lose five digits by k = 1000.
    log_factor = np.float32(max(math.log(schedule.factor), -1e4) if schedule.factor > 0 else -1e4)

    def share(t: Array) -> Array:
        return jnp.minimum(t / np.float32(num_steps), 1.0)

    def down_to_floor(unit_factor: Array) -> Array:
        return jnp.minimum(np.float32(schedule.floor) + np.float32(1 - schedule.floor) * unit_factor, 1.0)

    if schedule.kind == "constant":
        return lambda t: jnp.ones_like(t, jnp.float32)
    if schedule.kind == "step":
        return lambda t: jnp.exp((t // period).astype(jnp.float32) * log_factor)
    if schedule.kind == "exponential":
        return lambda t: jnp.exp(-rate * t.astype(jnp.float32))
    if schedule.kind == "inverse":
        return lambda t: 1 / (1 + rate * t.astype(jnp.float32))
    if schedule.kind == "linear":
        return lambda t: down_to_floor(1 - share(t))
    if schedule.kind in ("cosine", "one_cycle"):
        return lambda t: down_to_floor(_cosine(share(t)))
    if schedule.kind == "cosine_restarts":
        share_of_cycle = _cycles(period, schedule.stretch, num_steps)
        return lambda t: down_to_floor(_cosine(share_of_cycle(t)))
    raise RequestError(
        f"unknown config.schedule.kind {schedule.kind!r}; did you mean {_nearest_kind(schedule.kind)!r}?"
    )


def _cosine(share: Array) -> Array:
    return (1 + jnp.cos(np.float32(math.pi) * share)) / 2


def _cycles(period: int, stretch: float, num_steps: int) -> Callable[[Array], Array]:
    """Share of the current cycle that has passed. The starts of all cycles are few, and computed here in float64."""
    if stretch < 1:
        raise RequestError(
            f"config.schedule.stretch is {stretch:g}; it must be at least 1, for shrinking cycles never reach the end"
        )
    if stretch == 1:
        return lambda t: (t % period) / np.float32(period)
    num_cycles = math.ceil(math.log1p(num_steps * (stretch - 1) / period) / math.log(stretch)) + 1
    starts = np.rint(period * (stretch ** np.arange(num_cycles + 1) - 1) / (stretch - 1))
    starts = np.minimum(starts, np.iinfo(np.int32).max).astype(np.int32)

    def share_of_cycle(t: Array) -> Array:
        cycle = jnp.minimum(jnp.searchsorted(starts, t, side="right") - 1, num_cycles - 1)
        start, end = jnp.asarray(starts)[cycle], jnp.asarray(starts)[cycle + 1]
        return jnp.minimum((t - start) / (end - start).astype(jnp.float32), 1.0)

    return share_of_cycle


def _warmup_steps(schedule: Schedule, num_steps: int, steps_per_epoch: int) -> int:
    if schedule.kind == "one_cycle" and schedule.warmup == 0:
        return round(ONE_CYCLE_RISE * num_steps)
    steps = round(schedule.warmup * (steps_per_epoch if schedule.unit == "epochs" else 1))
    if steps > num_steps:
        raise RequestError(
            f"config.schedule.warmup of {schedule.warmup:g} {schedule.unit} is {steps} steps, longer than the whole run"
            f" of {num_steps}; shorten it or train for longer"
        )
    return steps


def _whole_steps(length: float, unit: int) -> int:
    # Clipped so that it stays an int32 beside a traced step.
    return min(max(round(length * unit), 1), np.iinfo(np.int32).max)


def _nearest_kind(kind: str) -> str:
    kinds = ["constant", "step", "exponential", "inverse", "linear", "cosine", "cosine_restarts", "one_cycle"]
    return (difflib.get_close_matches(kind, kinds, 1, 0.0) or kinds)[0]


def _checked(schedule: UnitSchedule) -> UnitSchedule:
    if not callable(schedule):
        raise RequestError(f"config.schedule is {schedule!r}; it must be a Schedule or a function step -> factor")

    def unit_schedule(step: Array) -> Array:
        return jnp.asarray(schedule(step), jnp.float32)

    shape = jax.eval_shape(unit_schedule, jax.ShapeDtypeStruct((), jnp.int32)).shape
    if shape:
        raise RequestError(f"config.schedule gives an array of shape {shape} for a step; it must give one number")
    return unit_schedule
