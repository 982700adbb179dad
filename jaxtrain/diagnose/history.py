"""What is known of a training: its curves, looks and facts, from a run's folder or rows in the hand.

Imports folders and files. The fact that surprises: everything may be missing. A diagnosis says what can be said of what
is there, so a CSV of two columns is a history as good as a run's folder, with less in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import read_json_lines
from jaxtrain.folder import flat, read_config, read_json

Status = Literal["running", "done", "early stopping", "stopped", "diverged"]
Row = Mapping[str, float]

DIGITS = 5
"""Significant digits of a number in JSON: more than any rule reads."""

_FACTS = {
    "config.batch_size": "batch_size",
    "config.epochs": "epochs",
    "config.num_micro_batches": "num_micro_batches",
    "config.optimizer.type": "optimizer",
    "config.optimizer.decay": "decay",
    "config.schedule.kind": "schedule",
    "config.early_stopping.patience": "patience",
    "hyper.learning_rate": "learning_rate",
    "hyper.weight_decay": "weight_decay",
    "hyper.dropout_rate": "dropout_rate",
    "hyper.label_smoothing": "label_smoothing",
    "hyper.mixup": "mixup",
    "hyper.cutmix": "cutmix",
    "data.preprocess": "preprocess",
    "model.batch_norm": "batch_norm",
}
"""In config.json -> the fact."""
_WORDS = ("optimizer", "decay", "schedule", "preprocess")
"""Facts that are words; the others are numbers or flags, and what a file has in their place is not known."""


@dataclass(frozen=True, eq=False)
class History:
    """A training as it was recorded, finished or not.

    Attributes:
      rows: an evaluation each, oldest first: step or epoch or both, and curves by name: train/loss, val/loss,
        train/accuracy, val/accuracy (in [0, 1]), train/mse...; train_label_rank and val_label_rank.
      points: log points: step, train/step_loss (training mode, running mean since the last one), learning_rate.
      looks: close looks at a step, as in `Probe.scalars`: gradient_norm, update_ratio/LAYER, dead_units/LAYER...
      facts: what is known beside: num_classes, num_train, num_val, num_test, chance_loss, chance_accuracy,
        kernel_accuracy or kernel_mse (on the validation split, see `jaxtrain.kernel_ridge`), batch_size, epochs
        (planned), learning_rate, optimizer, schedule, weight_decay, dropout_rate, preprocess, batch_norm.
      test: scores on the test split, where there are any.
      status: whether it goes on.
      note: what happened to one that diverged.
      name: for the reader.
    """

    rows: Sequence[Row]
    points: Sequence[Row] = ()
    looks: Sequence[Row] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    status: Status = "done"
    note: str = ""
    name: str = ""

    def curve(self, name: str) -> np.ndarray:
        """f64[number of rows], NaN where a row has none; empty if none has."""
        return _column(self.rows, name)

    def seen(self, name: str) -> np.ndarray:
        """A number of the looks, f64[number of looks], NaN where it is missing; empty if none has it."""
        return _column(self.looks, name)

    def layers(self, group: str) -> dict[str, np.ndarray]:
        """Layer -> its number in each look, of update_ratio, gradient_norm or dead_units; from first to last layer as
        they are named."""
        names = dict.fromkeys(name for look in self.looks for name in look if name.startswith(f"{group}/"))
        return {name.partition("/")[2]: self.seen(name) for name in names}

    @property
    def epochs(self) -> np.ndarray:
        """f64[number of rows]: the epoch of each, or its number where there are none."""
        given = self.curve("epoch")
        return given if len(given) and np.isfinite(given).all() else np.arange(1.0, len(self.rows) + 1)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, a list for each curve, numbers to a few digits."""
        tables = {name: _columns(getattr(self, name)) for name in ("rows", "points", "looks")}
        rest = {name: getattr(self, name) for name in ("facts", "test", "status", "note", "name")}
        return {**tables, **{name: value for name, value in rest.items() if value}}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "History":
        """The inverse of `to_json`, but for the digits."""
        tables = {name: _rows(value.get(name, {})) for name in ("rows", "points", "looks")}
        return History(**{**value, **tables})


def read_run(folder: Path) -> History:
    """The history of a run's folder, or of a member's, also while it goes on.

    Raises:
      RequestError: there is no run in it, or one that has recorded nothing yet.
      WorldError: a file cannot be read.
    """
    lines = read_json_lines(folder / "metrics.jsonl")
    if not lines:
        missing = "has recorded nothing yet" if folder.is_dir() else "does not exist"
        raise RequestError(f"{folder} {missing}; give the folder of a run, in which metrics.jsonl lies, or a CSV file")
    folder = folder.resolve()  # also where it is given from within members/
    home = folder.parent.parent if folder.parent.name == "members" else folder
    described, manifest = flat(read_config(home) or {}), read_json(home / "manifest.json") or {}
    summary = read_json(folder / "summary.json") or {}
    ended = next((line for line in reversed(lines) if line.get("kind") == "diverged"), None)
    status = "diverged" if ended is not None else summary.get("status", "running")
    try:
        return History(
            rows=[_numbers(line) for line in lines if line.get("kind") == "evaluation" and "val/loss" in line],
            points=[_numbers(line) for line in lines if "kind" not in line],
            looks=[_numbers(line) for line in lines if line.get("kind") == "look"],
            facts=_facts(described, manifest),
            test=_numbers(summary.get("test", {})),
            status=status,
            note="" if ended is None else str(ended["note"]),
            name=folder.name,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WorldError(f"{folder} has something that no run writes ({error!r}); restore its files") from None


def _facts(described: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    data = manifest.get("data", {})
    facts = {fact: described.get(name) for name, fact in _FACTS.items()}
    facts |= {name: data.get(name) for name in ("num_classes", "num_train", "num_val", "num_test")}
    chance = manifest.get("chance")
    if isinstance(chance, Mapping):  # 0 is unknown: the loss of a task of one's own is not that of so many classes
        facts |= {"chance_loss": 0.0, **{f"chance_{name}": value for name, value in chance.items()}}
    reference = manifest.get("kernel_ridge")
    if isinstance(reference, Mapping):
        facts |= {f"kernel_{name}": value for name, value in reference.items()}
    return {name: fact for name, fact in facts.items() if isinstance(fact, str if name in _WORDS else int | float)}


def read_members(folder: Path) -> dict[int, History]:
    """The histories of a run of several members, by number; empty for a single run."""
    places = sorted(place for place in (folder / "members").glob("[0-9]*") if place.name.isdecimal())
    return {int(place.name): read_run(place) for place in places if (place / "metrics.jsonl").exists()}


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """What of a line is a number; JSON has NaN and infinity as words here."""
    return {name: float(value) for name, value in line.items() if name != "kind" and not isinstance(value, bool)}


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    if not any(name in row for row in rows):
        return np.empty(0)
    return np.array([row.get(name, math.nan) for row in rows], float)


def _columns(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_short(row.get(name)) for row in rows] for name in names}


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, float]]:
    count = max(map(len, columns.values()), default=0)
    return [{name: float(values[i]) for name, values in columns.items() if values[i] is not None} for i in range(count)]


def _short(value: float | None) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if math.isinf(value):
        return str(value)
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short
