"""All that a run's report says, as plain values: gathered here, worded in `words`, drawn in `pictures`.

Imports runs, statistics and its neighbours. The fact that surprises: a single run is a mean over one seed, and so has
an interval that has no ends; nothing below asks whether there are several members but to say so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from jaxtrain.data import Data
from jaxtrain.diagnose import headline
from jaxtrain.errors import RequestError
from jaxtrain.folder import read_config, read_json
from jaxtrain.models import model_table
from jaxtrain.models.inspect import LayerRow
from jaxtrain.report.baselines import Baseline, baselines
from jaxtrain.report.mistakes import Mistakes, Residuals, find_mistakes
from jaxtrain.report.settings import Row, settings
from jaxtrain.result import Run
from jaxtrain.runs import SPLITS, Ensemble
from jaxtrain.seeds import Interval, finite_interval
from jaxtrain.tasks import Classification, Regression

TOGETHER = {"accuracy": "accuracy", "loss": "nll"}
"""A classifier's metric -> its name in an ensemble's report."""


@dataclass(frozen=True)
class Finding:
    """A line of a diagnosis: what was seen, and what to do about it."""

    text: str
    advice: str = ""
    verdict: str = ""  # "good", "warning", "bad", or a word of one's own


@dataclass(frozen=True)
class Check:
    """A line of checks.json."""

    name: str
    value: str
    expected: str
    verdict: str
    advice: str


@dataclass(frozen=True)
class Score:
    """A metric on a split: of the members one by one, and of what they answer together."""

    split: str
    metric: str
    interval: Interval
    together: float | None  # None for a single run, and where it was not scored


@dataclass(frozen=True)
class Facts:
    """Of a finished run, of one member or of several."""

    name: str
    kind: Literal["classification", "regression", "own"]
    network: str
    status: str
    seeds: tuple[int, ...]  # of the members that have not diverged
    diverged: Mapping[int, str]  # seed -> what happened
    scores: tuple[Score, ...]
    baselines: tuple[Baseline, ...]
    no_baselines: str  # why there are none
    mistakes: Mistakes | Residuals | None
    no_mistakes: str  # why there are none
    best_epochs: tuple[int, ...]  # of the best validation, one a member
    epochs: tuple[int, ...]  # that were done, one a member
    planned_epochs: int
    data: Mapping[str, Any]  # name, sha256, num_train, num_val, num_test, fallback
    image_shape: tuple[int, ...]  # as stored
    num_classes: int | None
    summary: Mapping[str, Any]  # as in summary.json: times, parameters, digest
    layers: tuple[LayerRow, ...]
    settings: tuple[Row, ...]
    manifest: Mapping[str, Any]
    checks: tuple[Check, ...] | None  # None where there is no checks.json
    diagnosis: tuple[Finding, ...] | None
    repeatable: bool  # whether config.json says all that a script needs

    @property
    def split(self) -> str:
        """The split of the result: test, or validation where the data has no test split."""
        return "test" if any(score.split == "test" for score in self.scores) else "val"

    @property
    def metric(self) -> str:
        """The metric of the result."""
        known = [score.metric for score in self.scores if score.split == self.split]
        preferred = ("accuracy", "mse", self.watched, "loss")
        return next((name for name in preferred if name in known), known[0] if known else "loss")

    @property
    def watched(self) -> str:
        """The metric of a user's own that the best weights were chosen by."""
        return next((row.value.lstrip("+-") for row in self.settings if row.path == "config.watch"), "auto")

    @property
    def metrics(self) -> list[str]:
        """All metrics, in order."""
        return list(dict.fromkeys(score.metric for score in self.scores))

    def score(self, split: str, metric: str) -> Score | None:
        """One of them, if it is there."""
        return next((score for score in self.scores if (score.split, score.metric) == (split, metric)), None)


