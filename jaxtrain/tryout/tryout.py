"""Remedies beside a control: all are trained alike for a short while.

Imports `run`, remedies and what judges them. The fact that surprises: what was trained is found again. tried.json has
each trial with all that it depends on, so the same request goes on where it was interrupted.
"""

import contextlib
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtrain.config import Experiment
from jaxtrain.configfile import encode, to_json
from jaxtrain.data import Data
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.files import lock_folder, probe_writable, write_json
from jaxtrain.folder import flat, read_json
from jaxtrain.program import watched
from jaxtrain.request import check_request, check_seeds, check_values
from jaxtrain.result import Run
from jaxtrain.run import fit
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.tryout.judge import Trial, Tryout, judge
from jaxtrain.tryout.remedies import Remedy
from jaxtrain.tryout.short import shorten
from jaxtrain.types import Task

SHARE = 1 / 3
"""Of the run's steps, that each remedy is trained for."""
CONTROL = "control"
SPLITS = ("train", "val")


def try_remedies(
    experiment: Experiment,
    data: Data,
    remedies: Sequence[Remedy],
    *,
    seeds: Iterable[int],
    share: float = SHARE,
    workdir: str | Path | None = None,
    terminal: Terminal | None = None,
    task: Task | None = None,
    init_from: str | Path | Run | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Tryout:
    """Train the control and each remedy for a share of the run's steps, and compare them on the validation split.

    The two best that helped and that change different things are tried together at the end. Remedies that differ in
    numbers alone share a compiled program; seeds are members of one. Nothing is scored on the test split.

    Args:
      experiment: that of the run.
      data: what it names, or was trained on; its validation split scores everything.
      remedies: from `remedies`, or your own.
      seeds: of the control and of every remedy.
      share: of the run's steps, in (0, 1]: the most that any trial takes.
      workdir: tried.json is written there after each trial. What is in it of the same experiment, data and seeds is not
        trained again, so what was interrupted goes on where it was (but for networks and functions of the user's own,
        which may have changed since); anything else in it is replaced.
      terminal: told how it goes; None: nobody is.
      task: where it is the user's own.
      init_from: the run whose weights the run began with.
      stop: asked after each chunk of steps; True ends it with what has been tried so far.

    Returns:
      All that was tried; `stopped` if `stop` ended it.

    Raises:
      RequestError: no remedies, no seeds, or an experiment or share that cannot be trained; nothing is trained then. A
        remedy that cannot be trained is no error, and `left_out` says why.
      WorldError: `workdir` is in use or cannot be written.
    """
    bench = _Bench(experiment, data, check_seeds(seeds), share, task, init_from, stop, terminal)
    if not remedies:
        raise RequestError("there are no remedies to try; give at least one")
    if len({remedy.name for remedy in remedies} | {CONTROL}) <= len(remedies):
        raise RequestError(f"two remedies have the same name, or one is called {CONTROL!r}; give each its own")
    bench.check(experiment)
    ready, left_out = [], {}
    for remedy in remedies:
        try:
            bench.check(remedy.change(experiment))
            ready.append(remedy)
        except RequestError as error:
            left_out[remedy.name] = str(error)
    if not ready:
        raise RequestError(f"no remedy can be trained: {'; '.join(left_out.values())}; give others")
    with contextlib.ExitStack() as stack:
        book = _open_book(stack, workdir)
        return _tried(bench, ready, left_out, book)


def _tried(bench: "_Bench", ready: Sequence[Remedy], left_out: Mapping[str, str], book: "_Book") -> Tryout:
    """The control, the remedies one after another, and the best two together."""
    terminal, count = bench.terminal, len(ready)
    control = bench.train(Remedy(CONTROL, lambda same: same), book)
    if control is None:
        raise WorldError("stopped before the control was trained, so there is nothing to compare with; repeat it")
    metric, sign = bench.metric(control)
    tryout = Tryout(control, (), metric, sign, bench.seeds, bench.share, left_out)
    terminal.say(
        f"trying {count} remedies beside a control, {len(bench.seeds)} seeds each, {control.steps} steps in the place"
        f" of {bench.whole_steps}; the control took {control.seconds:.0f} s"
    )
    for number, remedy in enumerate(ready, start=1):
        tryout = _add(bench, tryout, remedy, book)
        if tryout.stopped:
            return tryout
        terminal.say(f"  {number}/{count} {_in_short(tryout, remedy)}")
    pair = _pair(tryout)
    if pair is None:
        return tryout
    first, then = (next(remedy for remedy in ready if remedy.name == name) for name in pair)
    both = Remedy(f"{first.name} and {then.name}", lambda whole: then.change(first.change(whole)), first.finding)
    tryout = _add(bench, tryout, both, book, pair)
    if not tryout.stopped:
        terminal.say(f"  together {_in_short(tryout, both)}")
    return tryout


def _add(bench: "_Bench", tryout: Tryout, remedy: Remedy, book: "_Book", parts: tuple[str, ...] = ()) -> Tryout:
    """`tryout` with one trial more, or with why there is none: too little memory, say, for a wider network."""
    try:
        trial = bench.train(remedy, book)
    except (RequestError, WorldError) as error:
        return dataclasses.replace(tryout, left_out={**tryout.left_out, remedy.name: str(error)})
    if trial is None:
        tryout = dataclasses.replace(tryout, stopped=True)
    else:
        tryout = dataclasses.replace(tryout, trials=(*tryout.trials, dataclasses.replace(trial, parts=parts)))
    book.write(tryout)
    return tryout


def _in_short(tryout: Tryout, remedy: Remedy) -> str:
    if remedy.name in tryout.left_out:
        return f"{remedy.name}: not tried"
    return f"{remedy.name}: {judge(tryout.trials[-1], tryout.control, tryout.metric, tryout.sign).verdict}"


def _pair(tryout: Tryout) -> tuple[str, str] | None:
    """The best remedy, and the next best that helped and touches nothing of what the best one does."""
    helped = [each.trial for each in tryout.judged() if each.verdict == "helped"]
    touched = {trial.name: _touched(tryout, trial) for trial in helped}
    pairs = [(helped[0].name, other.name) for other in helped[1:]]
    return next(((best, other) for best, other in pairs if not touched[best] & touched[other]), None)


def _touched(tryout: Tryout, trial: Trial) -> set[str]:
    """Paths of the fields that a trial changes."""
    old, new = flat(to_json(tryout.control.experiment)), flat(to_json(trial.experiment))
    return {name for name in {**old, **new} if old.get(name) != new.get(name)}


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all trials have in common."""

    experiment: Experiment
    data: Data
    seeds: tuple[int, ...]
    share: float
    task: Task | None
    init_from: str | Path | Run | None
    stop: Callable[[], bool]
    shown: Terminal | None

    @property
    def terminal(self) -> Terminal:
        return Terminal(quiet=True) if self.shown is None else self.shown

    @property
    def whole_steps(self) -> int:
        config = self.experiment.config
        return config.epochs * (self.data.num_train // config.batch_size)

    def check(self, changed: Experiment) -> None:
        """Raise RequestError where `changed` cannot be trained."""
        check_values(changed.config, changed.hyper)
        short, data = shorten(changed, self.experiment, self.data, self.share)
        check_request(make_setting(short.model, data, short.config, self.task), data, short.hyper)
        if data.info.num_classes is None and changed.hyper.label_smoothing != self.experiment.hyper.label_smoothing:
            raise RequestError("labels are smoothed over classes, and these are numbers")

    def metric(self, control: Trial) -> tuple[str, int]:
        """The watched metric and its sign; of a control without a seed left it is not known what its task measures."""
        names = {name for scores in control.scores.values() for name in scores["val"]}
        if names:
            return watched(self.experiment.config.watch, names)
        return ("loss", -1) if self.data.info.num_classes is None else ("accuracy", 1)

    def train(self, remedy: Remedy, book: "_Book") -> Trial | None:
        """A remedy over all seeds, or what the book has of it; None where it was stopped."""
        changed = remedy.change(self.experiment)
        short, data = shorten(changed, self.experiment, self.data, self.share)
        asked = {"short": to_json(short), "seeds": list(self.seeds), "num_train": data.num_train}
        asked |= {"sha256": data.info.sha256, "data": encode(changed.data), "init_from": str(self.init_from)}
        known = book.find(asked)
        steps = short.config.epochs * (data.num_train // short.config.batch_size)
        trial = Trial(remedy.name, remedy.finding, changed, {}, self.seeds, short.config.epochs, steps, 0.0)
        if known is not None:
            return dataclasses.replace(trial, **known)
        began = time.perf_counter()
        summaries = self._fitted(short, data)
        if summaries is None:
            return None
        living = {row["seed"]: row for row in summaries if self._lives(row)}
        trial = dataclasses.replace(
            trial,
            scores={seed: {split: dict(row[split]) for split in SPLITS} for seed, row in living.items()},
            diverged=tuple(seed for seed in self.seeds if seed not in living),
            seconds=time.perf_counter() - began,
        )
        book.note(trial, asked)
        return trial

    def _lives(self, row: Mapping[str, Any]) -> bool:
        """Whether a seed has scores to compare. A loss of validation may overflow where that of training does not."""
        if row["status"] == "diverged":
            return False
        shown = {"loss", watched(self.experiment.config.watch, row["val"])[0]}
        return all(math.isfinite(row["val"][name]) for name in shown)

    def _fitted(self, short: Experiment, data: Data) -> list[Mapping[str, Any]] | None:
        """Summaries of the members; none where all diverged, None where it was stopped."""
        # That a member diverged is a result here, and no warning.
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                runs = fit(
                    short.model,
                    data,
                    short.config,
                    short.hyper,
                    seeds=self.seeds,
                    parallel=short.parallel,
                    task=self.task,
                    init_from=self.init_from,
                    report=False,
                    quiet=True,
                    stop=self.stop,
                )
            except NonFiniteError:
                return []
        if runs.summary["status"] == "stopped":
            return None
        return [run.summary for run in runs.members]


class _Book:
    """tried.json: what has been tried is written after each trial, and found again; without a folder neither."""

    def __init__(self, folder: Path | None):
        self._path = None if folder is None else folder / "tried.json"
        before = None if self._path is None else read_json(self._path)
        self._known: list[dict[str, Any]] = (before or {}).get("asked", [])
        self._asked: list[dict[str, Any]] = []

    def find(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Scores, diverged seeds and seconds of the same trial, where it was trained before."""
        known = next((old for old in self._known if {name: old.get(name) for name in asked} == asked), None)
        # Of a network or function of the user's JSON has only the name, and it may have been written anew since.
        if known is None or '"type": "user"' in json.dumps(asked):
            return None
        self._asked.append(known)
        return {
            "scores": {int(seed): scores for seed, scores in known["scores"].items()},
            "diverged": tuple(known["diverged"]),
            "seconds": known["seconds"],
        }

    def note(self, trial: Trial, asked: Mapping[str, Any]) -> None:
        """Keep what was trained, for the next `write` and the next time."""
        found = {name: getattr(trial, name) for name in ("scores", "diverged", "seconds")}
        self._asked.append({**asked, **found})

    def write(self, tryout: Tryout) -> None:
        if self._path is not None:
            write_json(self._path, {**tryout.to_json(), "asked": self._asked})


def _open_book(stack: contextlib.ExitStack, workdir: str | Path | None) -> _Book:
    if workdir is None:
        return _Book(None)
    folder = Path(workdir)
    probe_writable(folder)
    stack.enter_context(lock_folder(folder))
    return _Book(folder)
