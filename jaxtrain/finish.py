"""The end of a run: which weights count, what they score, and what is written of it.

Imports the loop, results and what lies below. The fact that surprises: averaged weights get BatchNorm statistics of
their own before they are scored, for the running ones followed other weights.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import Config
from jaxtrain.data import Data
from jaxtrain.diagnose import headline
from jaxtrain.files import write_json
from jaxtrain.leaves import digest
from jaxtrain.log import Logs
from jaxtrain.members import Group, Lane, Member
from jaxtrain.metrics import compute
from jaxtrain.result import Run, write_weights
from jaxtrain.terminal import Terminal
from jaxtrain.train import Timing, evaluate, fetch
from jaxtrain.types import PyTree

RECALIBRATION_BATCHES = 200

Scores = dict[str, dict[str, float]]


def counts(data: Data) -> dict[str, int]:
    """Sizes of the splits."""
    return {"num_train": data.num_train, "num_val": data.num_val, "num_test": data.num_test}


def finish(group: Group, timing: Timing, log: Logs, folders: Sequence[Path | None]) -> list[Run]:
    """Choose each member's weights, score them, and sum up: a run for each, with its folder.

    A stopped run is not scored on the test split, nor is a member that has diverged.
    """
    config, now = group.setting.config, time.perf_counter()
    stopped = any(member.reason == "stopped" for member in group.members)
    which = "last" if stopped else _which(config)
    # A stopped run shall end within seconds: what was last seen of it serves.
    ended = group.each_lane(lambda lane: _end(lane, group.data, which, scored=not stopped))
    weights, fetched = [weights for weights, _ in ended], fetch([sums for _, sums in ended])
    timing.evaluate += time.perf_counter() - now
    group.seconds += time.perf_counter() - now
    runs = []
    for index, member in enumerate(group.members):
        scores = _last_scores(member)
        if not stopped and member.reason != "diverged":
            scores = {split: compute(metrics) for split, metrics in group.pick(fetched, index).items()}
        runs.append(_run(group, index, group.pick(weights, index), scores, which, timing, folders[index]))
    tested = {i: _test_row(run) for i, run in enumerate(runs) if "test" in run.summary}
    if tested:
        log.evaluation(tested)
    return runs


def unscored(group: Group, index: int, folder: Path | None) -> Run:
    """A member as a run that is not scored on the test split: its scores are those of its last, or best, evaluation."""
    member, which = group.members[index], "best" if _which(group.setting.config) == "best" else "last"
    lane, place = group.where(index)
    weights = lane.best if which == "best" else {"params": lane.state.params, "batch_stats": lane.state.batch_stats}
    weights = weights if place is None else jax.tree.map(lambda x: x[place], weights)
    row = _best(member, int(fetch(group.pick([lane.state.control.best_step for lane in group.lanes], index))))
    scores = _scores_of(row if which == "best" and row else member.history[-1])
    return _run(group, index, weights, scores, which, Timing(), folder)


def _run(
    group: Group, index: int, weights: PyTree, scores: Scores, which: str, timing: Timing, folder: Path | None
) -> Run:
    member, setting, info = group.members[index], group.setting, group.data.info
    lane, place = group.where(index)
    state = lane.state if place is None else jax.tree.map(lambda x: x[place], lane.state)
    if place is not None:
        weights = jax.device_put(fetch(weights))  # off the devices that the members were spread over
    step = int(fetch(state.step))
    summary: dict[str, Any] = {
        "status": member.reason,
        **({"note": member.note} if member.note else {}),
        **({"skipped_steps": int(fetch(state.control.skipped))} if setting.config.nonfinite == "skip" else {}),
        "data": {"name": info.name, "sha256": info.sha256, "fallback": info.fallback, **counts(group.data)},
        **scores,
        "final": "last" if which == "swa" and int(fetch(state.swa["count"])) == 0 else which,
        "best": _best(member, int(fetch(state.control.best_step))),
        "steps": step,
        "epochs": step // setting.steps_per_epoch,
        "seed": member.seed,
        "seconds": group.seconds,
        "seconds_to_first_step": timing.to_first_step,
        "compile_seconds": timing.compile,
        "look_seconds": timing.look,
        "images_per_second": timing.images_per_second,
        "num_parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(weights["params"])),
        "digest": digest({"params": weights["params"], "batch_stats": weights["batch_stats"]}),
    }
    return Run(
        setting=setting,
        hyper=state.hyper,
        seed=member.seed,
        params=weights["params"],
        batch_stats=weights["batch_stats"],
        preprocess=group.data.preprocess,
        info=info,
        summary=summary,
        history=member.history,
        folder=folder,
        state=state,
        kept=state.snapshots,
    )


def _end(lane: Lane, data: Data, which: str, *, scored: bool) -> tuple[PyTree, dict[str, Any]]:
    """A lane's final weights and the sums of their scores, on the device."""
    weights = _weights(lane, which)
    if not scored:
        return weights, {}
    part = min(data.num_train, lane.program.setting.config.train_eval_examples)
    spans = {"train": (0, part), "val": data.val, "test": data.test}
    sums = {split: evaluate(lane, weights, start, stop) for split, (start, stop) in spans.items() if stop > start}
    return weights, jax.block_until_ready(sums)


