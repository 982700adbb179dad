"""Several finished runs in the hand: their spread over seeds, and the ensemble that they are.

Imports results, the mathematics of ensembles and of seeds. The fact that surprises: an `Ensemble` does not ask where
its members come from. Seeds, the top models of a search, the snapshots of one run and averaged weights are all a stack
of parameters, and even different networks may vote together, as long as they answer the same question.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain import ensemble, scores
from jaxtrain.config import Tta
from jaxtrain.data import DataInfo
from jaxtrain.errors import RequestError
from jaxtrain.folder import member_folder, read_summary
from jaxtrain.result import Run, load_one
from jaxtrain.seeds import Interval, interval
from jaxtrain.tasks import Classification, Regression
from jaxtrain.types import Task

SPLITS = ("train", "val", "test")


class Consensus(NamedTuple):
    """A classifying ensemble's answer for B images."""

    probability: np.ndarray  # f32[B, K], mean of the members' probabilities
    label: np.ndarray  # i32[B], the most probable class
    vote: np.ndarray  # i32[B], the class that most members name
    vote_share: np.ndarray  # f32[B, K], share of the members that name each class
    entropy: np.ndarray  # f32[B], nats: how unsure the mean is


class MeanAnswer(NamedTuple):
    """A regressing ensemble's answer for B images."""

    mean: np.ndarray  # f32[B, T]
    std: np.ndarray  # f32[B, T], over the members


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What `fit(seeds=...)` returns, or any runs that answer the same question: `Ensemble(runs)`.

    Members that have diverged are in `members`, and in nothing that is computed.
    """

    members: Sequence[Run]
    summary: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not self.living:
            raise RequestError("an ensemble needs at least one member that has not diverged")
        first, *others = self.living
        for other in others:
            if _question(other) != _question(first):
                raise RequestError(
                    f"the members answer different questions: {_question(first)} and {_question(other)}; an ensemble"
                    " needs the same classes or targets, and images of the same shape"
                )

    @property
    def living(self) -> list[Run]:
        """The members that have not diverged."""
        return [member for member in self.members if member.summary.get("status") != "diverged"]

    @property
    def info(self) -> DataInfo:
        """The data that the members were trained on."""
        return self.living[0].info

    @property
    def train(self) -> SimpleNamespace:
        """Mean of the members' scores on a part of the training split: `runs.train.loss`."""
        return self._mean("train")

    @property
    def val(self) -> SimpleNamespace:
        """Mean of the members' scores on the validation split: `runs.val.accuracy` (not the ensemble's)."""
        return self._mean("val")

    @property
    def test(self) -> SimpleNamespace:
        """Mean of the members' scores on the test split."""
        return self._mean("test")

    def interval(self, split: str, metric: str) -> Interval:
        """Mean of a score over the members, with its standard deviation and 95 % interval (Student's t)."""
        return interval(_values(self.living, split, metric))

    def predict(self, images: Any) -> Any:
        """The ensemble's answer for images as they were given to training: a `Consensus`, or in regression a
        `MeanAnswer`; of a task of your own, its `predict` of the mean of the outputs.

        Raises:
          RequestError: if the images have another shape than those of training.
        """
        task, outputs = self.living[0].setting.task, self.outputs(images)
        if isinstance(task, Classification):
            return _consensus(scores.log_softmax(outputs))
        if isinstance(task, Regression):
            mean, deviation = ensemble.mean_outputs(outputs)
            return MeanAnswer(mean.astype(np.float32), deviation.astype(np.float32))
        return jax.device_get(task.predict(outputs.mean(axis=0)))

    def evaluate(self, images: Any, labels: Any) -> dict[str, Any]:
        """All that is to be known of the ensemble on other data; see `ensemble.report` and `regression_report`.

        Args:
          images: as for `predict`.
          labels: int [B] class indices, or float [B] or [B, T] targets.

        Raises:
          RequestError: for images or labels that do not fit, or a task of the user's own.
        """
        first = self.living[0]
        images, labels = first.checked(images), first.checked_labels(labels, len(np.asarray(images)))
        outputs = self.outputs(images)
        if isinstance(first.setting.task, Classification):
            return ensemble.report(scores.log_softmax(outputs), labels)
        if isinstance(first.setting.task, Regression):
            return ensemble.regression_report(outputs, labels)
        raise RequestError(f"the members' task, {type(first.setting.task).__name__}, has no report; score `predict`")

    def outputs(self, images: Any) -> np.ndarray:
        """The living members' outputs, f32[M, B, K] or f32[M, B, T]."""
        return np.stack([member.outputs(images) for member in self.living])

    def with_tta(self, tta: Tta) -> "Ensemble":
        """The same members, each of whose answers is the mean over these views of an image; see `Run.with_tta`."""
        return replace(self, members=[member.with_tta(tta) for member in self.members])

    def _mean(self, split: str) -> SimpleNamespace:
        # Of a run that was stopped between two groups, not every member has been scored on every split.
        first, *others = [member.summary.get(split, {}) for member in self.living]
        names = [name for name in first if all(name in scores for scores in others)]
        return SimpleNamespace(**{name: float(np.mean(_values(self.living, split, name))) for name in names})


def load_run(
    folder: str | Path, *, model: Any = None, task: Task | None = None, optimizer: Any = None, schedule: Any = None
) -> Any:
    """A finished run from its folder, as `fit` returned it: predict, evaluate, parameters.

    Args:
      folder: the run's folder, or that of one of its members.
      model: the network, where it is not one of jaxtrain's own: `load_run(folder, model=Net())`.
      task: the task, where it is the user's own.
      optimizer: the optimizer function, where it is the user's own.
      schedule: the schedule function, where it is the user's own.

    Returns:
      A `Run`, or an `Ensemble` where the run has several members.

    Raises:
      RequestError: the folder holds no finished run, or names a part that has to be passed.
      WorldError: the weights are damaged.
    """
    folder = Path(folder)
    given: dict[str, Any] = {"model": model, "task": task, "optimizer": optimizer, "schedule": schedule}
    summary = read_summary(folder)
    if summary is None or "members" not in summary:
        return load_one(folder, **given)
    members = [load_one(member_folder(folder, index), **given) for index in range(len(summary["members"]))]
    return Ensemble(members, summary, folder)


def _question(run: Run) -> str:
    info, task = run.info, run.setting.task
    return f"{type(task).__name__} of {info.num_classes or info.num_targets} from {list(info.stored_shape)}"


def _values(runs: Sequence[Run], split: str, metric: str) -> list[float]:
    missing = [run.seed for run in runs if metric not in run.summary.get(split, {})]
    if missing:
        names = ", ".join(f"{s}/{m}" for s in SPLITS for m in runs[0].summary.get(s, {}))
        raise RequestError(f"{split}/{metric} is no score of these runs; they have {names or 'none'}")
    return [run.summary[split][metric] for run in runs]


def _consensus(log_probability: np.ndarray) -> Consensus:
    mean = ensemble.mean_log_probability(log_probability)
    return Consensus(
        probability=np.exp(mean).astype(np.float32),
        label=mean.argmax(axis=1).astype(np.int32),
        vote=ensemble.vote(log_probability).astype(np.int32),
        vote_share=ensemble.vote_share(log_probability).astype(np.float32),
        entropy=scores.entropy(mean).astype(np.float32),
    )
