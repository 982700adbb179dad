"""The winner of a search: the best trial, trained again over seeds of its own and scored on the test split.

Imports config, data, the folder and files. The fact that surprises: as a rule the winner's validation score is lower
than its trial's. The best of many trials owes a part of its score to luck, and the seed that it had is not used again.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtrain.config import Experiment
from jaxtrain.data import Data
from jaxtrain.files import write_json
from jaxtrain.folder import read_config, read_json
from jaxtrain.types import Task


def train_winner(
    folder: Path,
    best: Mapping[str, Any],
    experiment: Experiment,
    num_seeds: int,
    *,
    fit: Callable[..., Any],
    data: Data | None = None,
    task: Task | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Train the best trial over seeds that no trial had, or read it where that is done.

    Args:
      folder: of the search; the run lies in winner/, what it is in winner.json.
      best: "number" and "params" of the best trial.
      experiment: of that trial.
      num_seeds: seeds to train over.
      fit: as `run.fit`.
      data: instead of that of the experiment.
      task: by default that of the data.
      stop: asked after each chunk of steps.

    Returns:
      trial, params, seeds, and "interval": split -> metric -> mean, std, low, high; None where it was stopped.
    """
    seeds = [experiment.seed + 1 + index for index in range(num_seeds)]
    wanted = {"trial": best["number"], "params": dict(best["params"]), "seeds": seeds}
    place, note = folder / "winner", folder / "winner.json"
    before = read_json(note) or {}
    if {name: before.get(name) for name in wanted} != wanted:
        _set_aside(place, before)
        write_json(note, wanted)
    elif "interval" in before:
        return before
    stored = read_config(place)
    run = fit(
        experiment.model,
        experiment.data if data is None else data,
        experiment.config,
        experiment.hyper,
        seeds=seeds,
        # A search may go on with another one, a run may not: it keeps the one that it began with.
        parallel=(stored or {}).get("parallel", experiment.parallel),
        task=task,
        workdir=place,
        resume=stored is not None,
        quiet=True,
        stop=stop,
    )
    if run.summary["status"] == "stopped":
        return None
    result = {**wanted, "interval": run.summary["interval"]}
    write_json(note, result)
    return result


def _set_aside(place: Path, before: Mapping[str, Any]) -> None:
    """Make room: the winner of fewer trials keeps its result under another name."""
    if place.exists():
        stem = f"winner-of-trial-{before.get('trial', 'unknown')}"
        names = (place.with_name(f"{stem}{suffix}") for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
        place.rename(next(name for name in names if not name.exists()))
