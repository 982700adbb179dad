"""The loop: the only place with a clock.

Imports everything below it. It calls compiled chunks, looks at their sums once, and decides: log, evaluate, keep
the best, save, stop. The fact that surprises: where chunks fall changes nothing. Sums run from one log point to the
next through any number of chunks, checkpoints and resumptions.
"""

import functools
import math
import operator
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.checkpoint import Store
from jaxtrain.data import Feed
from jaxtrain.errors import NonFiniteError
from jaxtrain.log import Log
from jaxtrain.metrics import compute
from jaxtrain.optim import should_stop
from jaxtrain.program import Program
from jaxtrain.types import Array, Metrics, PyTree, TrainState

Row = dict[str, float]

FIRST_CHUNK = 4  # steps of the first chunk, before the speed is known


@dataclass
class Progress:
    """Where a run stands; what a checkpoint holds besides its clock and history."""

    state: TrainState
    sums: Metrics
    best: PyTree  # {"params", "batch_stats"} of the best evaluation; the initial ones before the first
    history: list[Row] = field(default_factory=list)  # one row per evaluation
    seconds: float = 0.0  # of all processes that worked on the run
    reason: str = "running"  # then: done, early stopping, stopped
    key: Array = field(init=False)  # the member's, undonated: a feed knows a member by the identity of this object

    def __post_init__(self) -> None:
        self.key = jax.random.clone(self.state.key)


@dataclass
class Timing:
    """Seconds of this process, by what they were spent on."""

    compile: float = 0.0
    train: float = 0.0
    evaluate: float = 0.0
    to_first_step: float = math.nan
    images: int = 0

    @property
    def images_per_second(self) -> float:
        """Training chunks only; compilation and evaluation apart."""
        return self.images / self.train if self.train else math.nan


def fetch(tree: PyTree) -> PyTree:
    """The one place where the loop waits for the device and copies numbers from it."""
    return jax.device_get(tree)


def copy_weights(state: TrainState) -> PyTree:
    """A copy on the device that outlives the donation of `state`."""
    return jax.tree.map(jnp.copy, {"params": state.params, "batch_stats": state.batch_stats})


def begin(program: Program, feed: Feed, state: TrainState) -> Progress:
    """The progress of a run before its first step."""
    progress = Progress(state, Metrics(jnp.zeros(()), {}), copy_weights(state))
    arrays, _, _ = feed.chunk(progress.key, 0, 0, 1, program.setting.config.batch_size)
    progress.sums = program.zeros(state.params, state.batch_stats, state.hyper, arrays)
    return progress


def checkpoint_tree(progress: Progress) -> PyTree:
    """The arrays of a checkpoint."""
    return {"state": progress.state, "sums": progress.sums, "best": progress.best}


def evaluate(
    program: Program, feed: Feed, state: TrainState, weights: Mapping[str, PyTree], start: int, stop: int
) -> Metrics:
    """Sums over the examples [start, stop), still on the device."""
    parts = [
        program.evaluate(weights["params"], weights["batch_stats"], state.hyper, arrays, low, high)
        for arrays, low, high in feed.spans(start, stop, program.setting.config.eval_batch_size)
    ]
    return functools.reduce(operator.add, parts)


