"""`fit`: what lies around the loop. The request is checked, the folder opened, the result scored and kept.

Imports everything below it. The fact that surprises: every check of the request comes before anything is compiled or
written, so a run that is refused leaves nothing behind.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import jax

from jaxtrain.checks import Checkup
from jaxtrain.checks import check as run_checks
from jaxtrain.config import Config, DataConfig, Experiment, own_functions
from jaxtrain.configfile import to_json
from jaxtrain.data import Data, load_data
from jaxtrain.device import manifest
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.events import EventWriter
from jaxtrain.files import lock_folder, remove_unfinished
from jaxtrain.finetune import Origin, matches, read_origin
from jaxtrain.finish import counts, show
from jaxtrain.folder import check_folder, default_folder, read_config, read_manifest, read_summary
from jaxtrain.gather import speed_of
from jaxtrain.job import Job, gathered, train_all
from jaxtrain.kernel_ridge import kernel_ridge
from jaxtrain.layout import ALONE, Layout, Parallel, plan
from jaxtrain.models import model_table
from jaxtrain.program import compile_program
from jaxtrain.report import write_report
from jaxtrain.request import check_request, check_seed, check_seeds, check_values
from jaxtrain.result import Run
from jaxtrain.runs import Ensemble, load_run
from jaxtrain.step import Setting, init_state, make_setting
from jaxtrain.tasks import chance
from jaxtrain.terminal import Terminal
from jaxtrain.trace import check_trace
from jaxtrain.types import Hyper, Task


@overload
def fit(
    model: Any,
    data: Data | DataConfig,
    config: Config | None = None,
    hyper: Hyper | None = None,
    *,
    seed: int = 0,
    seeds: None = None,
    parallel: Parallel = "auto",
    width: int | None = None,
    task: Task | None = None,
    workdir: str | Path | None = None,
    name: str | None = None,
    resume: bool = False,
    init_from: str | Path | Run | None = None,
    check: bool = False,
    profile_steps: tuple[int, int] | None = None,
    report: bool = True,
    quiet: bool = False,
    stop: Callable[[], bool] = ...,
) -> Run: ...


@overload
def fit(
    model: Any,
    data: Data | DataConfig,
    config: Config | None = None,
    hyper: Hyper | None = None,
    *,
    seed: int = 0,
    seeds: Iterable[int],
    parallel: Parallel = "auto",
    width: int | None = None,
    task: Task | None = None,
    workdir: str | Path | None = None,
    name: str | None = None,
    resume: bool = False,
    init_from: str | Path | Run | None = None,
    check: bool = False,
    profile_steps: tuple[int, int] | None = None,
    report: bool = True,
    quiet: bool = False,
    stop: Callable[[], bool] = ...,
) -> Ensemble: ...


def fit(
    model: Any,
    data: Data | DataConfig,
    config: Config | None = None,
    hyper: Hyper | None = None,
    *,
    seed: int = 0,
    seeds: Iterable[int] | None = None,
    parallel: Parallel = "auto",
    width: int | None = None,
    task: Task | None = None,
    workdir: str | Path | None = None,
    name: str | None = None,
    resume: bool = False,
    init_from: str | Path | Run | None = None,
    check: bool = False,
    profile_steps: tuple[int, int] | None = None,
    report: bool = True,
    quiet: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Run | Ensemble:
    """Train a network and score it: validation all along, the test split once, at the end.

    Args:
      model: a Linen module, a Model, or a frozen dataclass with make() -> Model.
      data: from `from_arrays` or `load_data`, or the DataConfig of what is to be loaded.
      config: the static choices.
      hyper: the numbers that may be tuned.
      seed: of the initial weights, the order of the data, dropout and augmentation.
      seeds: several members, one for each seed, trained as one program; member i is the run with seeds[i].
      parallel: loop: every member is the single run bit for bit; vmap: one batched program, equal up to rounding; auto:
        loop on a CPU, vmap elsewhere.
      width: most members trained at the same time; by default as many as fit into the memory.
      task: by default classification for integer labels, regression for floats.
      workdir: the run's folder; checkpoints, event files and the result go there.
      name: where `workdir` is None: the folder is runs/NAME-DATE-TIME. With neither nothing is written.
      resume: continue the run in `workdir` from its newest checkpoint.
      init_from: a finished run, or its folder, whose weights to start from; leaves of another shape start afresh.
      check: first run the checks of `jaxtrain.check` on the network and the data, and train only if none fails.
      profile_steps: steps a to b (exclusive) are profiled, for TensorBoard's PROFILE tab.
      report: write report.html and report.md into the folder at the end.
      quiet: print nothing but warnings.
      stop: asked after each chunk of compiled steps; True ends the run with a checkpoint and without a test score.

    Returns:
      The finished run, or with `seeds` the `Ensemble` of its members; `summary["status"]` is "stopped" if `stop` ended
      it. A member that diverged is marked and left out of what is computed from all.

    Raises:
      RequestError: for a config, data or folder that cannot be trained on; nothing is written then.
      WorldError: for data that cannot be read, a check that fails, or a result that cannot be written.
      NonFiniteError: the loss became NaN or infinite, with `seeds` that of every member; the last checkpoint stands.
    """
    started = time.perf_counter()
    config, hyper = config or Config(), hyper or Hyper()
    terminal = Terminal(quiet=quiet)
    members = None if seeds is None else check_seeds(seeds)
    check_seed(seed)
    check_values(config, hyper)
    described = _describe(model, data, config, hyper, seed, members, parallel)
    if isinstance(data, DataConfig):
        data = load_data(data, report=terminal.notice)
    setting = make_setting(model, data, config, task)
    check_request(setting, data, hyper)
    checkup = _checked(setting, data, hyper, seed if members is None else members[0], terminal) if check else None
    layout = ALONE if members is None else plan(setting, data, hyper, len(members), parallel, width=width)
    origin = None if init_from is None else read_origin(init_from)
    if origin is not None:
        matches(jax.eval_shape(functools.partial(init_state, setting), jax.random.key(0), hyper), origin.weights())
    if profile_steps is not None:
        check_trace(profile_steps, setting.num_steps, writes=workdir is not None or name is not None)
    with contextlib.ExitStack() as stack:
        folder = _open_folder(stack, workdir, name, data, described, resume)
        if folder is not None:
            terminal.say(f"run folder: {folder}\ntensorboard --logdir {folder.parent if workdir is None else folder}")
            if resume and _is_finished(folder, config):
                terminal.say("the run is finished; nothing is left to do")
                run = load_run(folder, model=model, task=task, **own_functions(config))
                if report and not (folder / "report.html").exists():  # it was killed before that
                    _report(run, data, terminal)
                return run
            if resume and config.snapshot_every_epochs and _stored_epochs(folder) != config.epochs:
                raise RequestError(
                    f"{folder} keeps snapshots of {_stored_epochs(folder)} epochs, and their number cannot change;"
                    " repeat that number of epochs, or start a new run with --init-from"
                )
            layout = _recorded(folder, layout, terminal) if resume and members else layout
            origin = _origin(folder, origin) if resume else origin

        job = Job(
            setting,
            data,
            hyper,
            described,
            layout,
            seeds=members or (seed,),
            alone=members is None,
            folder=folder,
            terminal=terminal,
            facts={
                **_manifest(data, setting.task, members or (seed,), origin),
                "kernel_ridge": _without_training(data, setting.task, folder, resume, terminal),
            },
            origin=origin,
            profile_steps=profile_steps,
            checks=checkup,
            own={"model": model, "task": task, **own_functions(config)},
        )
        _announce(job)
        return _trained(job, resume, stop, started, report)


def _trained(job: Job, resume: bool, stop: Callable[[], bool], started: float, report: bool) -> Run | Ensemble:
    """Train, show what came of it, and report."""
    job, trained, clocks = train_all(job, resume, stop, started)
    notes = [run.summary["note"] for run in trained if run.summary["status"] == "diverged"]
    if len(notes) == len(trained):
        raise NonFiniteError(notes[0] if job.alone else f"all {len(notes)} members diverged; the first: {notes[0]}")
    if job.alone:
        (run,) = trained
        show(job.terminal, run)
    else:
        run = gathered(job, trained, speed_of(clocks))
    if report:
        _report(run, job.data, job.terminal)
    return run


def _report(run: Run | Ensemble, data: Data, terminal: Terminal) -> None:
    """The report, whose figures of the mistakes go to TensorBoard too. The run is done: nothing here may lose it."""
    folder = run.folder
    if folder is None or run.summary["status"] in ("stopped", "diverged"):
        return
    try:
        with EventWriter(folder) as events:
            path = write_report(run, data, folder, events=events)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        terminal.warn(f"the report could not be written: {why}; python scripts/report.py {folder} does it again")
        return
    terminal.say(f"report: {path}")


def _checked(setting: Setting, data: Data, hyper: Hyper, seed: int, terminal: Terminal) -> Checkup:
    checkup = run_checks(setting.model, data, setting.config, hyper, task=setting.task, seed=seed)
    checkup.show(terminal)
    if checkup.failed:
        names = ", ".join(each.name for each in checkup.failed)
        raise WorldError(f"the checks before training failed ({names}); mend what they say, or train without them")
    return checkup


def _recorded(folder: Path, layout: Layout, terminal: Terminal) -> Layout:
    """The layout that a resumed run began with."""
    stored = read_manifest(folder).get("members")
    if stored is None:
        return layout
    if layout.num_devices != stored["num_devices"] and stored["parallel"] == "vmap":
        terminal.warn(
            f"{stored['num_devices']} devices held the members, now {layout.num_devices}: the run goes on, but no"
            " longer bit for bit as it would have"
        )
    return Layout(stored["parallel"], stored["width"], layout.num_devices, stored["why"])


def _open_folder(
    stack: contextlib.ExitStack,
    workdir: str | Path | None,
    name: str | None,
    data: Data,
    described: Mapping[str, Any],
    resume: bool,
) -> Path | None:
    """The run's folder, locked until `stack` is left; None where nothing is to be written."""
    if workdir is None and name is None:
        if resume:
            raise RequestError("resume needs the folder of the run to continue; give workdir")
        return None
    label = f"{name}-fallback-{data.info.fallback}" if data.info.fallback else str(name)
    folder = default_folder(label) if workdir is None else Path(workdir)
    check_folder(folder, described, data.info.sha256, resume=resume)
    stack.enter_context(lock_folder(folder))
    # Once more: another process may have begun, or even ended, a run in it since.
    check_folder(folder, described, data.info.sha256, resume=resume)
    remove_unfinished(folder)
    return folder


