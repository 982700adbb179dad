"""Does a run still come out as it did? Steps from one of its checkpoints again, compared bit for bit.

Imports the loop and what lies below. The fact that surprises: nothing has to be recorded for this. A run is a function
of its config and seed, so any two checkpoints, or the first step and one checkpoint, are a test of the machine and of
the code that has changed since.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtrain.checkpoint import Store
from jaxtrain.config import DataConfig, Experiment
from jaxtrain.configfile import encode, from_json
from jaxtrain.data import Data, load_data
from jaxtrain.device import manifest
from jaxtrain.errors import RequestError
from jaxtrain.folder import changes_of_machine, read_config, read_manifest
from jaxtrain.layout import ALONE, Layout
from jaxtrain.leaves import described, named_leaves, to_host
from jaxtrain.log import Log, Logs
from jaxtrain.members import Group, make_group
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import checkpoint_tree, take_up, train
from jaxtrain.types import PyTree, Task


@dataclass(frozen=True)
class Repetition:
    """What came of repeating steps of a run, or of one group of its members."""

    folder: Path  # of the checkpoints
    first: int  # the step from which it was repeated; 0: from the beginning
    last: int
    twice: tuple[str, ...]  # arrays that differ between two repetitions
    stored: tuple[str, ...] | None  # arrays that differ from the checkpoint of step `last`; None: that has none

    @property
    def equal(self) -> bool:
        """Whether all that was compared is the same bit for bit."""
        return not self.twice and not self.stored


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    repetitions: tuple[Repetition, ...]
    changes: tuple[str, ...]  # of the machine since the run, as "versions.jax was 0.10.2, is 0.12.0"

    @property
    def equal(self) -> bool:
        """Whether everything came out as it did, bit for bit."""
        return all(one.equal for one in self.repetitions)


def verify(
    folder: str | Path,
    *,
    steps: int | None = None,
    data: Data | None = None,
    model: Any = None,
    task: Task | None = None,
    optimizer: Any = None,
    schedule: Any = None,
) -> Verification:
    """Repeat steps of a run twice, and compare the ends with each other and with the run's own checkpoint.

    From the newest checkpoint but one, or where there is none from the beginning, to the newest. Nothing in the folder
    is changed; the run may be finished or not, but it must not be going on.

    Args:
      folder: of the run.
      steps: how many to repeat at most; where that ends before the newest checkpoint only the two ends are compared.
      data: of a run on arrays, which its folder does not hold.
      model, task, optimizer, schedule: what of the run is the user's own; see `load_run`.

    Raises:
      RequestError: no run, no checkpoint, other data, or a part of the user's own that was not given.
      WorldError: a checkpoint is damaged.
    """
    folder = Path(folder)
    stored = read_config(folder)
    if stored is None:
        raise RequestError(f"{folder} holds no run (no config.json); name the folder of a run")
    if steps is not None and steps < 1:
        raise RequestError(f"{steps} steps were to be repeated; give at least 1")
    facts = read_manifest(folder)
    experiment, data = _read(folder, stored, facts, data, model=model, optimizer=optimizer, schedule=schedule)
    setting = make_setting(experiment.model, data, experiment.config, task)
    members = facts.get("members")
    layout = ALONE if members is None else Layout(**members)

    def begin(seeds: list[int]) -> Group:
        return make_group(setting, data, seeds, experiment.hyper, layout)

    places = sorted((folder / "checkpoints").glob("group-*")) or [folder / "checkpoints"]
    fresh = facts.get("init_from") is None
    done = [_repeat(place, begin, steps, fresh) for place in places if place.is_dir()]
    return Verification(tuple(done), tuple(changes_of_machine(folder, manifest())))


def _read(
    folder: Path, stored: Mapping[str, Any], facts: Mapping[str, Any], data: Data | None, **own: Any
) -> tuple[Experiment, Data]:
    """The experiment, and the data it was trained on."""
    if stored["data"].get("type") == "arrays":
        if data is None:
            raise RequestError(f"{folder} was trained on arrays, which it does not hold; give them as `data`")
        stored = {**stored, "data": encode(DataConfig())}
    experiment = from_json(stored, **own)
    data = load_data(experiment.data) if data is None else data
    trained_on = facts.get("data", {}).get("sha256", data.info.sha256)
    if trained_on != data.info.sha256:
        raise RequestError(
            f"{folder} was trained on other data (SHA-256 {trained_on[:12]}, now {data.info.sha256[:12]}); bring that"
            " data back"
        )
    return experiment, data


def _repeat(place: Path, begin: Callable[[list[int]], Group], steps: int | None, fresh: bool) -> Repetition:
    with Store(place, read_only=True) as store:
        held = store.steps()
        if not held or held == [0] or (len(held) == 1 and not fresh):
            what = "no checkpoint yet"
            if held:
                what = "only its beginning" if fresh else "one checkpoint, and began with the weights of another run"
            raise RequestError(f"{place} holds {what}; there is nothing to repeat")
        *before, target = held
        first = before[-1] if before else 0
        last = target if steps is None else min(first + steps, target)
        seeds = store.meta(target)["seeds"]

        def restored(step: int) -> PyTree:
            group = begin(seeds)
            found = store.restore(checkpoint_tree(group), step)
            assert found is not None
            return found.tree

        def repeated() -> dict[str, Any]:
            group = begin(seeds)
            if before:
                take_up(group, restored(first))
            silent = Logs(Log(None, Terminal(quiet=True)))
            train(group, log=silent, until=last, mark=True)
            return _records(checkpoint_tree(group))

        one, other = repeated(), repeated()
        stored = _differences(one, _records(restored(target))) if last == target else None
        return Repetition(place, first, last, _differences(one, other), stored)


def _records(tree: PyTree) -> dict[str, Any]:
    return {path: described(array) for path, array in to_host(named_leaves(tree)).items()}


def _differences(one: dict[str, Any], other: dict[str, Any]) -> tuple[str, ...]:
    return tuple(path for path in one if one[path] != other[path])
