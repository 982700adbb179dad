"""Curves that other programs wrote, as CSV: which column is what, and one row an evaluation.

Imports histories. The fact that surprises: a column's meaning depends on its neighbours. "accuracy" is of training
beside Keras's "val_accuracy", and of validation beside fastai's "train_loss".
"""

import csv
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

from jaxtrain.diagnose.history import History
from jaxtrain.errors import RequestError, WorldError

_SPLITS = {
    "val": ("val", "valid", "validation", "eval", "dev"),
    "test": ("test",),
    "train": ("train", "training", "tr"),
}
_METRICS = {
    "loss": ("loss", "nll", "crossentropy", "logloss", "ce", "mse", "rmse", "mae", "error", "deviance"),
    "accuracy": ("accuracy", "acc", "top1"),
    "learning_rate": ("lr", "learningrate"),
}
_NOT_OF_AN_EPOCH = ("step", "std", "time", "min", "max")
"""How a column ends that is no curve: Lightning's train_loss_step, that of one batch; W&B's loss__MIN."""
_MANY_ROWS = 4
"""Evaluations from which on training losses logged between them are gathered to one a row."""

_BLOCKS = 100
"""Rows that are made of a long curve without epochs."""


def read_csv(path: Path) -> History:
    """Curves of another program: a column each, a row an epoch (or several, each with some of the columns).

    Known are the names that Keras, Lightning, the Transformers library, fastai and scikit-learn's users give: epoch,
    step; loss, val_loss, train_loss, eval_loss, valid_acc, accuracy (in [0, 1] or percent), lr... A first column
    without a name is the epoch, where no other is. Where no column is of validation, "test" is taken for it.

    Raises:
      RequestError: no column is a loss, or fewer than two rows have one.
      WorldError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise WorldError(f"cannot read {path}: {error}") from None
    try:
        dialect = csv.Sniffer().sniff(text[:4096], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    try:
        lines = [line for line in csv.reader(text.splitlines(), dialect) if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise RequestError(f"{path} is no table of curves: {error}") from None
    names = column_names(lines[0]) if lines else []
    if not any(name is not None and name.endswith("/loss") for name in names):
        given = ", ".join(lines[0]) if lines else "nothing"
        raise RequestError(
            f"{path} has no column of a loss; it has {given}. Name the columns as in epoch, loss, val_loss, accuracy,"
            " val_accuracy"
        )
    rows = _merged([_cells(names, line) for line in lines[1:]])
    lost = list(itertools.takewhile(lambda row: not row.keys() - {"epoch", "step"}, reversed(rows)))
    merged = _gathered(rows[: len(rows) - len(lost)])
    if sum("train/loss" in row or "val/loss" in row for row in merged) < 2:
        raise RequestError(
            f"{path} has fewer than two rows with a loss; a diagnosis needs a curve (an empty cell may have been NaN,"
            " which pandas writes so)"
        )
    if len(lost) > 1:
        merged += [{**row, "train/loss": math.nan} for row in reversed(lost)]
    if any(value > 1.5 for row in merged for name, value in row.items() if name.endswith("/accuracy")):
        merged = [
            {name: value / 100 if name.endswith("/accuracy") else value for name, value in row.items()}
            for row in merged
        ]
    note = "from there on its cells are empty, and pandas writes NaN so" if len(lost) > 1 else ""
    return History(rows=merged, note=note, name=path.stem)


def column_names(given: Sequence[str]) -> list[str | None]:
    """Of a whole header, for a name's meaning depends on its neighbours; each name once.

    Keras's "loss" and "accuracy" are of training. So is "loss" beside the "train_loss" of the Transformers library,
    which is a mean over the whole training. Beside "train_loss" alone, as in fastai, "accuracy" is of validation.
    """
    names = [column_name(cell) for cell in given]
    if any("".join(_words(cell)).endswith(("logloss", "crossentropy")) for cell in given):
        names = [name or _score(cell) for name, cell in zip(names, given, strict=True)]
    if not any((name or "").startswith("val/") for name in names):
        names = [(name or "").replace("test/", "val/") or None for name in names]
    told = [_split(_words(cell)) is not None for cell in given]  # which split it is of
    own_loss = any(
        name == "train/loss" and "loss" in cell.lower() and not split
        for name, cell, split in zip(names, given, told, strict=True)
    )
    kinds = list(zip(names, told, strict=True))
    if own_loss:
        names = [None if kind == ("train/loss", True) else kind[0] for kind in kinds]
    elif ("train/loss", True) in kinds and "val/loss" in names:
        names = [name if split else (name or "").replace("train/", "val/") or None for name, split in kinds]
    return [name if i == _first(names, given, name) else None for i, name in enumerate(names)]


def _score(given: str) -> str | None:
    """scikit-learn's score, of a classifier its accuracy: "val_score" -> "val/accuracy"."""
    *before, last = _words(given) or [""]
    return f"{_split(before) or 'train'}/accuracy" if last == "score" and len(before) < 2 else None


