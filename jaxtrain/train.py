"""The loop: the only place with a clock.

Imports everything below it. It calls compiled chunks, looks at their sums once, and decides: log, evaluate, keep
the best, save, stop. The facts that surprise: where chunks fall changes nothing, for sums run from one log point to the
next through any number of chunks, checkpoints and resumptions; and a single run is a group of one member.
"""

import functools
import math
import operator
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.checkpoint import Store
from jaxtrain.config import Config
from jaxtrain.errors import NonFiniteError
from jaxtrain.log import Logs, Look
from jaxtrain.look import look_at
from jaxtrain.members import Group, Lane, Row, copy_weights, places
from jaxtrain.metrics import compute, evidence
from jaxtrain.nonfinite import Cause, Kept, describe, find_cause, keep
from jaxtrain.optim import should_stop
from jaxtrain.trace import Trace
from jaxtrain.types import Metrics, PyTree

FIRST_CHUNK = 4  # steps of the first chunk, before the speed is known


@dataclass
class Timing:
    """Seconds of this process, by what they were spent on."""

    compile: float = 0.0
    train: float = 0.0
    evaluate: float = 0.0
    look: float = 0.0  # probes, and writing what they saw
    to_first_step: float = math.nan
    images: int = 0  # of all members together

    @property
    def images_per_second(self) -> float:
        """Training chunks only; compilation and evaluation apart."""
        return self.images / self.train if self.train else math.nan


def fetch(tree: PyTree) -> PyTree:
    """The one place where the loop waits for the device and copies numbers from it."""
    return jax.device_get(tree)


def checkpoint_tree(group: Group) -> PyTree:
    """The arrays of a checkpoint, lane by lane; of a stack its members', for on other devices it has other slots."""
    tree = {name: tuple(getattr(lane, name) for lane in group.lanes) for name in ("state", "sums", "best")}
    width = len(group.members)
    return places(tree, slice(width)) if group.is_padded else tree


def take_up(group: Group, tree: PyTree) -> None:
    """Bring `group` to what a `checkpoint_tree` holds: its arrays, its step, and who has stopped."""
    if group.is_padded:  # the places over repeat the last member, as they began
        place = np.minimum(np.arange(group.layout.slots), len(group.members) - 1)
        tree = places(tree, place)
    for number, lane in enumerate(group.lanes):
        lane.state, lane.sums, lane.best = (lane.put(tree[name][number]) for name in ("state", "sums", "best"))
    group.step = max(group.steps_done())
    controls = fetch([lane.state.control for lane in group.lanes])
    for index, member in enumerate(group.members):
        control = group.pick(controls, index)
        member.skipped = int(control.skipped)
        if not control.alive:
            member.reason = "diverged"
        elif should_stop(control, group.setting.config.early_stopping):
            member.reason = "early stopping"
    _note_stopped(group)


def evaluate(lane: Lane, weights: Mapping[str, PyTree], start: int, stop: int) -> Metrics:
    """Sums over the examples [start, stop), still on the device."""
    program, params, batch_stats = lane.program, weights["params"], weights["batch_stats"]
    parts = [
        program.evaluate(params, batch_stats, lane.state.hyper, arrays, low, high)
        for arrays, low, high in lane.feed.spans(start, stop, program.setting.config.eval_batch_size)
    ]
    return functools.reduce(operator.add, parts)