def _origin(folder: Path, given: Origin | None) -> Origin | None:
    """The run whose weights the run in `folder` began with: groups of members that have not begun yet need them too."""
    stored = read_manifest(folder).get("init_from")
    recorded = None if stored is None else Origin(**stored)
    if given is None:
        return recorded
    if recorded is None or recorded.digest != given.digest:
        began = "with weights of its own" if recorded is None else f"with other weights, of {recorded.folder}"
        raise RequestError(f"the run in {folder} began {began}; leave out --init-from to continue it")
    return given


def _stored_epochs(folder: Path) -> int | None:
    stored = read_config(folder)
    return None if stored is None else stored["config"]["epochs"]


def _is_finished(folder: Path, config: Config) -> bool:
    """Whether the run in `folder` has nothing left to do under `config`, which may ask for more epochs."""
    summary, epochs = read_summary(folder), _stored_epochs(folder)
    if summary is None or epochs is None:
        return False
    if config.epochs < summary["epochs"]:
        raise RequestError(f"{folder} has done {summary['epochs']} epochs; give config.epochs at least that many")
    return config.epochs == epochs


def _describe(
    model: Any,
    data: Data | DataConfig,
    config: Config,
    hyper: Hyper,
    seed: int,
    seeds: tuple[int, ...] | None,
    parallel: Parallel,
) -> dict[str, Any]:
    """The experiment as JSON; data given as arrays is named by its hash, for it cannot be loaded again."""
    loadable = isinstance(data, DataConfig)
    described = to_json(Experiment(model, data if loadable else DataConfig(), config, hyper, seed, seeds, parallel))
    if loadable:
        return described
    return {**described, "data": {"type": "arrays", "name": data.info.name, "sha256": data.info.sha256}}