def _last_scores(member: Member) -> Scores:
    return _scores_of(member.history[-1] if member.history else {})


def _scores_of(row: Mapping[str, float]) -> Scores:
    splits = {name.partition("/")[0] for name in row if "/" in name}
    return {
        split: {name.partition("/")[2]: value for name, value in row.items() if name.startswith(f"{split}/")}
        for split in sorted(splits)
    }


def _test_row(run: Run) -> dict[str, float]:
    scores = {f"test/{metric}": value for metric, value in run.summary["test"].items()}
    return {"step": run.summary["steps"], **scores}


def _which(config: Config) -> str:
    if config.final != "auto":
        return config.final
    return "best" if config.early_stopping is not None else "last"


def _weights(lane: Lane, which: str) -> dict[str, PyTree]:
    """The weights that are scored. Averaged ones get BatchNorm statistics of their own (Algorithm 2)."""
    state = lane.state
    last = {"params": state.params, "batch_stats": state.batch_stats}
    if which in ("last", "best"):
        return last if which == "last" else lane.best
    params = state.ema if which == "ema" else state.swa["params"]
    averaged = {"params": params, "batch_stats": _recalibrated(lane, params) if state.batch_stats else {}}
    if which == "ema":
        return averaged
    # The last weights where a member stopped before its first average.
    return lane.program.hold(state.swa["count"] == 0, last, jax.tree.map(jnp.copy, averaged))


def _recalibrated(lane: Lane, params: PyTree) -> PyTree:
    config, state = lane.program.setting.config, lane.state
    count = min(lane.feed.limit(0, config.batch_size), RECALIBRATION_BATCHES)
    # The order of an epoch that is never trained on: any shuffled order serves.
    arrays, order, first = lane.feed.chunk(lane.key, config.epochs, 0, count, config.batch_size)
    counts_of = jnp.int32(first), jnp.int32(count)
    return lane.program.recalibrate(params, state.batch_stats, state.hyper, arrays, order, *counts_of)


def _best(member: Member, step: int) -> dict[str, float] | None:
    return next((dict(row) for row in member.history if row["step"] == step), None)


def write_result(run: Run, folder: Path, *, draw: bool = True) -> None:
    """weights/, curves.png and, last of all, summary.json: its presence says that the run is finished."""
    from jaxtrain.plots import curves

    write_weights(run, folder)
    if run.history and draw:
        curves(run.history, folder / "curves.png", test=run.summary.get("test"))
    write_json(folder / "summary.json", run.summary)


def show(terminal: Terminal, run: Run) -> None:
    """The summary table."""
    summary = run.summary
    splits = [split for split in ("train", "val", "test") if split in summary]
    names = list(summary[splits[0]]) if splits else []
    rows = [(split, *(f"{summary[split][name]:.4f}" for name in names)) for split in splits]
    terminal.table(f"{summary['status']}: {summary['final']} weights, step {summary['steps']}", ("split", *names), rows)
    show_diagnosis(terminal, summary)
    show_speed(terminal, summary)
    show_digest(terminal, summary, run.folder)


def show_diagnosis(terminal: Terminal, summary: dict[str, Any]) -> None:
    """A few lines for each finding: what it rests on, and what to try first. Nothing of a run that looks healthy."""
    members = len(summary.get("members", ()))
    for found in summary.get("diagnosis", ()):
        if found["name"] != "healthy":
            first = f" First: {found['advice'][0]}" if found["advice"] else ""
            terminal.say(f"diagnosis: {headline(found, members)}. {found['text']}{first}")


def show_speed(terminal: Terminal, summary: dict[str, Any]) -> None:
    """One line: time, speed, size."""
    terminal.say(
        f"{summary['seconds']:.1f} s in all, {summary['seconds_to_first_step']:.1f} s to the first step,"
        f" {summary['images_per_second']:,.0f} img/s, {summary['num_parameters']:,} parameters"
    )


def show_digest(terminal: Terminal, summary: dict[str, Any], folder: Path | None) -> None:
    """One line: the digest, and where the rest is; a stopped run has no result yet, but can go on."""
    where = "" if folder is None else f"; {folder}/summary.json"
    if folder is not None and summary["status"] == "stopped":
        where = f"; go on with --resume --workdir {folder}"
    terminal.say(f"digest {summary['digest'][:16]}{where}")
