"""`fit`: what lies around the loop. The request is checked, the folder opened, the result scored and kept.

Imports everything below it. The fact that surprises: every check of the request comes before anything is compiled or
written, so a run that is refused leaves nothing behind.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.checkpoint import Store, digest
from jaxtrain.config import Config, DataConfig, Experiment
from jaxtrain.configfile import to_json
from jaxtrain.data import Data, Feed, load_data, make_feed
from jaxtrain.device import manifest
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import write_json
from jaxtrain.folder import changes_of_machine, check_folder, default_folder, read_history, write_start
from jaxtrain.log import Log
from jaxtrain.metrics import compute
from jaxtrain.models import model_table
from jaxtrain.program import Program, compile_program
from jaxtrain.request import check_numbers, check_request
from jaxtrain.result import Run, read_weights, write_weights
from jaxtrain.step import Setting, make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import Progress, Timing, begin, checkpoint_tree, evaluate, fetch, train
from jaxtrain.types import Hyper, PyTree, Task, TrainState

RECALIBRATION_BATCHES = 200


def fit(
    model: Any,
    data: Data | DataConfig,
    config: Config | None = None,
    hyper: Hyper | None = None,
    *,
    seed: int = 0,
    task: Task | None = None,
    workdir: str | Path | None = None,
    name: str | None = None,
    resume: bool = False,
    init_from: "str | Path | Run | None" = None,
    quiet: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Train a network and score it: validation all along, the test split once, at the end.

    Args:
      model: a Linen module, a Model, or a frozen dataclass with make() -> Model.
      data: from `from_arrays` or `load_data`, or the DataConfig of what is to be loaded.
      config: the static choices.
      hyper: the numbers that may be tuned.
      seed: of the initial weights, the order of the data, dropout and augmentation.
      task: by default classification for integer labels, regression for floats.
      workdir: the run's folder; checkpoints, event files and the result go there.
      name: where `workdir` is None: the folder is runs/NAME-DATE-TIME. With neither nothing is written.
      resume: continue the run in `workdir` from its newest checkpoint.
      init_from: a finished run, or its folder, whose weights to start from; leaves of another shape start afresh.
      quiet: print nothing but warnings.
      stop: asked after each chunk of compiled steps; True ends the run with a checkpoint and without a test score.

    Returns:
      The finished run; its `summary["status"]` is "stopped" if `stop` ended it.

    Raises:
      RequestError: for a config, data or folder that cannot be trained on; nothing is written then.
      WorldError: for data that cannot be read, or a result that cannot be written.
      NonFiniteError: the loss became NaN or infinite; the last checkpoint stands.
    """
    started = time.perf_counter()
    config, hyper = config or Config(), hyper or Hyper()
    terminal = Terminal(quiet=quiet)
    check_numbers(config, hyper)
    described = _describe(model, data, config, hyper, seed)
    if isinstance(data, DataConfig):
        data = load_data(data, report=terminal.warn)
    setting = make_setting(model, data, config, task)
    check_request(setting, data, hyper)
    folder = _open_folder(workdir, name, data, described, resume)
    if folder is not None:
        terminal.say(f"run folder: {folder}\ntensorboard --logdir {folder.parent if workdir is None else folder}")

    program = compile_program(setting)
    feed = make_feed(data, config.stream)
    state = program.init(jax.random.key(seed), hyper)
    with contextlib.ExitStack() as stack:
        stack.callback(feed.close)
        store = None
        if folder is not None:
            store = stack.enter_context(Store(folder / "checkpoints", keep=config.keep_checkpoints))
        progress = begin(program, feed, state)
        restored = resume and store is not None and _restore(store, progress, terminal)
        if init_from is not None and not restored:
            progress = begin(program, feed, _graft(state, init_from, terminal))
        at = int(fetch(progress.state.step))
        if folder is not None:
            facts = _manifest(data, seed, init_from)
            for change in changes_of_machine(folder, facts) if restored else ():
                terminal.warn(f"{change}: the run goes on, but no longer bit for bit as it would have")
            write_start(folder, described, facts)
        log = stack.enter_context(Log(folder, terminal, step=at if restored else None))
        log.text("config", _as_markdown(described))
        _announce(terminal, setting, data, program, at)
        terminal.start(at, setting.num_steps, setting.steps_per_epoch)
        meta = {"data": data.info.sha256, "seed": seed}
        timing = train(
            program, feed, data.num_val, progress, log=log, store=store, meta=meta, stop=stop, started=started
        )
        terminal.close()
        run = _finish(program, feed, data, progress, timing, log, folder, seed)
    for error in log.errors:
        terminal.warn(error)
    if folder is not None and progress.reason != "stopped":
        _write_result(run, folder)
    _show(terminal, run)
    if store is not None and run.summary["steps"] not in store.steps():
        raise WorldError(
            f"the last checkpoint could not be written: {store.errors[-1] if store.errors else 'see above'}"
        )
    return run


