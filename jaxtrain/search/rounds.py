"""A round of trials: grouped by what is static, trained together, and, with halving, thinned out on the way.

Imports the step, the space and trials. The fact that surprises: a round is a generator. It yields what happens to its
trials as it happens, and whoever consumes it tells the study, logs and keeps weights; here nothing is written.

References:
  Jamieson & Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016,
  https://arxiv.org/abs/1502.07943
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from jaxtrain.config import Config, DataConfig, Experiment
from jaxtrain.data import Data
from jaxtrain.search.trials import Trial
from jaxtrain.space import Search, program_key, with_values
from jaxtrain.step import Setting, make_setting
from jaxtrain.types import Task

Row = Mapping[str, float]


class Member(Protocol):
    """What is read of a member of a group."""

    history: Sequence[Row]  # a row an evaluation: "step", "epoch", "val/loss", ...
    reason: str  # running, done, early stopping, diverged, stopped


class Group(Protocol):
    """Members that are trained in lockstep."""

    @property
    def members(self) -> Sequence[Member]: ...

    def select(self, indices: Sequence[int]) -> "Group":
        """A narrower group of these members; this one is used up."""
        ...

    def close(self) -> None: ...


class Training(NamedTuple):
    """How trials are trained, from the modules above; or something in its place.

    width(setting, data, hyper, count, parallel) -> members that fit into one group.
    make_group(setting, data, seeds, hypers, parallel) -> Group before its first step.
    train_group(group, until=step, stop=stop): trains it in lockstep up to that step; a member that diverges is marked.
    write_member(group, index, experiment, folder): a member as the folder of a finished run, not scored on the test
      split; None: weights are not kept.
    fit: as `run.fit` with `seeds`.
    """

    width: Callable[..., int]
    make_group: Callable[..., Any]
    train_group: Callable[..., Any]
    write_member: Callable[..., Any] | None
    fit: Callable[..., Any]


class Rung(NamedTuple):
    """A trial has come to a rung."""

    trial: Trial
    epoch: int
    value: float


class End(NamedTuple):
    """A trial has ended; its member is `group.members[index]` until the next thing happens."""

    trial: Trial
    outcome: Literal["complete", "pruned", "diverged"]
    value: float | None
    epochs: int
    steps: int
    num_steps: int  # of the whole run
    seconds: float
    experiment: Experiment
    group: Any
    index: int


@dataclass
class Batch:
    """The trials that are one group, in the order of its members."""

    setting: Setting
    group: Any
    trials: list[Trial]
    experiments: list[Experiment]
    step: int = 0
    seconds: dict[int, float] = field(default_factory=dict)  # number of the trial -> its share


def run_round(
    search: Search,
    trials: Sequence[Trial],
    *,
    metric: str,
    sign: int,
    load: Callable[[DataConfig], Data],
    training: Training,
    task: Task | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Rung | End]:
    """Train trials and say what happens to each: one group after another, or with halving all of them rung by rung.

    All trials have the experiment's seed: the same initial weights and the same order of the data are common random
    numbers, by which two trials differ in what was searched and in nothing else.

    Args:
      search: as `check_search` returns it.
      trials: as asked.
      metric: the watched metric.
      sign: 1 where a larger one is better, -1 where a smaller one is.
      load: the data of a DataConfig.
      training: how a group is made and trained.
      task: by default that of the data.
      stop: asked between two groups and by `train_group`; where it is True the round ends, and the trials that have
        not come to their end have none.
    """
    groups: dict[Any, list[tuple[Trial, Experiment]]] = {}
    for trial in trials:
        experiment = with_values(search, trial.params)
        groups.setdefault(program_key(experiment), []).append((trial, experiment))
    parts = [part for same in groups.values() for part in _split(same, load, training, task)]
    for together in [[part] for part in parts] if search.halving is None else [parts]:
        batches = [_make_batch(part, load, training, task) for part in together]
        try:
            yield from _train(search, batches, metric, sign, training, stop)
        finally:
            for batch in batches:
                batch.group.close()


def rungs(search: Search, epochs: int) -> list[int]:
    """Epochs at which trials are compared, the end of training last. Each is one at which there is an evaluation."""
    found = []
    if search.halving is not None:
        every, epoch = search.experiment.config.eval_every_epochs, search.halving.min_epochs
        while epoch < epochs:
            found.append(math.ceil(epoch / every) * every)
            epoch *= search.halving.eta
    return sorted({rung for rung in found if rung < epochs}) + [epochs]


def score(config: Config, history: Sequence[Row], metric: str, sign: int) -> float | None:
    """What a trial is judged by: the watched validation metric of the weights that `config.final` would choose.

    For averaged weights (ema, swa) that of the last ones, for the averages are scored at the end of a run only. None
    before the first evaluation, and for what is not finite.
    """
    values = [row[f"val/{metric}"] for row in history if math.isfinite(row[f"val/{metric}"])]
    if not values or not math.isfinite(history[-1][f"val/{metric}"]):
        return None
    best = config.final == "best" or (config.final == "auto" and config.early_stopping is not None)
    return sign * max(sign * value for value in values) if best else values[-1]


def _split(
    same: list[tuple[Trial, Experiment]], load: Callable[[DataConfig], Data], training: Training, task: Task | None
) -> list[list[tuple[Trial, Experiment]]]:
    """Trials of one program, in groups that fit."""
    first, count = same[0][1], len(same)
    data = load(first.data)
    setting = make_setting(first.model, data, first.config, task)
    width = max(1, training.width(setting, data, first.hyper, count, first.parallel))
    return [same[start : start + width] for start in range(0, count, width)]


def _make_batch(
    part: list[tuple[Trial, Experiment]], load: Callable[[DataConfig], Data], training: Training, task: Task | None
) -> Batch:
    trials, experiments = [trial for trial, _ in part], [experiment for _, experiment in part]
    first, data = experiments[0], load(experiments[0].data)
    setting = make_setting(first.model, data, first.config, task)
    seeds, hypers = [e.seed for e in experiments], [e.hyper for e in experiments]
    return Batch(setting, training.make_group(setting, data, seeds, hypers, first.parallel), trials, experiments)


def _train(
    search: Search, batches: list[Batch], metric: str, sign: int, training: Training, stop: Callable[[], bool]
) -> Iterator[Rung | End]:
    """Train batches from rung to rung. The last one is the end of each batch's own training."""
    stages = rungs(search, search.experiment.config.epochs)
    for stage, rung in enumerate(stages):
        last = stage == len(stages) - 1
        for batch in batches:
            if batch.trials and not _advance(batch, batch.setting.config.epochs if last else rung, training, stop):
                return
        values = {t.number: _value(batch, i, metric, sign) for batch in batches for i, t in enumerate(batch.trials)}
        kept = set() if last else _survivors(values, sign, search.halving.eta if search.halving else 1)
        for batch in batches:
            for index, trial in enumerate(batch.trials):
                value = values[trial.number]
                if value is not None and not last:
                    yield Rung(trial, rung, value)
                if trial.number not in kept:
                    yield _end(batch, index, value, last)
            _keep_only(batch, kept)


