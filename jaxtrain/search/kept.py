"""The weights of the best trials, one run folder each, for an ensemble or a closer look.

Imports trials. The fact that surprises: weights are written before the study hears of the trial.
A worker that is killed between the two leaves a folder too many, which the next one deletes, and never one too few.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtrain.search.trials import Trial, ranked


def keep(
    folder: Path, trials: Sequence[Trial], ending: Trial, sign: int, most: int, write: Callable[[Path], None]
) -> None:
    """Write the weights of a trial that ends, where it is among the best.

    Args:
      folder: of the search.
      trials: all of the study.
      ending: the one that ends, complete, with its value.
      sign: 1 where a larger value is better, -1 where a smaller one is.
      most: trials whose weights are kept.
      write: writes the run into a folder that does not exist yet.
    """
    others = [trial for trial in trials if trial.number != ending.number]
    if ending in _complete([*others, ending], sign)[:most]:
        place = weights_folder(folder, ending.number)
        shutil.rmtree(place, ignore_errors=True)
        write(place)


def drop(folder: Path, trials: Sequence[Trial], sign: int, most: int) -> None:
    """Delete the weights of trials that are no longer among the best. None of them can come back among them."""
    staying = {trial.number for trial in _complete(trials, sign)[:most]}
    for place in (folder / "best").glob("[0-9]*"):
        number = int(place.name) if place.name.isdigit() else len(trials)
        if number < len(trials) and number not in staying and trials[number].state != "running":
            shutil.rmtree(place, ignore_errors=True)  # another worker may be at it too


def weights_folder(folder: Path, number: int) -> Path:
    """The run folder of a trial."""
    return folder / "best" / f"{number:04d}"


def _complete(trials: Sequence[Trial], sign: int) -> list[Trial]:
    return [trial for trial in ranked(trials, sign) if trial.state == "complete"]
