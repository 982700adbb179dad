"""What a result has to beat to mean anything: an answer without a look at the images, and a linear network.

Imports the loop and what lies below. The fact that surprises: the linear network is trained by the very loop that
trained the run, on the same split with the same preprocessing; and once a process, however many reports there are.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from jaxtrain.config import Config
from jaxtrain.data import Data, normalise
from jaxtrain.data.arrays import digest
from jaxtrain.errors import NonFiniteError
from jaxtrain.finish import finish
from jaxtrain.layout import Layout
from jaxtrain.log import Log, Logs
from jaxtrain.members import make_group
from jaxtrain.models import Linear
from jaxtrain.step import make_setting
from jaxtrain.tasks import Classification, Regression
from jaxtrain.terminal import Terminal
from jaxtrain.train import train
from jaxtrain.types import Hyper, Task

SECONDS = 30.0
"""The training of the linear network ends here, done or not, as on a machine that is busy; else it takes two."""
NUM_STEPS, BATCH_SIZE, LEARNING_RATE = 2000, 128, 1e-2
"""Five passes over MNIST: within 0.3 points of the logistic regression that is trained to its end, in a second."""
MOST_EPOCHS = 100
MOST_WORK = 5e10
"""Multiplications of the shortest training, one epoch; beyond it a core of some GFLOP/s would need too long."""
MOST_FEATURES = 4096
"""Least squares solves a system of this size in a second."""
CHUNK = 4096


@dataclass(frozen=True)
class Baseline:
    """Something simple, and what it scores on one split."""

    name: str
    meaning: str
    scores: Mapping[str, float] | None  # metric -> value; None where it was left out
    why: str = ""  # it was left out


Scores = dict[str, float]

_linear: dict[str, Baseline] = {}  # what was trained in this process, by the data it was trained on


def baselines(task: Task, data: Data, split: str) -> tuple[Baseline, ...]:
    """The baselines of a task of ours, the simplest first; none for a task of the user's own.

    Args:
      task: of the run.
      data: what the run was trained on.
      split: the one that is scored, "val" or "test".
    """
    start, stop = getattr(data, split)
    if isinstance(task, Classification):
        name, meaning = "most frequent class", "always names the class that training has most of"
        scores = constant_class(data.label[: data.num_train], data.label[start:stop], task.num_classes)
    elif isinstance(task, Regression):
        name, meaning = "mean of the targets", "always answers the mean of the training targets"
        scores = constant_target(data.label[: data.num_train], data.label[start:stop])
    else:
        return ()
    return Baseline(name, meaning, scores), linear(task, data, split)


def constant_class(train: np.ndarray, label: np.ndarray, num_classes: int) -> Scores:
    """Accuracy of the most frequent class, and loss of the class frequencies, in nats.

    Args:
      train: i[N], labels of the training split.
      label: i[N], labels to score on.
      num_classes: K.
    """
    share = np.bincount(train, minlength=num_classes) / len(train)
    with np.errstate(divide="ignore"):
        cost = -np.log(share)
    return {"loss": float(cost[label].mean()), "accuracy": float(np.mean(label == share.argmax()))}


def constant_target(train: np.ndarray, target: np.ndarray) -> Scores:
    """Errors of the mean of the training targets; of f[N, T]."""
    return _errors(np.broadcast_to(train.mean(axis=0, dtype=np.float64), target.shape), target)


def linear(task: Classification | Regression, data: Data, split: str) -> Baseline:
    """The best that one layer can do, about: softmax regression by the package's loop, or least squares."""
    # The same examples in another order are another split, and have other labels in each place.
    key = f"{split} {data.info.sha256} {digest(data.label, *map(np.asarray, jax.tree.leaves(data.preprocess)))}"
    if key not in _linear:
        _linear[key] = (_logistic if isinstance(task, Classification) else _least_squares)(data, split)
    return _linear[key]


def _logistic(data: Data, split: str) -> Baseline:
    name, meaning = "linear network", "one layer, softmax regression, trained for seconds on the same data"
    num_outputs, batch_size = data.info.num_classes or 1, min(BATCH_SIZE, data.num_train)
    if data.num_train * int(np.prod(data.image_shape)) * num_outputs > MOST_WORK:
        return Baseline(name, meaning, None, "left out, as an epoch of it would take too long on data of this size")
    epochs = int(np.clip(round(NUM_STEPS * batch_size / data.num_train), 1, MOST_EPOCHS))
    config = Config(
        epochs=epochs,
        batch_size=batch_size,
        eval_every_epochs=epochs,
        train_eval_examples=1,
        log_every_steps=NUM_STEPS,
        probe_every_steps=None,
        max_chunk_seconds=1.0,
    )
    scores, why = _trained(data, config, Linear(num_outputs), split)
    return Baseline(name, meaning, scores, why)


def _trained(data: Data, config: Config, model: Linear, split: str) -> tuple[Scores | None, str]:
    """The scores of a network that is trained without a word, or why there are none."""
    setting, deadline = make_setting(model, data, config), time.perf_counter() + SECONDS
    logs = Logs(Log(None, Terminal(quiet=True)))
    group = make_group(setting, data, (0,), Hyper(learning_rate=LEARNING_RATE), Layout("loop", 1, 1))
    try:
        timing = train(group, log=logs, stop=lambda: time.perf_counter() > deadline)
        (run,) = finish(group, timing, logs, [None])
    except NonFiniteError:
        return None, "left out, as its loss became NaN or infinite on data of this scale"
    finally:
        group.close()
    if run.summary["status"] == "stopped":
        return None, f"left out, as it was not done within {SECONDS:g} s"
    return dict(run.summary[split]), ""


def _least_squares(data: Data, split: str) -> Baseline:
    """By the normal equations: Adam would need a rate that fits the targets' scale."""
    name, meaning = "linear regression", "ordinary least squares on the same training data"
    num_features = int(np.prod(data.image_shape))
    if num_features > MOST_FEATURES:
        return Baseline(name, meaning, None, f"left out, as {num_features:,} features are too many to solve for")
    square, mixed = np.zeros((num_features + 1,) * 2), np.zeros((num_features + 1, data.label.shape[1]))
    for image, target in _chunks(data, *data.train):
        square, mixed = square + image.T @ image, mixed + image.T @ target
    # Features that are constant or repeat others leave the system singular; this decides among equal fits.
    square[np.diag_indices_from(square)] += 1e-6 * np.trace(square) / len(square)
    weights = np.linalg.solve(square, mixed)
    pieces = list(_chunks(data, *getattr(data, split)))
    answer, target = (np.concatenate(parts) for parts in ([x @ weights for x, _ in pieces], [y for _, y in pieces]))
    return Baseline(name, meaning, _errors(answer, target))


def _chunks(data: Data, start: int, stop: int):
    """Examples as the network gets them, f64[<= CHUNK, D + 1] with a last feature that is 1, and their targets."""
    for low in range(start, stop, CHUNK):
        part = slice(low, min(low + CHUNK, stop))
        image = np.asarray(normalise(data.preprocess, data.image[part]), np.float64).reshape(part.stop - low, -1)
        yield np.pad(image, ((0, 0), (0, 1)), constant_values=1.0), data.label[part].astype(np.float64)


def _errors(answer: np.ndarray, target: np.ndarray) -> Scores:
    difference = answer - target
    squared = float(np.square(difference).mean())
    return {"loss": squared, "mse": squared, "mae": float(np.abs(difference).mean())}
