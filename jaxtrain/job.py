"""The training of what `fit` was asked for, group by group: checkpoints, logs and results around the loop.

Imports the loop and what lies below. The fact that surprises: each group has checkpoints of its own, and what is
finished is read back and not trained again; so a run of many members may be killed anywhere.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxtrain.checkpoint import Store
from jaxtrain.checks import Checkup
from jaxtrain.data import Data, Streamed
from jaxtrain.diagnose import diagnose, diagnose_path, in_markdown, read_run
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.files import write_json
from jaxtrain.finetune import Origin, graft, matches
from jaxtrain.finish import finish, show_diagnosis, write_result
from jaxtrain.folder import changes_of_machine, member_folder, read_config, read_history, reopen, write_start
from jaxtrain.gather import gather, mean_rows, show_gathered, write_gathered
from jaxtrain.layout import Layout, num_parts_that_fit
from jaxtrain.log import Log, Logs
from jaxtrain.members import Group, make_group
from jaxtrain.optim import init_swa
from jaxtrain.overview import log_config, log_graphs, log_hyper, log_result, result_step
from jaxtrain.result import Run, load_one
from jaxtrain.runs import Ensemble
from jaxtrain.step import Setting, init_state
from jaxtrain.terminal import Terminal
from jaxtrain.trace import Trace
from jaxtrain.train import Timing, checkpoint_tree, take_up, train
from jaxtrain.types import Hyper

CLOCK = ("seconds", "seconds_to_first_step", "compile_seconds", "images_per_second")


@dataclass(frozen=True)
class Job:
    """What `fit` was asked for, checked."""

    setting: Setting
    data: Data
    hyper: Hyper
    described: Mapping[str, Any]
    layout: Layout
    seeds: tuple[int, ...]
    alone: bool  # a single run, whose folder is that of its one member
    folder: Path | None
    terminal: Terminal
    facts: Mapping[str, Any]  # of the machine, the data and the command
    checks: Checkup | None  # the checks before training, where they were asked for
    origin: Origin | None  # the run whose weights it begins with
    profile_steps: tuple[int, int] | None  # the steps that are profiled
    own: Mapping[str, Any]  # what of the run is the user's own, for reading a finished member back

    @property
    def num_groups(self) -> int:
        """Groups that are trained one after another."""
        return -(-len(self.seeds) // self.layout.width)

    def member(self, index: int) -> Path | None:
        """The folder of a member's events, numbers and weights."""
        return self.folder if self.folder is None or self.alone else member_folder(self.folder, index)


