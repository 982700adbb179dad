"""What TensorBoard shows of a search: the HPARAMS tab, and the curves of each trial.

Imports events, hparams and nothing of training. The fact that surprises: a trial is written when it has ended, in one
go. Until then its numbers are in the study, where a killed worker leaves nothing half done.

    events...          the columns of the table
    trials/0007/       its values, and how it ended
    trials/0007/train/, trials/0007/val/   its curves
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.events import EventWriter
from jaxtrain.hparams import Space, experiment, session_end, session_start

SPLITS = ("train", "val")


def log_space(folder: Path, space: Space, metric: str) -> None:
    """The columns of the HPARAMS table, once a folder.

    Args:
      folder: of the search.
      space: as `hparams.experiment` takes it.
      metric: name of the watched one; the loss is shown beside it.
    """
    if next(folder.glob("events.*"), None) is None:
        metrics = [f"{split}/{name}" for name in dict.fromkeys((metric, "loss")) for split in reversed(SPLITS)]
        with EventWriter(folder) as writer:
            writer.put(experiment(space, metrics))


def log_trial(
    folder: Path, number: int, params: Mapping[str, Any], history: Sequence[Mapping[str, float]], *, success: bool
) -> None:
    """A trial that has ended: its row of the table and its curves.

    Args:
      folder: of the search.
      number: of the trial.
      params: name -> value or label.
      history: a row an evaluation: "step", "val/accuracy", ...
      success: False where it has diverged.
    """
    place = _place(folder, number)
    with EventWriter(place) as writer:
        writer.put(session_start(params))
        writer.put(session_end(success))
    for split in SPLITS:
        with EventWriter(place / split) as writer:
            for row in history:
                prefix = f"{split}/"
                values = {name.removeprefix(prefix): v for name, v in row.items() if name.startswith(prefix)}
                writer.scalars(values, int(row["step"]))


def forget_trial(folder: Path, number: int) -> None:
    """Remove the curves of a trial that is not to be shown, for it is asked again under another number."""
    shutil.rmtree(_place(folder, number), ignore_errors=True)


def _place(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04d}"
