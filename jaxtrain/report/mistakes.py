"""Where a run errs, on the validation split: as tables and arrays, before anything is drawn.

Imports runs and the mathematics of scores. The fact that surprises: of several members it is their joint answer that is
looked at, the mean of their probabilities, for a single one's mistakes are in part the luck of its seed.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxtrain.data import Data
from jaxtrain.ensemble import mean_log_probability
from jaxtrain.result import Run
from jaxtrain.runs import Ensemble
from jaxtrain.scores import Scores, confusion, log_softmax, per_class, scores
from jaxtrain.tasks import Classification, Regression

MOST_PAIRS = 5


class ClassRow(NamedTuple):
    """How well one class is found; NaN where there is nothing to divide by."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class Confused(NamedTuple):
    """A class that is taken for another."""

    name: str
    taken_for: str
    count: int
    share: float  # of the class's examples


class TargetRow(NamedTuple):
    """How well one number is predicted."""

    name: str
    mse: float
    mae: float
    bias: float  # mean of predicted minus target
    r_squared: float  # NaN where the target is constant


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Of a classifier, on N validation examples; those with an answer that is not finite are left out."""

    num_examples: int
    num_left_out: int
    num_wrong: int
    scores: Scores
    matrix: np.ndarray  # i64[K, K]
    classes: tuple[ClassRow, ...]
    confused: tuple[Confused, ...]  # the most frequent first
    image: np.ndarray  # as stored [N, ...]
    label: np.ndarray  # i32[N]
    log_probability: np.ndarray  # f[N, K]


@dataclass(frozen=True, eq=False)
class Residuals:
    """Of a regression, on N validation examples."""

    num_examples: int
    num_left_out: int
    targets: tuple[TargetRow, ...]
    target: np.ndarray  # f[N, T]
    predicted: np.ndarray  # f[N, T]


def find_mistakes(run: Run | Ensemble, data: Data) -> Mistakes | Residuals | None:
    """Where `run` errs on the validation split; None for a task of the user's own, or without a finite answer."""
    task = (run if isinstance(run, Run) else run.living[0]).setting.task
    if not isinstance(task, Classification | Regression):
        return None
    start, stop = data.val
    outputs = run.outputs(data.image[start:stop])
    outputs = outputs[None] if isinstance(run, Run) else outputs  # f32[M, N, K]
    finite = np.isfinite(outputs).all(axis=(0, 2))
    if not finite.any():
        return None
    image, label = data.image[start:stop][finite], data.label[start:stop][finite]
    if isinstance(task, Regression):
        return of_targets(label, outputs[:, finite].mean(axis=0, dtype=np.float64), num_left_out=int((~finite).sum()))
    return of_classes(
        image, label, log_softmax(outputs[:, finite].astype(np.float64)), class_names(data), int((~finite).sum())
    )


def of_classes(
    image: np.ndarray, label: np.ndarray, log_probability: np.ndarray, names: tuple[str, ...], num_left_out: int = 0
) -> Mistakes:
    """`Mistakes` of the members' joint answer.

    Args:
      image: as stored, [N, ...].
      label: i[N].
      log_probability: f[M, N, K].
      names: of the K classes.
      num_left_out: examples that are not among these.
    """
    joint = log_probability[0] if len(log_probability) == 1 else mean_log_probability(log_probability)
    matrix = confusion(label, joint.argmax(axis=1), len(names))
    rows = zip(names, *(column.tolist() for column in per_class(matrix)), strict=True)
    return Mistakes(
        num_examples=len(label),
        num_left_out=num_left_out,
        num_wrong=int(matrix.sum() - np.trace(matrix)),
        scores=scores(joint, label),
        matrix=matrix,
        classes=tuple(ClassRow(*row) for row in rows),
        confused=_most_confused(matrix, names),
        image=image,
        label=label,
        log_probability=joint,
    )


def of_targets(target: np.ndarray, predicted: np.ndarray, *, num_left_out: int = 0) -> Residuals:
    """`Residuals` of f[N, T]."""
    target, predicted = target.astype(np.float64), predicted.astype(np.float64)
    difference, variance = predicted - target, target.var(axis=0)
    mse, mae, bias = np.square(difference).mean(axis=0), np.abs(difference).mean(axis=0), difference.mean(axis=0)
    share = 1 - np.divide(mse, variance, out=np.full_like(mse, np.nan), where=variance > 0)
    names = [f"target {k}" for k in range(len(mse))] if len(mse) > 1 else ["target"]
    columns = (column.tolist() for column in (mse, mae, bias, share))
    rows = tuple(TargetRow(*row) for row in zip(names, *columns, strict=True))
    return Residuals(len(target), num_left_out, rows, target, predicted)


def class_names(data: Data) -> tuple[str, ...]:
    """The names of the classes; their numbers, if they have none."""
    return data.info.class_names or tuple(map(str, range(data.info.num_classes or 0)))


def _most_confused(matrix: np.ndarray, names: tuple[str, ...]) -> tuple[Confused, ...]:
    errors = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    cells = [divmod(int(cell), len(names)) for cell in np.argsort(-errors, axis=None, kind="stable")[:MOST_PAIRS]]
    support = matrix.sum(axis=1)
    found = [(row, column, int(errors[row, column])) for row, column in cells if errors[row, column]]
    return tuple(
        Confused(names[row], names[column], count, float(count / support[row])) for row, column, count in found
    )