def _manifest(data: Data, task: Task, seeds: tuple[int, ...], origin: Origin | None) -> dict[str, Any]:
    return {
        **manifest(),
        "seeds": list(seeds),
        "init_from": None if origin is None else origin.described,
        "data": {**dataclasses.asdict(data.info), **counts(data)},
        "chance": chance(task, data.label[: data.num_train]),
    }


def _without_training(
    data: Data, task: Task, folder: Path | None, resume: bool, terminal: Terminal
) -> dict[str, float]:
    """What kernel ridge regression scores, for the diagnosis; once a run, and only where it is written down."""
    stored = read_manifest(folder).get("kernel_ridge") if folder is not None and resume else None
    if folder is None or isinstance(stored, dict):
        return stored or {}
    try:
        return kernel_ridge(task, data)
    except Exception as error:  # the data are the user's, and no comparison is worth the run
        terminal.warn(f"nothing to compare the result with: kernel ridge regression: {type(error).__name__}: {error}")
        return {}


def _announce(job: Job) -> None:
    """What is about to be trained, on what."""
    setting, terminal, device = job.setting, job.terminal, jax.devices()[0]
    config, data = setting.config, job.data
    table = model_table(setting.model, setting.image_shape, job.hyper)
    terminal.table(
        f"{type(setting.model.module).__name__} on {device.device_kind} ({device.platform})",
        ("layer", "output", "parameters"),
        [(row.path, str(list(row.output_shape)), f"{row.num_parameters:,}") for row in table],
    )
    sizes = ", ".join(f"{count:,} {split.removeprefix('num_')}" for split, count in counts(data).items())
    terminal.say(f"data: {data.info.name} ({sizes}) from {data.info.source}")
    left = setting.num_train - setting.steps_per_epoch * config.batch_size
    remainder = f"; {left} examples an epoch fill no batch and are left for a later epoch's order" if left else ""
    terminal.say(f"{config.epochs} epochs of {setting.steps_per_epoch} steps, batch {config.batch_size}{remainder}")
    if not job.alone:
        terminal.say(_laid_out(job))
    if compile_program(setting).stepped(job.hyper):
        terminal.warn(
            "this network convolves by XLA's own primitive, which is slow inside a compiled loop on a CPU; its steps"
            " are called one at a time. jaxtrain.Conv has no such limit"
        )


def _laid_out(job: Job) -> str:
    layout, count = job.layout, len(job.seeds)
    devices = f"{layout.num_devices} devices" if layout.num_devices > 1 else "one device"
    groups = f", {layout.width} at a time" if job.num_groups > 1 else ""
    groups += f" ({layout.why})" if layout.why else ""
    return f"{count} members (seeds {_range(job.seeds)}) by {layout.parallel} on {devices}{groups}"


def _range(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