def gather_facts(
    run: Run | Ensemble,
    data: Data | None,
    folder: Path,
    *,
    diagnosis: Sequence[Finding] | None = None,
    baseline: bool = True,
    no_data: str = "",
) -> Facts:
    """Everything that a report of `run` says.

    Args:
      run: finished.
      data: what it was trained on; without it there are neither baselines nor mistakes.
      folder: of the run, whose manifest.json, config.json and checks.json are read if they are there.
      diagnosis: what somebody else found; by default what the summary says.
      baseline: whether to train a linear network beside it.
      no_data: why there is no data, for the reader.

    Raises:
      RequestError: the run was stopped and has no result yet.
    """
    members = [run] if isinstance(run, Run) else list(run.members)
    living = [run] if isinstance(run, Run) else run.living
    first, summary = living[0], run.summary or living[0].summary
    if summary.get("status") == "stopped":
        raise RequestError(f"{folder} was stopped and has no result to report; finish it with --resume")
    described, task = read_config(folder), first.setting.task
    scores = _scores(run, living)
    kind = "own" if not isinstance(task, Classification | Regression) else type(task).__name__.lower()
    split = "test" if any(score.split == "test" for score in scores) else "val"
    beaten = baselines(task, data, split) if data is not None and baseline else ()
    return Facts(
        name=folder.resolve().name,
        kind=kind,  # pyright: ignore[reportArgumentType]
        network=type(first.setting.model.module).__name__,
        status=summary.get("status", "done"),
        seeds=tuple(member.seed for member in living),
        diverged={member.seed: str(member.summary.get("note", "")) for member in members if member not in living},
        scores=scores,
        baselines=beaten,
        no_baselines=_no_baselines(kind, data, baseline, no_data),
        mistakes=None if data is None else find_mistakes(run, data),
        no_mistakes=_no_mistakes(kind, data, no_data),
        best_epochs=tuple(int(row["epoch"]) for member in living if (row := member.summary.get("best"))),
        epochs=tuple(int(member.summary["epochs"]) for member in living),
        planned_epochs=first.setting.config.epochs,
        data=summary["data"],
        image_shape=tuple(first.info.stored_shape),
        num_classes=first.info.num_classes,
        summary=summary,
        layers=tuple(model_table(first.setting.model, first.setting.image_shape, jax.device_get(first.hyper))),
        settings=settings(first, described),
        manifest=read_json(folder / "manifest.json") or {},
        checks=_checks(read_json(folder / "checks.json", (dict, list))),
        diagnosis=_diagnosis(summary) if diagnosis is None else tuple(diagnosis),
        repeatable=_is_repeatable(described or {}),
    )


def _diagnosis(summary: Mapping[str, Any]) -> tuple[Finding, ...] | None:
    """None of a run from before there were any, and of one that wrote nothing while it was trained."""
    found = summary.get("diagnosis")
    if found is None:
        return None
    members = len(summary.get("members", ()))
    return tuple(Finding(one["text"], " ".join(one["advice"]), headline(one, members)) for one in found)


def _scores(run: Run | Ensemble, living: Sequence[Run]) -> tuple[Score, ...]:
    together = {} if isinstance(run, Run) else run.summary.get("ensemble", {})
    return tuple(
        Score(
            split,
            metric,
            finite_interval(member.summary[split][metric] for member in living),
            _together(together.get(split), metric),
        )
        for split in SPLITS
        for metric in living[0].summary.get(split, {})
    )


def _together(report: Mapping[str, Any] | None, metric: str) -> float | None:
    if report is None:
        return None
    if "mean_of_probabilities" in report:
        found = report["mean_of_probabilities"].get(TOGETHER.get(metric))
    else:
        found = report["mean_of_outputs"].get("mse" if metric == "loss" else metric)
    return None if found is None else float(found)


def _is_repeatable(described: Mapping[str, Any]) -> bool:
    return described.get("data", {}).get("type") == "DataConfig" and '"type": "user"' not in json.dumps(described)


def _checks(stored: Any) -> tuple[Check, ...] | None:
    """The lines of checks.json: a checkup as `checks` writes it, or its lines alone."""
    stored = stored.get("checks") if isinstance(stored, Mapping) else stored
    if not isinstance(stored, list):
        return None
    names = ("name", "value", "expected", "verdict", "advice")
    return tuple(Check(*(_text(line.get(name)) for name in names)) for line in stored if isinstance(line, Mapping))


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _no_baselines(kind: str, data: Data | None, wanted: bool, no_data: str) -> str:
    if kind == "own":
        return "For a task of your own there is no baseline that is known to fit."
    if not wanted:
        return "They were left out, as was asked for."
    return "" if data is not None else no_data or "The data was not at hand."


def _no_mistakes(kind: str, data: Data | None, no_data: str) -> str:
    if data is None:
        return no_data or "The data was not at hand."
    if kind == "own":
        return "What a mistake is in a task of your own is not known here."
    return "The network gave not one finite answer."
