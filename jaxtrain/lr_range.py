"""The learning-rate range test: many rates from the same initial weights, as one member axis.

Imports the loop and what lies below. The fact that surprises: where the classic test raises the rate along one run,
here each rate has a short run of its own, so that it is judged by what it does and not by what smaller ones did before.

References:
  Smith, Cyclical Learning Rates for Training Neural Networks, 2017, https://arxiv.org/abs/1506.01186, section 3.3
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtrain.config import Config, Schedule
from jaxtrain.data import Data
from jaxtrain.errors import RequestError
from jaxtrain.layout import Parallel, plan
from jaxtrain.log import Log, Logs
from jaxtrain.members import Group, make_group
from jaxtrain.metrics import compute
from jaxtrain.request import check_request, check_values
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import evaluate, fetch, train
from jaxtrain.types import Hyper, Task

SAFETY = 3.0
"""A suggested rate is this many times smaller than the smallest one that fails above it: a whole run meets more than a
test of a few hundred steps does."""


@dataclass(frozen=True)
class LrRange:
    """What a range test found."""

    learning_rates: tuple[float, ...]  # ascending
    losses: tuple[float, ...]  # after the test, nats or squared error; inf where the member diverged
    start_loss: float  # before the first step
    suggested: float | None  # None where no rate learns
    reason: str
    num_steps: int


def lr_range(
    model: Any,
    data: Data,
    config: Config | None = None,
    hyper: Hyper | None = None,
    *,
    low: float = 1e-5,
    high: float = 1.0,
    count: int = 32,
    num_steps: int = 300,
    seed: int = 0,
    parallel: Parallel = "auto",
    task: Task | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> LrRange:
    """Train for `num_steps` with each of `count` learning rates, spaced evenly in the logarithm, and suggest one.

    The members differ in the rate alone: initial weights, order of the data and dropout are those of `seed`. The rate
    is constant, for a schedule would be tested with it. The loss is that of a fixed part of the training split, in
    evaluation mode, after the last step.

    Args:
      model, data, config, hyper, task, parallel: as for `fit`; the config's schedule, averages and stopping play no
        part.
      low, high: smallest and largest rate.
      count: number of rates.
      num_steps: length of each run; a few hundred.
      seed: of all members.
      stop: asked after each chunk of compiled steps; True ends the test early, with what was found.

    Raises:
      RequestError: a range that is empty or not positive, fewer than three rates, or a request as `fit` refuses it.
    """
    config, hyper = config or Config(), hyper or Hyper()
    if not 0 < low < high < math.inf:
        raise RequestError(f"the learning rates go from {low:g} to {high:g}; give 0 < low < high")
    if count < 3 or num_steps < 1:
        raise RequestError(f"{count} rates over {num_steps} steps; give at least 3 rates and 1 step")
    check_values(config, hyper)
    setting = make_setting(model, data, _bare(config, data, num_steps), task)
    check_request(setting, data, hyper)
    rates = np.geomspace(low, high, count)
    hypers = [dataclasses.replace(hyper, learning_rate=float(rate)) for rate in rates]
    layout = plan(setting, data, hyper, count, parallel)
    losses: list[float] = []
    start_loss = math.nan
    for first in range(0, count, layout.width):
        part = hypers[first : first + layout.width]
        group = make_group(setting, data, [seed] * len(part), part, layout)
        start_loss = _losses(group)[0]
        train(group, log=Logs(Log(None, Terminal(quiet=True))), until=num_steps, mark=True, stop=stop)
        found = _losses(group)
        losses += [math.inf if m.reason == "diverged" else x for m, x in zip(group.members, found, strict=True)]
        group.close()
    suggested, reason = suggest(rates, np.array(losses), start_loss)
    return LrRange(tuple(map(float, rates)), tuple(losses), start_loss, suggested, reason, num_steps)


def suggest(rates: np.ndarray, losses: np.ndarray, start_loss: float) -> tuple[float | None, str]:
    """The rate to take, and why, in a sentence.

    It is the rate of the lowest loss, smoothed over its neighbours, or where a larger rate fails (ends above the loss
    before training, or diverges), at most a third of the smallest such rate.

    Args:
      rates: f64[R], ascending.
      losses: f64[R], inf where the member diverged.
      start_loss: before the first step.
    """
    smooth = _median_of_three(losses)
    if not (smooth < start_loss).any():
        return (
            None,
            f"no rate from {rates[0]:.3g} to {rates[-1]:.3g} ends below the loss before training, {start_loss:.4g}",
        )
    best = int(np.argmin(smooth))
    failing = [rate for rate, loss in zip(rates, losses, strict=True) if rate > rates[best] and not loss < start_loss]
    limit = min(failing) / SAFETY if failing else math.inf
    safe = np.flatnonzero(rates <= min(rates[best], limit))
    if not safe.size:
        return (
            None,
            f"rates from {min(failing):.3g} on fail, less than {SAFETY:g} times the lowest tested; look below it",
        )
    suggested = float(rates[safe[-1]])
    reason = f"the loss is lowest at {rates[best]:.2g}, {losses[best]:.4g} after {start_loss:.4g} before training"
    if suggested < rates[best]:
        reason += f"; {suggested:.2g} keeps a factor of {SAFETY:g} from {min(failing):.2g}, which fails"
    elif failing:
        reason += f"; from {min(failing):.2g} on it fails"
    if best in (0, len(rates) - 1):
        border, where = ("lower", "below") if best == 0 else ("upper", "above")
        reason += f"; that is the {border} border of the range, so look {where} it too"
    return suggested, reason


def _bare(config: Config, data: Data, num_steps: int) -> Config:
    """The config without what comes after or beside the steps; its batch size, optimizer and augmentation stay."""
    epochs = math.ceil(num_steps / max(1, data.num_train // config.batch_size))
    return dataclasses.replace(
        config,
        epochs=epochs,
        eval_every_epochs=epochs + 1,  # never within the test
        schedule=Schedule("constant"),
        plateau=None,
        early_stopping=None,
        ema_decay=None,
        swa_start=None,
        snapshot_every_epochs=None,
        final="last",
    )


def _losses(group: Group) -> list[float]:
    """Each member's loss on a part of the training split, in evaluation mode."""
    part = min(group.data.num_train, group.setting.config.train_eval_examples)

    def look(lane: Any) -> Any:
        weights = {"params": lane.state.params, "batch_stats": lane.state.batch_stats}
        return evaluate(lane, weights, 0, part)

    seen = fetch(group.each_lane(look))
    values = [compute(group.pick(seen, index))["loss"] for index in range(len(group.members))]
    return [value if math.isfinite(value) else math.inf for value in values]


def _median_of_three(losses: np.ndarray) -> np.ndarray:
    """Of each rate and its neighbours; a single lucky rate between two bad ones does not count."""
    padded = np.concatenate([losses[:1], losses, losses[-1:]])
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
