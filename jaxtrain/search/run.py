"""`run_search`: random search and its relatives, from a space to the winner's score on the test split.

Imports everything below it. The fact that surprises: there is no master. Every worker is this same function, started by
the same command; they meet in the study, and who finds nothing left to do writes the results.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtrain.config import DataConfig, Experiment
from jaxtrain.configfile import encode, to_json
from jaxtrain.data import Data, load_data
from jaxtrain.errors import NonFiniteError
from jaxtrain.files import write_json
from jaxtrain.finish import unscored, write_result
from jaxtrain.folder import MAY_DIFFER, default_folder, read_json
from jaxtrain.layout import Parallel, plan
from jaxtrain.log import Log, Logs
from jaxtrain.members import Group, make_group
from jaxtrain.run import fit
from jaxtrain.search.checks import check_programs
from jaxtrain.search.findings import Goal, domain, show, show_winner, sum_up, write_findings
from jaxtrain.search.kept import drop, keep
from jaxtrain.search.rounds import End, Rung, Training, run_round
from jaxtrain.search.storage import JOURNAL
from jaxtrain.search.study import Study, open_study
from jaxtrain.search.triallog import forget_trial, log_space, log_trial
from jaxtrain.search.trials import Trial, ranked
from jaxtrain.search.winner import train_winner
from jaxtrain.search.workers import alone
from jaxtrain.space import Choice, Search, check_search, default_round, is_static, with_values
from jaxtrain.step import Setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import train
from jaxtrain.types import Hyper, Task

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class SearchResult:
    """What `run_search` returns."""

    folder: Path
    search: Search
    trials: Sequence[Trial]
    summary: Mapping[str, Any]
    """As in search.json."""

    @property
    def best(self) -> Experiment:
        """The experiment of the best trial."""
        return with_values(self.search, self.summary["best"][0]["params"])


@dataclass(frozen=True)
class _Job:
    """What `run_search` was asked for, checked."""

    search: Search
    folder: Path
    goal: Goal
    load: Callable[[DataConfig], Data]
    given: Data | None
    task: Task | None
    training: Training
    terminal: Terminal
    stop: Callable[[], bool]


def run_search(
    search: Search,
    *,
    workdir: str | Path | None = None,
    name: str = "search",
    storage: str | None = None,
    data: Data | None = None,
    task: Task | None = None,
    training: Training | None = None,
    quiet: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> SearchResult:
    """Search, as one of any number of workers, until all trials have ended; then train the winner.

    Trials are scored on the validation split only. The best one is trained again over seeds that no trial had, and that
    is scored on the test split, once.

    Args:
      search: what is varied, how, how often.
      workdir: folder of the search. Calls with the same folder, now or later, are workers of one search, and what
        another has finished is kept.
      name: where `workdir` is None: the folder is runs/NAME-DATE-TIME.
      storage: of the trials, where it is not a file in the folder: see `create_study`.
      data: instead of that of the experiment.
      task: by default that of the data.
      training: how trials are trained; for tests.
      quiet: print nothing but warnings.
      stop: asked after each chunk of compiled steps; True gives the trials at hand back and ends.

    Raises:
      RequestError: a search that cannot be, or a folder that holds another one; nothing is trained then.
      WorldError: a storage that cannot be reached, data that cannot be read, results that cannot be written.
      NonFiniteError: every trial diverged.
    """
    search, terminal = check_search(search), Terminal(quiet=quiet)
    load = functools.cache(lambda config: load_data(config, report=terminal.notice) if data is None else data)
    goal, first = check_programs(search, load, task), load(search.experiment.data)
    label = f"{name}-fallback-{first.info.fallback}" if first.info.fallback else name
    folder = default_folder(label) if workdir is None else Path(workdir)
    job = _Job(search, folder, goal, load, data, task, training or default_training(), terminal, stop)
    described = _describe(search, goal, first)
    may_differ = {f"experiment.{field}" for field in MAY_DIFFER - {"config.epochs"} | {"parallel"}}
    with open_study(search, folder, storage, sign=goal.sign, described=described, may_differ=may_differ) as study:
        _announce(job, study, storage)
        _work(job, study)
        done, trials = study.is_done, study.trials()
    return _conclude(job, trials, done)


def default_training() -> Training:
    """How trials are trained in earnest."""
    return Training(_width, _make_group, _train_group, _write_member, fit)


def _width(setting: Setting, data: Data, hyper: Hyper, count: int, parallel: Parallel) -> int:
    return plan(setting, data, hyper, count, parallel).width


def _make_group(
    setting: Setting, data: Data, seeds: Sequence[int], hypers: Sequence[Hyper], parallel: Parallel
) -> Group:
    """A group whose stack, under vmap, is as wide as a power of two: each width is a program of its own to compile."""
    layout = plan(setting, data, hypers[0], len(seeds), parallel, width=len(seeds))
    if layout.parallel == "vmap":
        layout = dataclasses.replace(layout, width=1 << (layout.width - 1).bit_length())
    return make_group(setting, data, seeds, hypers, layout)


def _write_member(group: Group, index: int, experiment: Experiment, folder: Path) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "config.json", to_json(experiment))
    write_result(unscored(group, index, folder), folder, draw=False)


def _train_group(group: Group, *, until: int, stop: Callable[[], bool]) -> None:
    """Train without a word."""
    from rich.console import Console

    silent = Terminal(quiet=True, console=Console(quiet=True))
    train(group, log=Logs(Log(None, silent)), until=until, stop=stop, mark=True)


def _work(job: _Job, study: Study) -> None:
    """Ask, train and tell, round after round, until nothing is left to do or a stop is asked for."""
    size = job.search.round_size or default_round(job.search)
    while not job.stop():
        lost = study.sweep()
        if lost:
            job.terminal.warn(f"lost with their worker and asked again: trials {', '.join(map(str, lost))}")
            for number in lost:  # it may have died between a trial's curves and its word to the study
                forget_trial(job.folder, number)
        left = study.left
        asked = study.ask(math.ceil(left / max(1, math.ceil(left / size))))  # rounds of equal size
        if asked:
            _train_round(job, study, asked)
        elif study.is_done:
            return
        else:  # others are at work, and may die
            time.sleep(POLL_SECONDS)


def _train_round(job: _Job, study: Study, asked: list[Trial]) -> None:
    started = time.perf_counter()
    options: dict[str, Any] = {"load": job.load, "training": job.training, "task": job.task, "stop": job.stop}
    for event in run_round(job.search, asked, metric=job.goal.metric, sign=job.goal.sign, **options):
        if isinstance(event, Rung):
            study.report(event.trial.number, event.epoch, event.value)
        else:
            _tell(job, study, event)
    if job.stop():
        return
    order = ranked(study.trials(), job.goal.sign)
    best = f"; the best so far {job.goal.cells(order[0].value)[0]}, trial {order[0].number}" if order else ""
    seconds = time.perf_counter() - started
    job.terminal.say(f"{len(order)} of {job.search.trials} trials ({len(asked)} in {seconds:.1f} s){best}")


def _tell(job: _Job, study: Study, end: End) -> None:
    """What becomes of a trial that has ended: weights, curves, and last of all the study."""
    number, sign, most = end.trial.number, job.goal.sign, job.search.keep
    if job.training.write_member is not None and end.outcome == "complete":
        write = functools.partial(job.training.write_member, end.group, end.index, end.experiment)
        ending = dataclasses.replace(end.trial, state="complete", value=end.value)
        keep(job.folder, study.trials(), ending, sign, most, write)
    history = end.group.members[end.index].history
    log_trial(job.folder, number, end.trial.params, history, success=end.outcome != "diverged")
    value = end.value if end.outcome == "complete" else None
    facts = {"epochs": end.epochs, "steps": end.steps, "num_steps": end.num_steps, "seconds": end.seconds}
    if not study.finish(number, end.outcome, value, **facts):
        job.terminal.warn(f"trial {number} took so long that another worker has it now; this result is left out")
    drop(job.folder, study.trials(), sign, most)


def _conclude(job: _Job, trials: Sequence[Trial], done: bool) -> SearchResult:
    """Write what was found, and once all trials have ended train the winner. One worker does it.

    Who has seen the last trial end waits for one that writes: it may have been stopped before, and train no winner.
    """
    summary: dict[str, Any] = {**sum_up(job.search, trials, job.goal), "done": done, "winner": None}
    result = SearchResult(job.folder, job.search, trials, summary)
    while True:
        with alone(job.folder / "results.lock") as held:
            if held:
                if done or not _is_concluded(job.folder, summary):  # who was stopped may come here last
                    _write_results(job, result, summary)
                return result
        if not done or _is_concluded(job.folder, summary) or job.stop():
            job.terminal.say(f"another worker writes the results into {job.folder}")
            return result
        time.sleep(POLL_SECONDS)


def _is_concluded(folder: Path, summary: Mapping[str, Any]) -> bool:
    """Whether another worker has written the results of all these trials, of which it then trains the winner."""
    written = read_json(folder / "search.json") or {}
    return bool(written.get("done")) and written.get("num_trials", 0) >= summary["num_trials"]


def _write_results(job: _Job, result: SearchResult, summary: dict[str, Any]) -> None:
    """The files of the search, then the winner, whose result is added to `summary`."""
    search, goal, done = job.search, job.goal, summary["done"]
    write_findings(job.folder, search, result.trials, goal, summary)
    show(job.terminal, search, summary, goal)
    if done and not summary["best"]:
        raise NonFiniteError(f"all {search.trials} trials diverged; search lower rates (hyper.learning_rate)")
    if done and search.winner_seeds:
        best = summary["best"][0]
        job.terminal.say(f"the winner, trial {best['number']}, over {search.winner_seeds} seeds that no trial had:")
        options: dict[str, Any] = {"data": job.given, "task": job.task, "stop": job.stop}
        summary["winner"] = train_winner(
            job.folder, best, result.best, search.winner_seeds, fit=job.training.fit, **options
        )
        write_json(job.folder / "search.json", summary)
        show_winner(job.terminal, summary["winner"], job.folder)


def _describe(search: Search, goal: Goal, data: Data) -> dict[str, Any]:
    """What all workers of a search must agree on."""
    return {
        "experiment": to_json(search.experiment),
        "space": {name: domain(member) for name, member in search.space.items()},
        "seed": search.seed,
        "sampler": encode(search.sampler),
        "halving": None if search.halving is None else dataclasses.asdict(search.halving),
        "metric": goal.metric,
        "data": data.info.sha256,
    }


def _announce(job: _Job, study: Study, storage: str | None) -> None:
    search, terminal = job.search, job.terminal
    log_space(job.folder, {name: domain(member) for name, member in search.space.items()}, job.goal.metric)
    terminal.say(f"search folder: {job.folder}\ntensorboard --logdir {job.folder}")
    if storage is None:
        terminal.say(f"optuna-dashboard {job.folder / JOURNAL}")
    ended = sum(trial.scored for trial in study.trials())
    terminal.say(f"{search.trials} trials over {', '.join(search.space)}" + (f"; {ended} have ended" if ended else ""))
    if search.sampler == "random":
        chance = f"1 - 0.95^{search.trials} = {100 * (1 - 0.95**search.trials):.0f} %"
        terminal.say(f"the best of so many random trials is in the best 5 % of the space with probability {chance}")
    for name in search.space:
        if is_static(search, name) and not isinstance(search.space[name], Choice):
            terminal.warn(f"each value of {name} compiles a program of its own; a Choice of a few costs less")