def train_all(
    job: Job, resume: bool, stop: Callable[[], bool], started: float
) -> tuple[Job, list[Run], list[dict[str, float]]]:
    """Train group by group: the job (its layout narrowed where the first group was too wide for the device's memory),
    the members, and the clock of each group."""
    trained: list[Run] = []
    clocks: list[dict[str, float]] = []
    again = False
    while len(trained) < len(job.seeds):
        try:
            runs, clock = _train_group(job, len(trained), resume, stop, started, again=again)
        except NonFiniteError as error:
            _tell_why(job)
            raise NonFiniteError(f"{error}. {_repetition(job)}") from None
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):  # the latter on a CPU
                raise
            if trained or resume or job.layout.width == 1:
                raise WorldError(_out_of_memory(job)) from error
            if job.folder is not None:  # what the wide group has saved fits no other
                with Store(_checkpoints(job, 0)) as store:
                    store.clear()
            narrower = -(-job.layout.width // 2)
            job.terminal.warn(f"{job.layout.width} members do not fit into the memory; trying {narrower} at a time")
            job = dataclasses.replace(job, layout=dataclasses.replace(job.layout, width=narrower, why="out of memory"))
            again = True
            continue
        trained += runs
        clocks.append(clock)
        if any(run.summary["status"] == "stopped" for run in runs):
            break
    return job, trained, clocks


def _tell_why(job: Job) -> None:
    """What the curves of a run show that ends here, without a summary; that it has diverged the error says."""
    if job.folder is None:
        return
    try:
        findings = diagnose_path(job.folder).findings
    except Exception as error:  # no word on a run is worth its own error
        job.terminal.warn(f"no diagnosis of {job.folder}: {type(error).__name__}: {error}")
        return
    show_diagnosis(job.terminal, {"diagnosis": [one.to_json() for one in findings if one.name != "diverged"]})


def _repetition(job: Job) -> str:
    """How to see the operation that made the first NaN."""
    if job.folder is None or "sha256" in job.described["data"]:  # of arrays that only the caller has
        call = "the same call" if job.folder is None else "the same call with resume=True"
        return f"With jax.config.update('jax_debug_nans', True) before, {call} names the operation"
    return (
        "This names the operation, from the last good checkpoint on: python scripts/train.py --resume --workdir"
        f" {job.folder} --debug-nans"
    )


def _out_of_memory(job: Job) -> str:
    """What fits instead, by an estimate from the shapes."""
    size, layout, device = job.setting.config.batch_size, job.layout, jax.devices()[0]
    stats = device.memory_stats() or {}
    memory = stats.get("bytes_limit")
    together = layout.slots // layout.num_devices if layout.parallel == "vmap" else 1
    left = None if memory is None else memory - job.data.image.nbytes
    parts = num_parts_that_fit(job.setting, job.hyper, together, left)
    narrower = (
        f", or fewer members at a time (--width {-(-layout.width // 2)} in a new run)" if layout.width > 1 else ""
    )
    return (
        f"the device's memory is exhausted at batch size {size}; by estimate {size // parts} fits: give --batch_size"
        f" {size // parts}, or --num_micro_batches {parts}, which trains on batches of {size} in parts{narrower}"
    )


def _train_group(
    job: Job, first: int, resume: bool, stop: Callable[[], bool], started: float, *, again: bool
) -> tuple[list[Run], dict[str, float]]:
    """Train the members from `first` on that fit into a group, and write their results; `again`: in place of a wider
    group, which may have logged something."""
    now = time.perf_counter()
    seeds, terminal, setting = job.seeds[first : first + job.layout.width], job.terminal, job.setting
    folders = [job.member(first + index) for index in range(len(seeds))]
    if resume and all(_is_done(place, setting.config.epochs) for place in folders):
        if not first:
            _write_start(job, resume)
        runs = [load_one(place, **job.own) for place in folders if place is not None]
        return runs, {name: float(runs[0].summary[name]) for name in CLOCK}
    if job.num_groups > 1:
        terminal.say(f"members {first} to {first + len(seeds) - 1} of {len(job.seeds)}")
    with contextlib.ExitStack() as stack:
        group = make_group(setting, job.data, seeds, job.hyper, job.layout)
        stack.callback(group.close)
        store = None
        if job.folder is not None:
            store = stack.enter_context(Store(_checkpoints(job, first), keep=setting.config.keep_checkpoints))
        restored = resume and store is not None and _restore(store, group, folders, terminal, first)
        if job.origin is not None and not restored:
            _graft(group, job.origin.weights(), terminal)
        if job.folder is not None and not first:
            if resume:
                reopen(job.folder)
            _write_start(job, resume)
        log = _logs(stack, job, folders, group, resume or again)
        if any(isinstance(lane.feed, Streamed) for lane in group.lanes):
            terminal.say(f"the data streams from the host: {group.lanes[0].feed.why}")
        _log_start(job, group, log, first)
        terminal.start(group.step, setting.num_steps, setting.steps_per_epoch)
        meta = {"data": job.data.info.sha256, "seeds": list(seeds), "epochs": setting.config.epochs}
        trace = Trace(job.profile_steps if not first else None, job.folder)
        stack.callback(trace.close)
        begun = started if not first else now  # what the groups before took is theirs
        timing = train(group, log=log, store=store, meta=meta, stop=stop, started=begun, mark=_marks(job), trace=trace)
        terminal.close()
        runs = finish(group, timing, log, folders)
        for run, own in zip(runs, log.members.values() if log.members else [log.run], strict=True):
            log_result(own, run.summary)
        _diagnose(runs, list(log.members.values()) or [log.run])
        log.flush()
        step, clock = group.step, _clock(group, timing)
    lost = log.unwritten  # after a last attempt, when they were closed
    stopped = any(run.summary["status"] == "stopped" for run in runs)
    for run, place in zip(runs, folders, strict=True):
        if place is not None and not stopped:
            _write_member(job, run, place)
    if store is not None and step not in store.steps():
        why = store.errors[-1] if store.errors else "it is no longer there"
        raise WorldError(f"the last checkpoint could not be written: {why}")
    if lost:
        raise WorldError(f"the results were written, but not the last of what was logged: {'; '.join(lost)}")
    return runs, clock


def _checkpoints(job: Job, first: int) -> Path:
    """Those of the group that begins with this member."""
    assert job.folder is not None
    return job.folder / "checkpoints" / (f"group-{first:03d}" if job.num_groups > 1 else "")


def _logs(stack: contextlib.ExitStack, job: Job, folders: Sequence[Path | None], group: Group, resume: bool) -> Logs:
    """The run's log and its members'; what a killed process wrote beyond the checkpoint, or of a result, is dropped."""
    step = group.step if resume else None
    if job.alone:
        return Logs(_run_log(stack, job, job.folder, step))
    silent = Terminal(quiet=True)
    members = {}
    for index, (place, done) in enumerate(zip(folders, group.steps_done(), strict=True)):
        if resume and place is not None and place.is_dir():
            reopen(place)
        members[index] = stack.enter_context(Log(place, silent, step=done if resume else None))
    # Of several groups the mean over all members is known at the end only; see `gathered`.
    shared = job.folder if job.num_groups == 1 else None
    return Logs(_run_log(stack, job, shared, step), members)


def _run_log(stack: contextlib.ExitStack, job: Job, folder: Path | None, step: int | None) -> Log:
    log = stack.enter_context(Log(folder, job.terminal, step=step))
    log_config(log, job.described)
    return log


def _log_start(job: Job, group: Group, log: Logs, first: int) -> None:
    """Graphs and hyper-parameters; TensorBoard takes the first of each, so a resumed run writes them again in vain."""
    if not first:
        log_graphs(log.run, job.setting, job.data, job.hyper)
    if job.alone:
        log_hyper(log.run, job.setting, job.hyper, job.seeds[0])
    for index, own in log.members.items():
        member = group.members[index]
        log_hyper(own, job.setting, member.hyper, member.seed, group=job.folder.name if job.folder else "")


def _diagnose(runs: Sequence[Run], logs: Sequence[Log]) -> None:
    """What the curves of each show goes into its summary, and to the TEXT tab; no word on a run is worth the run."""
    if any(run.summary["status"] == "stopped" for run in runs):
        return  # it goes on, and is told then
    for run, own in zip(runs, logs, strict=True):
        if own.folder is None:
            continue
        try:
            history = read_run(own.folder)
            ended = dataclasses.replace(history, status=run.summary["status"], test=run.summary.get("test", {}))
            run.summary["diagnosis"] = [finding.to_json() for finding in diagnose(ended)]
        except Exception as error:
            own.terminal.warn(f"no diagnosis of {own.folder}: {type(error).__name__}: {error}")
            continue
        # In the group of the summary: of three groups TensorBoard opens two.
        own.text("summary/diagnosis", in_markdown(run.summary["diagnosis"]), result_step(run.summary))


def _write_member(job: Job, run: Run, place: Path) -> None:
    """A member's folder is a run's: `load_run`, `evaluate.py` and `predict.py` take it, `--config` repeats it."""
    own = job.described if job.alone else {**job.described, "seed": run.seed, "seeds": None}
    if (
        not job.alone or not (place / "config.json").exists()
    ):  # the folder may have been deleted in the course of the run
        write_json(place / "config.json", own)
    write_result(run, place, draw=job.alone)


def gathered(job: Job, runs: list[Run], clock: dict[str, float]) -> Ensemble:
    ensemble = gather(runs, job.data, job.layout, clock, job.folder)
    if job.folder is not None and ensemble.summary["status"] != "stopped":
        if job.num_groups > 1:
            _write_means(job, runs)
        write_gathered(ensemble, job.folder)
    show_gathered(job.terminal, ensemble)
    return ensemble


def _write_means(job: Job, runs: list[Run]) -> None:
    """The curves of the mean, where members were trained in several groups."""
    silent = dataclasses.replace(job, terminal=Terminal(quiet=True))
    with contextlib.ExitStack() as stack:
        log = Logs(_run_log(stack, silent, job.folder, -1), dict.fromkeys(range(len(runs)), Log(None, silent.terminal)))
        for rows in mean_rows([run.history for run in runs]):
            log.evaluation(rows)


def _write_start(job: Job, resume: bool) -> None:
    assert job.folder is not None
    facts = {**job.facts, "members": None if job.alone else dataclasses.asdict(job.layout)}
    if resume:
        for change in changes_of_machine(job.folder, facts):
            job.terminal.warn(f"{change}: the run goes on, but no longer bit for bit as it would have")
    write_start(job.folder, job.described, facts)
    if job.checks is not None:
        write_json(job.folder / "checks.json", job.checks.to_json())


def _restore(store: Store, group: Group, folders: Sequence[Path | None], terminal: Terminal, first: int) -> bool:
    """Bring `group` to the newest good checkpoint; False where none was written yet."""
    setting, data = group.setting, group.data
    epochs = setting.config.epochs
    restored = store.restore(checkpoint_tree(group))
    if restored is None:
        if not first:  # a later group may not have begun
            terminal.warn(f"{store.folder} holds no checkpoint yet; training starts from its beginning")
        return False
    for note in restored.notes:
        terminal.warn(note)
    for name, now in (("data", data.info.sha256), ("seeds", [member.seed for member in group.members])):
        if restored.meta.get(name, now) != now:
            raise RequestError(
                f"the checkpoints in {store.folder} are of {name} {restored.meta[name]!r:.80}, this run is of"
                f" {now!r:.80}; bring its own back, or start a new run in another folder"
            )
    take_up(group, restored.tree)
    if group.step > setting.num_steps:
        raise RequestError(
            f"{store.folder} has done {group.step} steps; {epochs} epochs are {setting.num_steps}, give more"
        )
    before = restored.meta["epochs"]
    if before != epochs:
        terminal.say(
            f"{before} epochs were planned, now {epochs}: the schedule is a function of the new total, so this is not"
            " the shorter run continued bit for bit"
        )
        for lane in group.lanes:
            if lane.state.swa is not None:  # the average of the shorter run began too early for this one
                begin = jax.vmap(init_swa) if lane.stacked else init_swa
                lane.state = dataclasses.replace(lane.state, swa=lane.put(begin(lane.state.params)))
    group.seconds = restored.meta["seconds"]
    for member, note in zip(group.members, restored.meta["notes"], strict=True):
        member.note = note
    for member, folder in zip(group.members, folders, strict=True):
        member.history = read_history(folder, group.step) if folder is not None else []
    terminal.say(f"resumed from step {group.step} (epoch {restored.meta['epoch']})")
    return True


def _marks(job: Job) -> bool:
    """Whether a member that is not finite is left behind; otherwise it ends the run."""
    chosen = job.setting.config.nonfinite
    return chosen == "mark" or (chosen != "stop" and not job.alone)


def _is_done(place: Path | None, epochs: int) -> bool:
    """Whether a member has its result, and of a run of this length: it may have been made longer since."""
    if place is None or not (place / "summary.json").is_file():
        return False
    return (read_config(place) or {}).get("config", {}).get("epochs") == epochs


def _clock(group: Group, timing: Timing) -> dict[str, float]:
    seconds = (group.seconds, timing.to_first_step, timing.compile, timing.images_per_second)
    return dict(zip(CLOCK, seconds, strict=True))


def _graft(group: Group, given: Any, terminal: Terminal) -> None:
    one = jax.eval_shape(functools.partial(init_state, group.setting), jax.random.key(0), group.members[0].hyper)
    taken, left = matches(one, given)
    for lane in group.lanes:
        take = functools.partial(graft, given=given)
        lane.state = lane.put((jax.vmap(take) if lane.stacked else take)(lane.state))
        lane.reset()
    afresh = f"; afresh: {', '.join(path.removeprefix('params/') for path in left)}" if left else ""
    terminal.say(f"started from {len(taken)} arrays of the given run{afresh}")