def _advance(batch: Batch, epochs: int, training: Training, stop: Callable[[], bool]) -> bool:
    """Train a batch up to the end of an epoch; False if it was stopped. Those that were trained share the time."""
    if stop():
        return False
    until = epochs * batch.setting.steps_per_epoch
    running = [t.number for t, m in zip(batch.trials, batch.group.members, strict=True) if m.reason == "running"]
    started = time.perf_counter()
    training.train_group(batch.group, until=until, stop=stop)
    spent = time.perf_counter() - started
    batch.step = until
    for number in running:
        batch.seconds[number] = batch.seconds.get(number, 0.0) + spent / len(running)
    return all(member.reason != "stopped" for member in batch.group.members)


def _value(batch: Batch, index: int, metric: str, sign: int) -> float | None:
    """The score of a trial; None where it has diverged."""
    member = batch.group.members[index]
    if member.reason == "diverged":
        return None
    return score(batch.setting.config, member.history, metric, sign)


def _survivors(values: Mapping[int, float | None], sign: int, eta: int) -> set[int]:
    """Numbers of the best of those that have not diverged: one in `eta`, rounded up."""
    alive = {number: value for number, value in values.items() if value is not None}
    order = sorted(alive, key=lambda number: (-sign * alive[number], number))
    return set(order[: math.ceil(len(order) / eta)])


def _end(batch: Batch, index: int, value: float | None, last: bool) -> End:
    trial, member = batch.trials[index], batch.group.members[index]
    early = member.reason == "early stopping"
    steps = int(member.history[-1]["step"]) if early else batch.step
    return End(
        trial=trial,
        outcome="diverged" if value is None else "complete" if last else "pruned",
        value=value,
        epochs=steps // batch.setting.steps_per_epoch,
        steps=steps,
        num_steps=batch.setting.num_steps,
        seconds=batch.seconds.get(trial.number, 0.0),
        experiment=batch.experiments[index],
        group=batch.group,
        index=index,
    )


def _keep_only(batch: Batch, kept: set[int]) -> None:
    """Drop the trials that have ended; the group becomes narrower, so that they cost nothing more."""
    staying = [index for index, trial in enumerate(batch.trials) if trial.number in kept]
    if len(staying) < len(batch.trials):
        batch.trials = [batch.trials[index] for index in staying]
        batch.experiments = [batch.experiments[index] for index in staying]
        if staying:
            batch.group = batch.group.select(staying)