def _open_folder(
    workdir: str | Path | None, name: str | None, data: Data, described: Mapping[str, Any], resume: bool
) -> Path | None:
    if workdir is None and name is None:
        if resume:
            raise RequestError("resume needs the folder of the run to continue; give workdir")
        return None
    label = f"{name}-fallback-{data.info.fallback}" if data.info.fallback else str(name)
    folder = default_folder(label) if workdir is None else Path(workdir)
    check_folder(folder, described, resume=resume)
    return folder


def _describe(model: Any, data: Data | DataConfig, config: Config, hyper: Hyper, seed: int) -> dict[str, Any]:
    """The experiment as JSON; data given as arrays is named by its hash, for it cannot be loaded again."""
    loadable = isinstance(data, DataConfig)
    described = to_json(Experiment(model, data if loadable else DataConfig(), config, hyper, seed))
    if loadable:
        return described
    return {**described, "data": {"type": "arrays", "name": data.info.name, "sha256": data.info.sha256}}


def _manifest(data: Data, seed: int, init_from: Any) -> dict[str, Any]:
    origin = init_from.folder if isinstance(init_from, Run) else init_from
    return {
        **manifest(),
        "seed": seed,
        "init_from": None if init_from is None else str(origin),
        "data": {**dataclasses.asdict(data.info), **_counts(data)},
    }


def _counts(data: Data) -> dict[str, int]:
    return {"num_train": data.num_train, "num_val": data.num_val, "num_test": data.num_test}