def train(
    group: Group,
    *,
    log: Logs,
    store: Store | None = None,
    meta: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    started: float | None = None,
    until: int | None = None,
    mark: bool = False,
    trace: Trace | None = None,
) -> Timing:
    """Train until the last step, early stopping of every member or a request to stop; `group` is brought up to date.

    Args:
      group: from `make_group`, perhaps brought to a checkpoint by `take_up`.
      log: what is told to whom.
      store: where checkpoints go, or None.
      meta: what each checkpoint says of the run.
      stop: asked after each chunk.
      started: `time.perf_counter()` at the start of the process's work, for the time to the first step.
      until: the step after which to pause, as at a rung of a search; members stay "running".
      trace: the steps that are profiled, if any.
      mark: a member whose loss is not finite is marked and left behind; otherwise it ends the run.

    Returns:
      Where the seconds went.

    Raises:
      NonFiniteError: a loss or a weight became NaN or infinite, and `mark` is False; the last checkpoint stands.
    """
    setting, config = group.setting, group.setting.config
    per_epoch, total = setting.steps_per_epoch, setting.num_steps
    end = total if until is None else min(until, total)
    timing, now = Timing(), time.perf_counter()
    started = now if started is None else started
    last_save, limit = now, FIRST_CHUNK
    seconds_before = group.seconds
    trace = trace or Trace()
    every = setting.probe_every_steps if log.wants_looks else None
    if group.step < end and group.running:
        _compile(group, timing)
        if group.step == 0 and every is not None and not _probe(group, timing, log):
            every = None
    log.compiled(group.step, timing.compile)

    while group.step < end and group.running:
        epoch, done = divmod(group.step, per_epoch)
        next_log = (group.step // config.log_every_steps + 1) * config.log_every_steps
        longest = group.lanes[0].feed.limit(done, config.batch_size)
        next_probe = total if every is None else min((group.step // every + 1) * every, total)
        edges = min(next_log, next_probe, end) - group.step, trace.steps_left(group.step)
        count = min(*edges, longest, limit)

        kept = None if mark else keep(group)
        annotation, now = trace.at(group.step), time.perf_counter()
        lanes = [number for number in range(len(group.lanes)) if group.lane_runs(number)]
        with annotation:
            group.each_lane(functools.partial(_advance, epoch=epoch, start=done, num_steps=count), lanes)
        spent = time.perf_counter() - now
        _keep_stopped(group, advanced=True)
        group.step += count
        trace.end(group.step)
        timing.train += spent
        timing.images += count * config.batch_size * len(group.running)
        if math.isnan(timing.to_first_step):
            timing.to_first_step = time.perf_counter() - started
        limit = _next_limit(limit, spent / count, config.max_chunk_seconds)

        now = time.perf_counter()
        epoch, done = divmod(group.step, per_epoch)
        evaluated = done == 0 and (epoch % config.eval_every_epochs == 0 or group.step == total)
        if done == 0:
            _end_epoch(group, epoch, lanes)
        looks = group.each_lane(functools.partial(_look, evaluated=evaluated, num_val=group.data.num_val), lanes)
        seen = dict(zip(lanes, fetch(looks), strict=True))
        _keep_stopped(group)
        timing.evaluate += time.perf_counter() - now
        group.seconds = seconds_before + time.perf_counter() - started

        views = {index: _view(group, seen, index) for index in group.running}
        diverged = [index for index, view in views.items() if not _is_finite(view)]
        if diverged and kept is not None:
            if store is not None:
                _save_before(group, kept, group.step - count, store, log, meta)
            cause = _cause(group, diverged[0], kept, count, log)
            note = describe(group, diverged[0], count, views[diverged[0]], cause)
            log.diverged(group.step, diverged[0], note)
            raise NonFiniteError(note)
        if diverged:
            _leave_diverged(group, diverged, views, count, log)
        values = {index: _means(views[index]["sums"]) for index in group.running}
        rates = {index: float(views[index]["rate"]) for index in group.running}
        log.chunk(group.step, values, len(values) * count * config.batch_size / spent)
        if group.step == next_log or group.step == total:
            counted = {index: {**own, **_skipped(views[index], config)} for index, own in values.items()}
            log.training(group.step, counted, rates, timing.images_per_second)
            log.skipped(group.step, _newly_skipped(group, views))
            for number in lanes:
                group.lanes[number].sums = jax.tree.map(jnp.zeros_like, group.lanes[number].sums)
        if evaluated:
            rows = {index: _row(group.step, epoch, views[index]) for index in group.running}
            _keep_best(group, views)
            for index, row in rows.items():
                group.members[index].history.append(row)
            log.evaluation(rows)
        if every is not None and group.step == next_probe and not _probe(group, timing, log):
            every = None
        if evaluated:
            _stop_early(group, views)
        _end_of_chunk(group, total, stop)

        now = time.perf_counter()
        due = now - last_save >= config.checkpoint_every_seconds
        # A disk that is slower than the cadence shall not hold up the training; the end waits for it.
        if store is not None and ((due and not store.saving) or not group.running):
            log.flush()
            store.save(group.step, checkpoint_tree(group), {**(meta or {}), **_facts(group, group.step)})
            last_save = now

    trace.close()
    if group.step >= total:  # perhaps restored at its end
        _end_of_chunk(group, total, lambda: False)
    return timing


def _advance(lane: Lane, *, epoch: int, start: int, num_steps: int) -> None:
    lane.advance(epoch, start, num_steps)


def _compile(group: Group, timing: Timing) -> None:
    """Compile on each device before the clock of a chunk runs. The first alone: two threads would trace twice."""
    now = time.perf_counter()
    epoch, done = divmod(group.step, group.setting.steps_per_epoch)
    places = {id(lane.place): number for number, lane in reversed(list(enumerate(group.lanes)))}
    first, *others = sorted(places.values())
    group.lanes[first].compile(epoch, done)
    if others:
        _look(group.lanes[first], evaluated=True, num_val=1, dry=True)
        group.each_lane(lambda lane: lane.compile(epoch, done), others)
    timing.compile += time.perf_counter() - now


def _end_epoch(group: Group, epoch: int, lanes: Iterable[int]) -> None:
    """What the end of an epoch adds to the averages and snapshots."""
    config = group.setting.config
    for lane in (group.lanes[number] for number in lanes):
        if config.swa_start is not None and epoch > config.swa_start * config.epochs:
            lane.state = lane.program.average(lane.state)
        if config.snapshot_every_epochs is not None and epoch % config.snapshot_every_epochs == 0:
            lane.state = lane.program.snapshot(lane.state)
    _keep_stopped(group)


def _look(lane: Lane, *, evaluated: bool, num_val: int, dry: bool = False) -> dict[str, Any]:
    """What is to be seen of a lane after a chunk, on the device; `evaluated`: in evaluation mode, with the verdict.

    Train is a fixed part of the training split. `dry` looks at one example of each and changes nothing.
    """
    program, state = lane.program, lane.state
    # The last update is in no loss yet, so the weights are asked too.
    seen = {"sums": lane.sums, "rate": program.rate(state), "finite": program.finite(state)}
    seen |= {"skipped": state.control.skipped, "bad_steps": state.control.bad_steps}
    if evaluated:
        setting = program.setting
        num_train = setting.num_train
        part = 1 if dry else min(num_train, setting.config.train_eval_examples)
        weights = {"params": state.params, "batch_stats": state.batch_stats}
        train = evaluate(lane, weights, 0, part)
        val = evaluate(lane, weights, num_train, num_train + num_val)
        judged = program.judge(state, val)
        seen |= {"train": train, "val": val, "control": judged.control}
        if not dry:
            lane.state = judged
    return jax.block_until_ready(seen)


def _probe(group: Group, timing: Timing, log: Logs) -> bool:
    """Look closely at each running member's last step, repeated with the weights of now; before any, at the first.

    False where it cannot be done, for want of memory or by a figure that fails: no look is worth a run.
    """
    now = time.perf_counter()
    try:
        log.look(group.step, _looks(group))
    except Exception as error:
        log.run.terminal.warn(
            f"the run goes on without looks at its steps, as one failed: {type(error).__name__}: {error}"
            " (--probe_every_steps None leaves them out)"
        )
        return False
    finally:
        timing.look += time.perf_counter() - now
    return True


def _looks(group: Group) -> dict[int, Look]:
    epoch, index = divmod(max(group.step - 1, 0), group.setting.steps_per_epoch)
    lanes = [number for number in range(len(group.lanes)) if group.lane_runs(number)]
    probes = group.each_lane(lambda lane: jax.block_until_ready(lane.probe(epoch, index)), lanes)
    seen, looks = dict(zip(lanes, fetch(probes), strict=True)), {}
    for member in group.running:
        params, first = group.weights(member)["params"], group.step == 0
        view = _view(group, seen, member)
        looks[member] = look_at(view, params, group.setting.image_shape, group.data.info, first=first)
    return looks


def _view(group: Group, seen: Mapping[int, Any], index: int) -> Any:
    """A member's part of what was fetched, by lane."""
    lane, place = (0, index) if group.lanes[0].stacked else (index, None)
    return seen[lane] if place is None else jax.tree.map(lambda x: x[place], seen[lane])


def _leave_diverged(
    group: Group, diverged: list[int], views: Mapping[int, Mapping[str, Any]], count: int, log: Logs
) -> None:
    """Mark these members, and put them back to their best weights."""
    for index in diverged:
        member = group.members[index]
        member.reason, member.note = "diverged", describe(group, index, count, views[index])
        log.run.terminal.warn(member.note)
        log.diverged(group.step, index, member.note)
    for lane, mask in _masks(group, diverged):
        retired = lane.program.retire(lane.state, lane.best)
        zeros = jax.tree.map(jnp.zeros_like, lane.sums)
        lane.state = retired if mask is None else lane.program.hold(mask, retired, lane.state)
        lane.sums = zeros if mask is None else lane.program.hold(mask, zeros, lane.sums)
    _note_stopped(group)


def _is_finite(view: Mapping[str, Any]) -> bool:
    seen = [view[name] for name in ("sums", "train", "val") if name in view]
    losses = [compute(sums)["loss"] for sums in seen if sums.count > 0]
    return bool(view["finite"]) and all(map(math.isfinite, losses))


def _means(sums: Metrics) -> dict[str, float]:
    """Means since the last log point; there are none where every step was skipped."""
    return compute(sums) if sums.count > 0 else {}


def _skipped(view: Mapping[str, Any], config: Config) -> dict[str, float]:
    return {"skipped": int(view["skipped"])} if config.nonfinite == "skip" else {}


def _newly_skipped(group: Group, views: Mapping[int, Mapping[str, Any]]) -> dict[int, int]:
    """How many more steps of each member were skipped since this was last asked."""
    more = {}
    for index in group.running:
        member, count = group.members[index], int(views[index]["skipped"])
        more[index], member.skipped = count - member.skipped, count
    return {index: count for index, count in more.items() if count}


def _keep_best(group: Group, views: Mapping[int, Mapping[str, Any]]) -> None:
    better = [index for index in group.running if int(views[index]["control"].best_step) == group.step]
    for lane, mask in _masks(group, better):
        weights = copy_weights(lane.state)
        lane.best = weights if mask is None else lane.program.hold(mask, weights, lane.best)


def _stop_early(group: Group, views: Mapping[int, Mapping[str, Any]]) -> None:
    early = group.setting.config.early_stopping
    stopping = [index for index in group.running if should_stop(views[index]["control"], early)]
    for index in stopping:
        group.members[index].reason = "early stopping"
    if stopping:
        _note_stopped(group)


def _note_stopped(group: Group) -> None:
    """A stack goes on as a whole: what its stopped members shall stay at is kept aside, from now on."""
    lane = group.lanes[0]
    if lane.stacked and group.running and len(group.running) < len(group.members):
        lane.held = jax.tree.map(jnp.copy, lane.state)


def _keep_stopped(group: Group, *, advanced: bool = False) -> None:
    """Put the stopped members of a stack back, after whatever was computed in their places; `advanced`: steps."""
    lane = group.lanes[0]
    if lane.held is not None:
        ((_, mask),) = _masks(group, set(range(len(group.members))) - set(group.running))
        lane.state = lane.program.hold(mask, lane.held, lane.state)
        if advanced:  # otherwise they would depend on where the chunks end, and be in the checkpoints
            lane.sums = lane.program.hold(mask, jax.tree.map(jnp.zeros_like, lane.sums), lane.sums)


def _masks(group: Group, indices: Iterable[int]) -> list[tuple[Lane, Any]]:
    """The lanes of these members; of a stack with the mask of their places, bool[slots], else with None."""
    indices = list(indices)
    if not group.lanes[0].stacked:
        return [(group.lanes[index], None) for index in indices]
    mask = np.isin(np.arange(group.layout.slots), indices)
    return [(group.lanes[0], group.lanes[0].put(jnp.asarray(mask)))] if indices else []


def _end_of_chunk(group: Group, total: int, stop: Callable[[], bool]) -> None:
    if group.running and (group.step >= total or stop()):
        reason = "done" if group.step >= total else "stopped"
        for index in group.running:
            group.members[index].reason = reason


def _row(step: int, epoch: int, seen: Mapping[str, Any]) -> Row:
    row: Row = {"step": step, "epoch": epoch, "learning_rate": float(seen["rate"])}
    for split in ("train", "val"):
        row |= {f"{split}/{name}": value for name, value in compute(seen[split]).items()}
    for split in ("train", "val"):  # without a slash: no curve of TensorBoard's, and no score
        row |= {f"{split}_{name}": value for name, value in evidence(seen[split]).items()}
    return row


def _next_limit(limit: int, seconds_per_step: float, max_seconds: float) -> int:
    """Grow by at most eightfold, for the first chunks are too short to be timed well."""
    return max(1, min(limit * 8, int(max_seconds / max(seconds_per_step, 1e-9))))


def _save_before(group: Group, kept: Kept, step: int, store: Store, log: Logs, meta: Mapping[str, Any] | None) -> None:
    """The state before the chunk that went wrong becomes the newest checkpoint: from there it is soon repeated."""
    store.wait()
    if step in store.steps():
        return
    log.flush()
    for lane, (state, sums) in zip(group.lanes, kept, strict=True):
        lane.state, lane.sums = state, sums
    store.save(step, checkpoint_tree(group), {**(meta or {}), **_facts(group, step)})


def _cause(group: Group, index: int, kept: Kept, count: int, log: Logs) -> Cause | None:
    """Where the NaN came from. Where that fails, for want of memory, say, the NaN itself is told all the same."""
    try:
        return find_cause(group, index, kept, count)
    except Exception as error:
        log.run.terminal.warn(f"the step that went wrong could not be repeated: {type(error).__name__}: {error}")
        return None


def _facts(group: Group, step: int) -> dict[str, Any]:
    """What a checkpoint says of a group that is in none of its arrays."""
    epoch, notes = step // group.setting.steps_per_epoch, [member.note for member in group.members]
    return {"epoch": epoch, "seconds": group.seconds, "notes": notes}
