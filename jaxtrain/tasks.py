"""What a network is for: its loss, what is reported of it, and its answer in the user's terms.

Imports `types`, `errors` and `losses`. The fact that surprises: a task is three plain functions on one batch. Another
one is a frozen dataclass with the same three; nothing is registered.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import losses
from jaxtrain.errors import RequestError
from jaxtrain.types import Array, Batch, Hyper, Task

MIN_RANKED = 4
"""Classes from which on the place of a wrong label says something."""


class Prediction(NamedTuple):
    """A classifier's answer for B images."""

    probability: Array  # f32[B, K]
    label: Array  # i32[B], the most probable class; -1 where the network gave NaN


@dataclass(frozen=True)
class Classification:
    """One class of `num_classes` for each image; the network gives logits, f32[B, K]."""

    num_classes: int

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        """f32[B], cross-entropy with `hyper.label_smoothing`."""
        self._check(outputs)
        return losses.cross_entropy(outputs, batch.label, hyper.label_smoothing)

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """loss: f32[B], cross-entropy without smoothing; accuracy: f32[B], 1 where right. After mixup the class is the
        more probable one; NaN is wrong, whatever the label."""
        self._check(outputs)
        label = batch.label if batch.label.ndim == 1 else jnp.argmax(batch.label, axis=1)
        right = _most_probable(outputs) == label
        return {
            "loss": losses.cross_entropy(outputs, batch.label),
            "accuracy": right.astype(jnp.float32),
        }

    def evidence(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """label_rank: f32[B], the place of the label in the order of the network's answers, 1 the first. A mistake of a
        good network stands near the front, a wrong label anywhere. Of fewer than four classes there is none, nor of a
        task that scores its outputs otherwise, for they may be of another kind."""
        if self.num_classes < MIN_RANKED or batch.label.ndim > 1 or not scores_as_shipped(self):
            return {}
        own = jnp.take_along_axis(outputs, batch.label[:, None], axis=1)
        rank = 1.0 + jnp.sum(outputs > own, axis=1)
        return {"label_rank": jnp.where(jnp.isnan(outputs).any(axis=1), self.num_classes, rank).astype(jnp.float32)}

    def predict(self, outputs: Array) -> Prediction:
        """Probabilities and the most probable class."""
        self._check(outputs)
        return Prediction(jax.nn.softmax(outputs), _most_probable(outputs))

    def _check(self, outputs: Array) -> None:
        _check_outputs(outputs, self.num_classes, "classes")


@dataclass(frozen=True)
class Regression:
    """`num_targets` numbers for each image; the network gives them directly, f32[B, T]."""

    num_targets: int

    def loss(self, outputs: Array, batch: Batch, hyper: Hyper) -> Array:
        """f32[B], squared error, mean over the targets."""
        _check_outputs(outputs, self.num_targets, "targets")
        return losses.squared_error(outputs, batch.label)

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """loss and mse: f32[B], squared error; mae: f32[B], absolute error."""
        _check_outputs(outputs, self.num_targets, "targets")
        squared = losses.squared_error(outputs, batch.label)
        return {"loss": squared, "mse": squared, "mae": losses.absolute_error(outputs, batch.label)}

    def predict(self, outputs: Array) -> Array:
        """f32[B, T], the outputs as they are."""
        _check_outputs(outputs, self.num_targets, "targets")
        return outputs


def default_task(info: Any) -> Task:
    """Classification where the data has classes, else Regression.

    Args:
      info: of the data, with `num_classes` and `num_targets`, one of them None.

    Raises:
      RequestError: data with neither.
    """
    if info.num_classes is not None:
        return Classification(info.num_classes)
    if info.num_targets is not None:
        return Regression(info.num_targets)
    raise RequestError("the data has neither classes nor targets; pass a task of your own")


def scores_as_shipped(task: Task) -> bool:
    """Whether its metrics are those of Classification or Regression, and not a subclass's own."""
    shipped = next((kind for kind in (Classification, Regression) if isinstance(task, kind)), None)
    return shipped is not None and type(task).metrics is shipped.metrics


def chance(task: Task, labels: Any) -> dict[str, float]:
    """What knowing nothing but these labels' frequencies, or their mean, scores on them: loss, and accuracy where there
    are classes. Of a task of one's own nothing is known, and of one that scores otherwise, no loss.

    Args:
      labels: of the training split, on the host: i32[N] or f32[N, T].
    """
    if isinstance(task, Classification):
        share = np.bincount(labels, minlength=task.num_classes) / len(labels)
        known = share[share > 0]
        entropy = {"loss": float(-np.sum(known * np.log(known)))} if scores_as_shipped(task) else {}
        return {**entropy, "accuracy": float(share.max())}
    return {"loss": float(np.mean(np.var(labels, axis=0)))} if scores_as_shipped(task) else {}


def _most_probable(logits: Array) -> Array:
    """i32[B]. The argmax of NaN is 0, which would make a diverged network right on every example of class 0."""
    return jnp.where(jnp.isnan(logits).any(axis=1), -1, jnp.argmax(logits, axis=1)).astype(jnp.int32)


def _check_outputs(outputs: Array, columns: int, what: str) -> None:
    if outputs.ndim != 2 or outputs.shape[1] != columns:
        raise RequestError(
            f"the network's outputs have shape {outputs.shape}, but the data has {columns} {what};"
            f" the last layer must give [batch, {columns}]"
        )