def _first(names: Sequence[str | None], given: Sequence[str], name: str | None) -> int:
    """Of the columns of a name the one that counts: that which is called a loss, that which has a name, the plainest
    (loss, and neither kl_loss nor box_loss), the first."""
    places = [i for i, other in enumerate(names) if other == name]
    return min(places, key=lambda i: ("loss" not in given[i].lower(), not given[i].strip(), len(_words(given[i])), i))


def column_name(given: str) -> str | None:
    """As a row of a history names it: "val_acc" -> "val/accuracy"; None for what is no curve that is known."""
    words = _words(given)
    joined = "".join(words)
    if joined in ("unnamed0", "epoch", "epochs", "nestimators", "stage", "round", "niter") or not given.strip():
        return "epoch"
    if joined in ("step", "steps", "globalstep", "iteration", "iterations", "iter"):
        return "step"
    if not words or words[-1] in _NOT_OF_AN_EPOCH or joined.endswith("errorrate"):
        return None
    metric = next(
        (
            metric
            for metric, known in _METRICS.items()
            if any(word in known for word in words) or any(joined.endswith(one) and len(one) > 3 for one in known)
        ),
        None,
    )
    if metric is None:
        return None
    return metric if metric == "learning_rate" else f"{_split(words) or 'train'}/{metric}"


def _words(given: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", given).lower())


def _split(words: Sequence[str]) -> str | None:
    return next((split for split, known in _SPLITS.items() if any(word in known for word in words)), None)


def _cells(names: Sequence[str | None], line: Sequence[str]) -> dict[str, float]:
    """What of a line is a number, by name."""
    numbers = {name: _number(cell) for name, cell in zip(names, line, strict=False) if name is not None}
    return {name: number for name, number in numbers.items() if number is not None}


def _number(cell: str) -> float | None:
    """None for what is no number, as an empty cell."""
    try:
        return float(cell.strip().rstrip("%").replace(",", "."))
    except ValueError:
        return None


def _merged(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """One row an epoch: loggers that write training and validation on lines of their own repeat its number. What is
    there several times, as the loss of each batch, is averaged."""
    rows = [row for row in rows if row]
    if not rows or not all("epoch" in row for row in rows):
        return rows
    by_epoch: dict[float, list[dict[str, float]]] = {}
    for row in rows:
        by_epoch.setdefault(row["epoch"], []).append(row)
    # Whole numbers from 0 on are counted from 1 here; shares of an epoch are how much of it is over.
    shift = 1 if min(by_epoch) == 0 and all(epoch == int(epoch) for epoch in by_epoch) else 0
    return [{**_mean(group), "epoch": epoch + shift} for epoch, group in sorted(by_epoch.items())]


def _gathered(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """One row an evaluation, where training losses are logged between evaluations: its own, or the mean since the last
    one. What comes after the last evaluation is left out."""
    if sum("val/loss" in row for row in rows) < _MANY_ROWS:
        return _in_blocks(rows)
    gathered, since = [], []
    for row in rows:
        since.append(row)
        if "val/loss" in row:
            gathered.append({**_mean(since), **row})
            since = []
    return gathered


def _in_blocks(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """The losses of single batches, a row each, averaged to a curve: what goes up and down there is the batches."""
    size = len(rows) // _BLOCKS
    if size < 2 or any("epoch" in row or "val/loss" in row for row in rows):
        return rows
    counted = [{"step": float(number), **row} for number, row in enumerate(rows, start=1)]
    return [_mean(counted[i : i + size]) for i in range(0, len(rows) - size + 1, size)]


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each curve, of what is a number; of steps the last."""
    names = dict.fromkeys(name for row in rows for name in row)
    given = {name: [row[name] for row in rows if name in row] for name in names}
    numbers = {name: [value for value in values if not math.isnan(value)] for name, values in given.items()}
    last = {name: values[-1] for name, values in given.items()}
    return last | {name: sum(x) / len(x) for name, x in numbers.items() if x and name not in ("epoch", "step")}
