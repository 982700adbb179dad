"""The trials of a search in Optuna's storage, asked and told by any number of processes.

Imports the space, trials, workers and the storage; Optuna in the functions that need it. The fact that surprises:
nothing here waits for a lock of ours. Optuna numbers trials one after another and finishes each once, and all decisions
follow from that: of two who ask for the last trial the one with the larger number gives it back, and of two who repeat
a lost trial the one with the smaller number counts.

What Optuna stores of a trial besides its values, as user attributes:

    worker     who runs it
    outcome    complete, pruned, diverged, surplus; a failed trial without one was lost with its worker
    again      the number of the lost trial that it repeats, and
    asked      the values of that one
    epochs, steps, num_steps, seconds   how far it was trained of what, and its share of the time

and of the study: `search`, what is searched, and for each worker its address and its heartbeat.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxtrain.errors import RequestError
from jaxtrain.files import jsonable
from jaxtrain.folder import differences
from jaxtrain.search.storage import create_study, storage_errors, storage_faults
from jaxtrain.search.trials import Trial
from jaxtrain.search.workers import Address, Heartbeat, Watch, Worker
from jaxtrain.space import Choice, Range, Search

if TYPE_CHECKING:
    import optuna


@contextlib.contextmanager
def open_study(
    search: Search,
    folder: Path,
    storage: str | None = None,
    *,
    sign: int,
    described: Mapping[str, Any],
    may_differ: Collection[str] = (),
    now: Callable[[], float] = time.monotonic,
) -> Iterator["Study"]:
    """Join the study of a search as one of its workers; it is made if there is none yet.

    On leaving, however that comes about, the trials that this worker has not finished are given back.

    Args:
      search: as `check_search` returns it.
      folder: of the search; its name is the study's. The workers' locks lie in it, and the journal by default.
      storage: as for `create_study`.
      sign: 1 where a larger value is better, -1 where a smaller one is.
      described: what is searched, as JSON: all workers must say the same.
      may_differ: names in `described` that need not be the same.
      now: the clock by which workers of other machines are judged.

    Raises:
      RequestError: the storage holds another search of this name, or `storage` is none.
      WorldError: the storage cannot be reached or written, now or later.
    """
    found = create_study(folder, storage, "maximize" if sign > 0 else "minimize")
    with contextlib.ExitStack() as stack:
        stack.enter_context(storage_errors(folder, storage))
        _check_same(found, jsonable(described), may_differ, folder)
        worker = Worker(folder / "workers")
        stack.callback(worker.close)
        study = Study(found, search, worker, Watch(now))
        stack.callback(Heartbeat(study.beat).close)
        stack.callback(study.give_back)
        yield study


class Study:
    """A worker's view of a study; from `open_study`."""

    def __init__(self, study: "optuna.Study", search: Search, worker: Worker, watch: Watch):
        self.search, self.worker = search, worker
        self._study, self._watch = study, watch
        self._mine: dict[int, optuna.Trial] = {}
        self._first: int | None = None
        study.set_user_attr(f"address:{worker.name}", list(worker.address))

    def beat(self, count: int) -> None:
        """Tell the others that this worker is alive."""
        # A database that is away for a moment costs a beat, not the search.
        with contextlib.suppress(*storage_faults(), OSError):
            self._study.set_user_attr(f"beat:{self.worker.name}", count)

    def ask(self, count: int) -> list[Trial]:
        """Up to `count` trials to run now: lost ones again, then new ones; none where all have been given out."""
        asked: list[Trial] = []
        while len(asked) < count and self.left > 0:
            trial = self._ask_one()
            asked += [] if trial is None else [trial]
        return asked

    def report(self, number: int, epoch: int, value: float) -> None:
        """The value of a trial at a rung."""
        with self._unless_finished(number):
            self._mine[number].report(value, epoch)

    def finish(
        self,
        number: int,
        outcome: Literal["complete", "pruned", "diverged", "surplus"],
        value: float | None = None,
        **facts: float,
    ) -> bool:
        """Tell how a trial ended.

        Args:
          number: of a trial that this worker asked.
          outcome: a pruned one has the value that was last reported.
          value: of a complete one.
          facts: epochs, steps, num_steps, seconds.

        Returns:
          False where this worker was taken for dead meanwhile and the trial is another's now.
        """
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        trial = self._mine.pop(number)
        with self._unless_finished(number):
            for name, fact in {"outcome": outcome, **facts}.items():
                trial.set_user_attr(name, fact)
            self._study.tell(number, value, state=states.get(outcome, TrialState.FAIL))
            return True
        return False

    def give_back(self) -> None:
        """Queue what this worker has not finished, for others or for later."""
        for number in list(self._mine):
            del self._mine[number]
            self._lose(number)
        self._repeat_lost()

    def sweep(self) -> list[int]:
        """Queue the trials of dead workers; their numbers."""
        lost = [trial.number for trial in self.trials() if trial.state == "running" and self._is_orphan(trial)]
        for number in lost:
            self._lose(number)
        self._repeat_lost()
        return lost

    @property
    def is_done(self) -> bool:
        """Whether all trials of the search have been given out, and each has ended, if need be repeated."""
        trials = self.trials()
        going_on = any(trial.state in ("running", "waiting") for trial in trials) or _unrepeated(trials)
        return _num_asked(trials) >= self.search.trials and not going_on

    @property
    def left(self) -> int:
        """How many trials can still be asked."""
        trials = self.trials()
        return sum(trial.state == "waiting" for trial in trials) + max(0, self.search.trials - _num_asked(trials))

    def trials(self) -> list[Trial]:
        """All trials, in order."""
        return [_trial(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def _ask_one(self) -> Trial | None:
        """The next trial, or None where it turned out to be one too many."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's word on what is experimental
            trial = self._study.ask()
            trial.set_user_attr("worker", self.worker.name)
            self._mine[trial.number] = trial
            if self._is_surplus(trial.number):
                self.finish(trial.number, "surplus")
                return None
            self._first = trial.number if self._first is None else self._first
            # Set between `ask` and the first suggestion: the number is known, and nothing is drawn yet.
            self._study.sampler = _sampler(self.search, _place(self.trials(), trial.number), self._first)
            for name, member in self.search.space.items():
                _suggest(trial, name, member)
        return self.trials()[trial.number]

    def _is_surplus(self, number: int) -> bool:
        """Whether trial `number` is one more than was wanted, or the second to repeat the same lost one."""
        trials = self.trials()
        again = trials[number].again
        if again is None:
            return _num_asked(trials[:number]) >= self.search.trials
        return trials[again].state != "lost" or again in _repeated(trials[:number])

    def _is_orphan(self, trial: Trial) -> bool:
        """Whether the worker of a running trial is dead."""
        if trial.number in self._mine:
            return False
        if not trial.worker:  # died between asking and saying its name, or is about to say it
            return self._watch.is_dead(f"trial {trial.number}", None, 0)
        known = self._study.user_attrs
        address = known.get(f"address:{trial.worker}")
        return self._watch.is_dead(
            trial.worker, Address(*address) if address else None, known.get(f"beat:{trial.worker}")
        )

    def _lose(self, number: int) -> None:
        """Mark a running trial as lost."""
        from optuna.trial import TrialState

        with self._unless_finished(number):
            self._study.tell(number, state=TrialState.FAIL)

    def _repeat_lost(self) -> None:
        """Queue lost trials, also those of a worker that died before it came to this."""
        for trial in _unrepeated(self.trials()):
            # Of incomplete draws none is kept: what is given is not drawn, and the rest would come out otherwise.
            values = dict(trial.params) if self.search.space.keys() <= trial.params.keys() else {}
            self._study.enqueue_trial(values, user_attrs={"again": trial.number, "asked": values})

    @contextlib.contextmanager
    def _unless_finished(self, number: int) -> Iterator[None]:
        """Nothing where another worker has finished the trial meanwhile."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            yield
        except (UpdateFinishedTrialError, ValueError):  # the second is `tell`'s word for a trial that is not running
            if self.trials()[number].state == "running":
                raise


def _check_same(study: "optuna.Study", described: dict[str, Any], may_differ: Collection[str], folder: Path) -> None:
    """Raise RequestError if the study is that of another search; a new one becomes that of this."""
    if "search" not in study.user_attrs:
        study.set_user_attr("search", described)
    different = differences(study.user_attrs["search"], described, may_differ)
    if different:
        raise RequestError(
            f"{folder} holds another search: {'; '.join(different[:5])}."
            " Repeat the stored value, or start a new search in another folder"
        )


def _num_asked(trials: Sequence[Trial]) -> int:
    """How many of the search's trials have been given out; one that was lost and repeated is one."""
    return sum(trial.again is None and trial.state != "surplus" for trial in trials)


def _place(trials: Sequence[Trial], number: int) -> int:
    """A trial's place among those that repeat none, one that repeats another being in the place of that.

    By this and not by the number: what is lost does not move the draws of what comes after.
    """
    again = trials[number].again
    if again is not None:
        return _place(trials, again)
    return sum(other.again is None for other in trials[:number])


def _repeated(trials: Sequence[Trial]) -> set[int | None]:
    """Numbers of the lost trials that others repeat."""
    return {trial.again for trial in trials if trial.state != "surplus"}


def _unrepeated(trials: Sequence[Trial]) -> list[Trial]:
    """Lost trials that none repeats yet."""
    repeated = _repeated(trials)
    return [trial for trial in trials if trial.state == "lost" and trial.number not in repeated]


def _trial(frozen: "optuna.trial.FrozenTrial") -> Trial:
    """A trial as Optuna has it, in our words."""
    attrs: dict[str, Any] = frozen.user_attrs
    state: Any = frozen.state.name
    return Trial(
        number=frozen.number,
        params={**attrs.get("asked", {}), **frozen.params},
        # A worker may die between writing the outcome and telling it: only what ends as a failure is one then.
        state=_failure(attrs.get("outcome")) if state == "FAIL" else state.lower(),
        value=frozen.value if state in ("COMPLETE", "PRUNED") else None,
        worker=attrs.get("worker", ""),
        again=attrs.get("again"),
        rungs=dict(sorted(frozen.intermediate_values.items())),
        **{name: attrs[name] for name in ("epochs", "steps", "num_steps", "seconds") if name in attrs},
    )


def _failure(outcome: str | None) -> Any:
    return outcome if outcome in ("diverged", "surplus") else "lost"


def _suggest(trial: "optuna.Trial", name: str, member: Range | Choice) -> Any:
    if isinstance(member, Choice):
        return trial.suggest_categorical(name, member.labels())
    if member.integer:
        return trial.suggest_int(name, int(member.low), int(member.high), log=member.log)
    return trial.suggest_float(name, member.low, member.high, log=member.log)


def _sampler(search: Search, place: int, first: int) -> Any:
    """The sampler of one trial. Draws are derived and not carried: from the search's seed and the trial's place.

    So no two workers draw the same, and one worker or ten draw the same random trials. A low-discrepancy sequence is
    one only as a whole, so each worker has its own, named by the first trial that it asked.
    """
    from optuna.samplers import QMCSampler, RandomSampler, TPESampler

    seed, sequence = (int(np.random.SeedSequence([search.seed, n]).generate_state(1)[0]) for n in (place, first))
    if callable(search.sampler):
        return search.sampler(seed)
    if search.sampler == "tpe":
        # A round is asked before any of it is told: constant_liar keeps its trials apart.
        return TPESampler(multivariate=True, constant_liar=True, seed=seed)
    if search.sampler == "qmc":
        options: dict[str, Any] = {"independent_sampler": RandomSampler(seed), "warn_independent_sampling": False}
        return QMCSampler(scramble=True, seed=sequence, **options)
    return RandomSampler(seed)