def train(
    program: Program,
    feed: Feed,
    num_val: int,
    progress: Progress,
    *,
    log: Log,
    store: Store | None = None,
    meta: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    started: float | None = None,
) -> Timing:
    """Train until the last step, early stopping or a request to stop; `progress` is brought up to date in place.

    Args:
      program: the compiled functions of the run.
      feed: training examples first, then `num_val` examples of validation.
      num_val: size of the validation split.
      progress: from `begin`, or restored.
      log: what is told to whom.
      store: where checkpoints go, or None.
      meta: what each checkpoint says of the run.
      stop: asked after each chunk.
      started: `time.perf_counter()` at the start of the process's work, for the time to the first step.

    Returns:
      Where the seconds went.

    Raises:
      NonFiniteError: the loss or a weight became NaN or infinite; the last checkpoint stands.
    """
    setting, config = program.setting, program.setting.config
    per_epoch, total = setting.steps_per_epoch, setting.num_steps
    timing, now = Timing(), time.perf_counter()
    started = now if started is None else started
    last_save, limit = now, FIRST_CHUNK
    step = int(fetch(progress.state.step))
    seconds_before = progress.seconds
    if step < total:
        _compile(program, feed, progress, step, timing)
    log.compiled(step, timing.compile)

    if should_stop(fetch(progress.state.control), config.early_stopping):
        progress.reason = "early stopping"  # restored after it
    while step < total and progress.reason == "running":
        epoch, done = divmod(step, per_epoch)
        next_log = (step // config.log_every_steps + 1) * config.log_every_steps
        count = min(next_log - step, feed.limit(done, config.batch_size), limit)

        now = time.perf_counter()
        arrays, order, first = feed.chunk(progress.key, epoch, done, count, config.batch_size)
        progress.state, progress.sums = program.run_steps(progress.state, progress.sums, arrays, order, first, count)
        jax.block_until_ready(progress.sums)
        spent = time.perf_counter() - now
        step += count
        timing.train += spent
        timing.images += count * config.batch_size
        if math.isnan(timing.to_first_step):
            timing.to_first_step = time.perf_counter() - started
        limit = _next_limit(limit, spent / count, config.max_chunk_seconds)

        seen: dict[str, Any] = {"sums": progress.sums, "rate": program.rate(progress.state)}
        seen["finite"] = program.finite(progress.state)  # the last update is in no loss yet
        epoch, done = divmod(step, per_epoch)
        now = time.perf_counter()
        if done == 0:
            if config.swa_start is not None and epoch > config.swa_start * config.epochs:
                progress.state = program.average(progress.state)
            if epoch % config.eval_every_epochs == 0 or step == total:
                seen |= _evaluate_both(program, feed, progress, num_val)
        seen = fetch(seen)
        timing.evaluate += time.perf_counter() - now
        progress.seconds = seconds_before + time.perf_counter() - started

        values = compute(seen["sums"])
        losses = [values["loss"], *(compute(seen[split])["loss"] for split in ("train", "val") if split in seen)]
        if not (seen["finite"] and all(map(math.isfinite, losses))):
            raise NonFiniteError(_describe_nonfinite(step, count, epoch, float(seen["rate"]), progress.history))
        log.chunk(step, values, count * config.batch_size / spent)
        if step == next_log or step == total:
            speed = timing.images_per_second
            log.training(step, {f"step_{name}": value for name, value in values.items()}, float(seen["rate"]), speed)
            progress.sums = jax.tree.map(jnp.zeros_like, progress.sums)
        if "control" in seen:
            row = _row(step, epoch, seen)
            progress.history.append(row)
            if int(seen["control"].best_step) == step:
                progress.best = copy_weights(progress.state)
            log.evaluation(row)
            if should_stop(seen["control"], config.early_stopping):
                progress.reason = "early stopping"
        if step == total:
            progress.reason = "done"
        elif progress.reason == "running" and stop():
            progress.reason = "stopped"

        now = time.perf_counter()
        due = now - last_save >= config.checkpoint_every_seconds or progress.reason != "running"
        if store is not None and due:
            log.flush()
            store.save(step, checkpoint_tree(progress), {**(meta or {}), "epoch": epoch, "seconds": progress.seconds})
            last_save = now

    if progress.reason == "running":  # restored at its end
        progress.reason = "done"
    return timing


def _compile(program: Program, feed: Feed, progress: Progress, step: int, timing: Timing) -> None:
    """Compile by calling the programs for no steps, so that no chunk's time holds a compilation."""
    now = time.perf_counter()
    epoch, done = divmod(step, program.setting.steps_per_epoch)
    arrays, order, _ = feed.chunk(progress.key, epoch, done, 1, program.setting.config.batch_size)
    if program.stepped(progress.state.hyper):  # has no call of no steps: one step of a copy instead
        state, sums = jax.tree.map(jnp.copy, (progress.state, progress.sums))
        program.run_steps(state, sums, arrays, order, 0, 1)
    else:
        progress.state, progress.sums = program.run_steps(progress.state, progress.sums, arrays, order, 0, 0)
    jax.block_until_ready(progress.sums)
    timing.compile += time.perf_counter() - now


def _evaluate_both(program: Program, feed: Feed, progress: Progress, num_val: int) -> dict[str, Any]:
    """Train (a fixed part) and validation in evaluation mode, and the verdict on them, on the device."""
    config, num_train = program.setting.config, program.setting.num_train
    state = progress.state
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    train = evaluate(program, feed, state, weights, 0, min(num_train, config.train_eval_examples))
    val = evaluate(program, feed, state, weights, num_train, num_train + num_val)
    progress.state = program.judge(state, val)
    return {"train": train, "val": val, "control": progress.state.control}


def _row(step: int, epoch: int, seen: Mapping[str, Any]) -> Row:
    row: Row = {"step": step, "epoch": epoch, "learning_rate": float(seen["rate"])}
    for split in ("train", "val"):
        row |= {f"{split}/{name}": value for name, value in compute(seen[split]).items()}
    return row


def _next_limit(limit: int, seconds_per_step: float, max_seconds: float) -> int:
    """Grow by at most eightfold, for the first chunks are too short to be timed well."""
    return max(1, min(limit * 8, int(max_seconds / max(seconds_per_step, 1e-9))))


def _describe_nonfinite(step: int, count: int, epoch: int, rate: float, history: list[Row]) -> str:
    before = ""
    if history:
        last = history[-1]
        before = f"; at the last evaluation (step {last['step']}) the validation loss was {last['val/loss']:.4g}"
    return (
        f"the loss or a weight became NaN or infinite between steps {step - count} and {step} (epoch {epoch}),"
        f" at learning rate {rate:.3g}{before}. A rate that is too high is the usual cause: try a tenth of it"
        " (--hyper.learning_rate), a warm-up (--schedule.warmup), or clipping (--hyper.clip_norm 1)"
    )