def _as_markdown(described: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(described, indent=2)}\n```"


def _restore(store: Store, progress: Progress, terminal: Terminal) -> bool:
    """Bring `progress` to the newest good checkpoint; False where none was written yet."""
    folder = store.folder.parent
    restored = store.restore(checkpoint_tree(progress))
    if restored is None:
        terminal.warn(f"{folder} holds no checkpoint yet; the run starts from its beginning")
        return False
    for note in restored.notes:
        terminal.warn(note)
    progress.state, progress.sums, progress.best = (restored.tree[name] for name in ("state", "sums", "best"))
    progress.seconds = restored.meta["seconds"]
    step = int(fetch(progress.state.step))
    progress.history = read_history(folder, step)
    terminal.say(f"resumed from step {step} (epoch {restored.meta['epoch']})")
    return True


def _graft(state: TrainState, init_from: "str | Path | Run", terminal: Terminal) -> TrainState:
    """`state` with the weights of a finished run where path and shape agree; the optimizer starts afresh."""
    if isinstance(init_from, Run):
        given: dict[str, PyTree] = {"params": init_from.params, "batch_stats": init_from.batch_stats}
    else:
        given = read_weights(init_from)[0]
    taken: list[str] = []
    left: list[str] = []

    def choose(kind: str) -> PyTree:
        old = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(given[kind])}

        def leaf(path: Any, fresh: jax.Array) -> jax.Array:
            match = old.get(_path(path))
            fits = match is not None and match.shape == fresh.shape
            (taken if fits else left).append(_path(path))
            return jnp.array(match, fresh.dtype) if fits else fresh

        return jax.tree_util.tree_map_with_path(leaf, getattr(state, kind))

    params, batch_stats = choose("params"), choose("batch_stats")
    if not any(leaf.ndim > 1 and _path(path) in taken for path, leaf in jax.tree_util.tree_leaves_with_path(params)):
        raise RequestError(
            f"init_from: no kernel of that run has path and shape of one of this network's ({', '.join(left[:3])});"
            " use a run of the same architecture"
        )
    terminal.say(
        f"started from {len(taken)} arrays of the given run" + (f"; afresh: {', '.join(left)}" if left else "")
    )
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, batch_stats=batch_stats, ema=ema)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _announce(terminal: Terminal, setting: Setting, data: Data, program: Program, step: int) -> None:
    """What is about to be trained, on what."""
    config, device = setting.config, jax.devices()[0]
    terminal.table(
        f"{type(setting.model.module).__name__} on {device.device_kind} ({device.platform})",
        ("layer", "output", "parameters"),
        [
            (row.path, str(list(row.output_shape)), f"{row.num_parameters:,}")
            for row in model_table(setting.model, setting.image_shape)
        ],
    )
    counts = ", ".join(f"{count:,} {split.removeprefix('num_')}" for split, count in _counts(data).items())
    terminal.say(f"data: {data.info.name} ({counts}) from {data.info.source}")
    left = setting.num_train - setting.steps_per_epoch * config.batch_size
    remainder = f"; {left} examples an epoch fill no batch and are left for a later epoch's order" if left else ""
    terminal.say(f"{config.epochs} epochs of {setting.steps_per_epoch} steps, batch {config.batch_size}{remainder}")
    if program.stepped():
        terminal.warn(
            "this network convolves by XLA's own primitive, which is slow inside a compiled loop on a CPU; its steps"
            " are called one at a time. jaxtrain.Conv has no such limit"
        )
    if step >= setting.num_steps:
        terminal.say("the run had come to its end; it is scored again")


def _finish(
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
    part = min(data.num_train, program.setting.config.train_eval_examples)
    spans = {"train": (0, part), "val": data.val, "test": data.test}
    if stopped or data.num_test == 0:
        del spans["test"]
    sums = {split: evaluate(program, feed, state, weights, *span) for split, span in spans.items()}
    scores = {split: compute(metrics) for split, metrics in fetch(sums).items()}
    timing.evaluate += time.perf_counter() - now
    progress.seconds += time.perf_counter() - now
    step = int(fetch(state.step))
    if "test" in scores:
        log.evaluation({"step": step, **{f"test/{metric}": value for metric, value in scores["test"].items()}})
    summary = {
        "status": progress.reason,
        "data": {"name": data.info.name, "sha256": data.info.sha256, "fallback": data.info.fallback, **_counts(data)},
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


def _write_result(run: Run, folder: Path) -> None:
    """weights/, curves.png and, last of all, summary.json: its presence says that the run is finished."""
    from jaxtrain.plots import curves

    write_weights(run, folder)
    if run.history:
        curves(run.history, folder / "curves.png", test=run.summary.get("test"))
    write_json(folder / "summary.json", run.summary)


def _show(terminal: Terminal, run: Run) -> None:
    """The summary table."""
    summary = run.summary
    names = list(summary["val"])
    rows = [
        (split, *(f"{summary[split][name]:.4f}" for name in names))
        for split in ("train", "val", "test")
        if split in summary
    ]
    terminal.table(f"{summary['status']}: {summary['final']} weights, step {summary['steps']}", ("split", *names), rows)
    terminal.say(
        f"{summary['seconds']:.1f} s in all, {summary['seconds_to_first_step']:.1f} s to the first step,"
        f" {summary['images_per_second']:,.0f} img/s, {summary['num_parameters']:,} parameters"
    )
    terminal.say(f"digest {summary['digest'][:16]}" + (f"; {run.folder}/summary.json" if run.folder else ""))
