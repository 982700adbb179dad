"""`fit`: what lies around the loop. The request is checked, the folder opened, the result scored and kept.

Imports everything below it. The fact that surprises: every check of the request comes before anything is compiled or
written, so a run that is refused leaves nothing behind.
"""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxtrain.checkpoint import Store
from jaxtrain.config import Config, DataConfig, Experiment, own_functions
from jaxtrain.configfile import to_json
from jaxtrain.data import Data, Feed, Streamed, load_data, make_feed
from jaxtrain.device import manifest
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.finetune import given_weights, graft, matches
from jaxtrain.finish import counts, finish, show, write_result
from jaxtrain.folder import (
    changes_of_machine,
    check_folder,
    default_folder,
    read_config,
    read_history,
    read_json,
    reopen,
    write_start,
)
from jaxtrain.log import Log
from jaxtrain.models import model_table
from jaxtrain.optim import init_swa
from jaxtrain.program import Program, compile_program
from jaxtrain.request import check_request, check_values
from jaxtrain.result import Run, load_run
from jaxtrain.step import Setting, init_state, make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import Progress, begin, checkpoint_tree, fetch, train
from jaxtrain.types import Hyper, Task


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
    init_from: str | Path | Run | None = None,
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
    check_values(config, hyper)
    described = _describe(model, data, config, hyper, seed)
    if isinstance(data, DataConfig):
        data = load_data(data, report=terminal.notice)
    setting = make_setting(model, data, config, task)
    check_request(setting, data, hyper)
    given = None if init_from is None else given_weights(init_from)
    if given is not None:
        matches(jax.eval_shape(functools.partial(init_state, setting), jax.random.key(0), hyper), given)
    folder = _open_folder(workdir, name, data, described, resume)
    if folder is not None:
        terminal.say(f"run folder: {folder}\ntensorboard --logdir {folder.parent if workdir is None else folder}")
        if resume and _is_finished(folder, config):
            terminal.say("the run is finished; nothing is left to do")
            return load_run(folder, model=model, task=task, **own_functions(config))

    program = compile_program(setting)
    with contextlib.ExitStack() as stack:
        feed = make_feed(data, config.stream)
        stack.callback(feed.close)
        store = None
        if folder is not None:
            store = stack.enter_context(Store(folder / "checkpoints", keep=config.keep_checkpoints))
        progress = begin(program, feed, program.init(jax.random.key(seed), hyper))
        restored = resume and store is not None and _restore(store, setting, progress, terminal)
        if given is not None and not restored:
            progress = begin(program, feed, graft(progress.state, given))
            taken, left = matches(progress.state, given)
            afresh = f"; afresh: {', '.join(path.removeprefix('params/') for path in left)}" if left else ""
            terminal.say(f"started from {len(taken)} arrays of the given run{afresh}")
        at = int(fetch(progress.state.step))
        if folder is not None:
            _write_start(folder, described, _manifest(data, seed, init_from), resume, terminal)
        log = stack.enter_context(Log(folder, terminal, step=at if resume else None))
        log.text("config", f"```json\n{json.dumps(described, indent=2)}\n```")
        _announce(terminal, program, data, feed, hyper)
        terminal.start(at, setting.num_steps, setting.steps_per_epoch)
        meta = {"data": data.info.sha256, "seed": seed}
        timing = train(
            program, feed, data.num_val, progress, log=log, store=store, meta=meta, stop=stop, started=started
        )
        terminal.close()
        run = finish(program, feed, data, progress, timing, log, folder, seed)
    for error in log.errors:
        terminal.warn(error)
    if folder is not None and progress.reason != "stopped":
        write_result(run, folder)
    show(terminal, run)
    if store is not None and run.summary["steps"] not in store.steps():
        why = store.errors[-1] if store.errors else "it is no longer there"
        raise WorldError(f"the last checkpoint could not be written: {why}")
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
    check_folder(folder, described, data.info.sha256, resume=resume)
    return folder


def _is_finished(folder: Path, config: Config) -> bool:
    """Whether the run in `folder` has nothing left to do under `config`, which may ask for more epochs."""
    summary, stored = read_json(folder / "summary.json"), read_config(folder)
    if summary is None or stored is None:
        return False
    if config.epochs < summary["epochs"]:
        raise RequestError(f"{folder} has done {summary['epochs']} epochs; give config.epochs at least that many")
    return config.epochs == stored["config"]["epochs"]


def _write_start(
    folder: Path, described: Mapping[str, Any], facts: Mapping[str, Any], resume: bool, terminal: Terminal
) -> None:
    if resume:
        for change in changes_of_machine(folder, facts):
            terminal.warn(f"{change}: the run goes on, but no longer bit for bit as it would have")
        reopen(folder)
    write_start(folder, described, facts)


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
        "data": {**dataclasses.asdict(data.info), **counts(data)},
    }


def _restore(store: Store, setting: Setting, progress: Progress, terminal: Terminal) -> bool:
    """Bring `progress` to the newest good checkpoint; False where none was written yet."""
    folder, epochs = store.folder.parent, setting.config.epochs
    restored = store.restore(checkpoint_tree(progress))
    if restored is None:
        terminal.warn(f"{folder} holds no checkpoint yet; the run starts from its beginning")
        return False
    for note in restored.notes:
        terminal.warn(note)
    state, progress.sums, progress.best = (restored.tree[name] for name in ("state", "sums", "best"))
    step = int(fetch(state.step))
    if step > setting.num_steps:
        raise RequestError(f"{folder} has done {step} steps; {epochs} epochs are {setting.num_steps}, give more")
    before = (read_config(folder) or {})["config"]["epochs"]
    if before != epochs:
        terminal.say(
            f"{before} epochs were planned, now {epochs}: the schedule is a function of the new total, so this is not"
            " the shorter run continued bit for bit"
        )
        if state.swa is not None:  # the average of the shorter run began too early for this one
            state = dataclasses.replace(state, swa=init_swa(state.params))
    progress.state, progress.seconds = state, restored.meta["seconds"]
    progress.history = read_history(folder, step)
    terminal.say(f"resumed from step {step} (epoch {restored.meta['epoch']})")
    return True


def _announce(terminal: Terminal, program: Program, data: Data, feed: Feed, hyper: Hyper) -> None:
    """What is about to be trained, on what."""
    setting, device = program.setting, jax.devices()[0]
    config = setting.config
    table = model_table(setting.model, setting.image_shape, hyper)
    terminal.table(
        f"{type(setting.model.module).__name__} on {device.device_kind} ({device.platform})",
        ("layer", "output", "parameters"),
        [(row.path, str(list(row.output_shape)), f"{row.num_parameters:,}") for row in table],
    )
    sizes = ", ".join(f"{count:,} {split.removeprefix('num_')}" for split, count in counts(data).items())
    terminal.say(f"data: {data.info.name} ({sizes}) from {data.info.source}")
    if isinstance(feed, Streamed):
        terminal.say(f"the data streams from the host: {feed.why}")
    left = setting.num_train - setting.steps_per_epoch * config.batch_size
    remainder = f"; {left} examples an epoch fill no batch and are left for a later epoch's order" if left else ""
    terminal.say(f"{config.epochs} epochs of {setting.steps_per_epoch} steps, batch {config.batch_size}{remainder}")
    if program.stepped(hyper):
        terminal.warn(
            "this network convolves by XLA's own primitive, which is slow inside a compiled loop on a CPU; its steps"
            " are called one at a time. jaxtrain.Conv has no such limit"
        )
