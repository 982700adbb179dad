"""The end of a run: which weights count, what they score, and what is written of it.

Imports the loop, results and what lies below. The fact that surprises: averaged weights get BatchNorm statistics of
their own before they are scored, for the running ones followed other weights.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.config import Config
from jaxtrain.data import Data, Feed
from jaxtrain.files import write_json
from jaxtrain.leaves import digest
from jaxtrain.log import Log
from jaxtrain.metrics import compute
from jaxtrain.program import Program
from jaxtrain.result import Run, write_weights
from jaxtrain.terminal import Terminal
from jaxtrain.train import Progress, Timing, evaluate, fetch
from jaxtrain.types import PyTree, TrainState

RECALIBRATION_BATCHES = 200


def counts(data: Data) -> dict[str, int]:
    """Sizes of the splits."""
    return {"num_train": data.num_train, "num_val": data.num_val, "num_test": data.num_test}


def finish(
    program: Program,
    feed: Feed,
    data: Data,
    progress: Progress,
    timing: Timing,
    log: Log,
    folder: Path | None,
    seed: int,
) -> Run:
    """Choose the weights, score them, and sum up. A stopped run is not scored on the test split."""
    state, stopped = progress.state, progress.reason == "stopped"
    which = "last" if stopped else _which(program.setting.config, state)
    weights = _weights(program, feed, progress, which)
    now = time.perf_counter()
    # A stopped run shall end within seconds: what was last seen of it serves.
    scores = _last_scores(progress) if stopped else _score(program, feed, data, state, weights)
    timing.evaluate += time.perf_counter() - now
    progress.seconds += time.perf_counter() - now
    step = int(fetch(state.step))
    if "test" in scores:
        log.evaluation({"step": step, **{f"test/{metric}": value for metric, value in scores["test"].items()}})
    summary = {
        "status": progress.reason,
        "data": {"name": data.info.name, "sha256": data.info.sha256, "fallback": data.info.fallback, **counts(data)},
        **scores,
        "final": which,
        "best": _best(progress),
        "steps": step,
        "epochs": step // program.setting.steps_per_epoch,
        "seed": seed,
        "seconds": progress.seconds,
        "seconds_to_first_step": timing.to_first_step,
        "compile_seconds": timing.compile,
        "images_per_second": timing.images_per_second,
        "num_parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(weights["params"])),
        "digest": digest({"params": weights["params"], "batch_stats": weights["batch_stats"]}),
    }
    return Run(
        setting=program.setting,
        hyper=state.hyper,
        seed=seed,
        params=weights["params"],
        batch_stats=weights["batch_stats"],
        preprocess=data.preprocess,
        info=data.info,
        summary=summary,
        history=progress.history,
        folder=folder,
        state=state,
    )


def _score(program: Program, feed: Feed, data: Data, state: TrainState, weights: PyTree) -> dict[str, dict[str, float]]:
    part = min(data.num_train, program.setting.config.train_eval_examples)
    spans = {"train": (0, part), "val": data.val, "test": data.test}
    sums = {
        split: evaluate(program, feed, state, weights, start, stop)
        for split, (start, stop) in spans.items()
        if stop > start
    }
    return {split: compute(metrics) for split, metrics in fetch(sums).items()}


def _last_scores(progress: Progress) -> dict[str, dict[str, float]]:
    row = progress.history[-1] if progress.history else {}
    splits = {name.partition("/")[0] for name in row if "/" in name}
    return {
        split: {name.partition("/")[2]: value for name, value in row.items() if name.startswith(f"{split}/")}
        for split in sorted(splits)
    }


def _which(config: Config, state: TrainState) -> str:
    if config.final == "swa" and int(fetch(state.swa["count"])) == 0:
        return "last"  # stopped early, before the first average
    if config.final != "auto":
        return config.final
    return "best" if config.early_stopping is not None else "last"


def _weights(program: Program, feed: Feed, progress: Progress, which: str) -> dict[str, PyTree]:
    """The weights that are scored. Averaged ones get BatchNorm statistics of their own (Algorithm 2)."""
    state = progress.state
    if which == "best":
        return progress.best
    if which == "last":
        return {"params": state.params, "batch_stats": state.batch_stats}
    params = state.ema if which == "ema" else state.swa["params"]
    batch_stats = state.batch_stats
    if batch_stats:
        setting = program.setting
        count = min(feed.limit(0, setting.config.batch_size), RECALIBRATION_BATCHES)
        # The order of an epoch that is never trained on: any shuffled order serves.
        arrays, order, first = feed.chunk(
            jax.random.clone(state.key), setting.config.epochs, 0, count, setting.config.batch_size
        )
        batch_stats = program.recalibrate(
            params, batch_stats, state.hyper, arrays, order, jnp.int32(first), jnp.int32(count)
        )
    return {"params": params, "batch_stats": batch_stats}


def _best(progress: Progress) -> dict[str, float] | None:
    step = int(fetch(progress.state.control.best_step))
    return next((dict(row) for row in progress.history if row["step"] == step), None)


def write_result(run: Run, folder: Path) -> None:
    """weights/, curves.png and, last of all, summary.json: its presence says that the run is finished."""
    from jaxtrain.plots import curves

    write_weights(run, folder)
    if run.history:
        curves(run.history, folder / "curves.png", test=run.summary.get("test"))
    write_json(folder / "summary.json", run.summary)


def show(terminal: Terminal, run: Run) -> None:
    """The summary table."""
    summary = run.summary
    splits = [split for split in ("train", "val", "test") if split in summary]
    names = list(summary[splits[0]]) if splits else []
    rows = [(split, *(f"{summary[split][name]:.4f}" for name in names)) for split in splits]
    terminal.table(f"{summary['status']}: {summary['final']} weights, step {summary['steps']}", ("split", *names), rows)
    terminal.say(
        f"{summary['seconds']:.1f} s in all, {summary['seconds_to_first_step']:.1f} s to the first step,"
        f" {summary['images_per_second']:,.0f} img/s, {summary['num_parameters']:,} parameters"
    )
    terminal.say(f"digest {summary['digest'][:16]}" + (f"; {run.folder}/summary.json" if run.folder else ""))
