"""From finished members to the run that they are: means with intervals, the ensemble, and what is written of both.

Imports results and their mathematics. The fact that surprises: `test.accuracy` of such a run is the mean of its
members', for that is what a seed study asks; what they score together stands under `ensemble`.
"""

import csv
import dataclasses
import hashlib
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.data import Data
from jaxtrain.diagnose import merge_told
from jaxtrain.files import write_json, write_text
from jaxtrain.finish import show_diagnosis, show_digest, show_speed
from jaxtrain.layout import Layout
from jaxtrain.result import Run
from jaxtrain.runs import SPLITS, Ensemble
from jaxtrain.seeds import Interval, cells, finite_interval
from jaxtrain.tasks import Classification, Regression
from jaxtrain.terminal import Terminal

MEMBER_FIELDS = ("seed", "status", "note", *SPLITS, "final", "steps", "epochs", "digest")
SHARED_FIELDS = ("data", "final", "steps", "epochs", "seed", "num_parameters")


def gather(
    runs: Sequence[Run], data: Data, layout: Layout, clock: Mapping[str, float], folder: Path | None
) -> Ensemble:
    """The members as one run; its summary has the mean, the spread and the interval of each score.

    Args:
      runs: the members in the order of their seeds, at least one of them alive.
      data: what they were trained on, for the ensemble's scores.
      layout: how they were laid out.
      clock: seconds and images_per_second of all together.
      folder: of the run.
    """
    ensemble = Ensemble(runs, folder=folder)
    stopped = any(run.summary["status"] == "stopped" for run in runs)
    first = ensemble.living[0].summary
    summary = {
        "status": "stopped" if stopped else "done",
        **{name: first[name] for name in SHARED_FIELDS},
        **{split: vars(getattr(ensemble, split)) for split in SPLITS if vars(getattr(ensemble, split))},
        "interval": _intervals(ensemble),
        **clock,
        "parallel": layout.parallel,
        "width": layout.width,
        "num_devices": layout.num_devices,
        "digest": hashlib.sha256("".join(run.summary["digest"] for run in runs).encode()).hexdigest(),
        "members": [{name: run.summary[name] for name in MEMBER_FIELDS if name in run.summary} for run in runs],
        "ensemble": {} if stopped else _score_together(ensemble, data),
    }
    found = [run.summary["diagnosis"] for run in runs if "diagnosis" in run.summary]
    if found:
        summary["diagnosis"] = merge_told(found)
    return dataclasses.replace(ensemble, summary=summary)


def write_gathered(ensemble: Ensemble, folder: Path) -> None:
    """members.csv, curves.png, ensemble.png and, last of all, summary.json."""
    from jaxtrain.plots import ensemble_figure, member_curves

    living, summary = ensemble.living, ensemble.summary
    write_text(folder / "members.csv", _table(summary["members"]))
    histories = [run.history for run in living if run.history]
    if histories:
        test = summary.get("test")
        member_curves(histories, folder / "curves.png", seeds=[run.seed for run in living if run.history], test=test)
    report = summary["ensemble"].get("test") or summary["ensemble"].get("val")
    if report and isinstance(living[0].setting.task, Classification):
        ensemble_figure(report, folder / "ensemble.png")
    write_json(folder / "summary.json", summary)


def show_gathered(terminal: Terminal, ensemble: Ensemble) -> None:
    """The summary table: mean and spread over seeds, the interval of the mean, and what the members score together."""
    summary, living = ensemble.summary, len(ensemble.living)
    lost = len(ensemble.members) - living
    rows = [
        (f"{split} {metric}", *cells(Interval(**found), metric == "accuracy"))
        for split, scores in summary["interval"].items()
        for metric, found in scores.items()
    ]
    title = f"{summary['status']}: {living} members" + (f", {lost} diverged and left out" if lost else "")
    terminal.table(title, ("score", "mean ± std over seeds", "95 % interval of the mean"), rows)
    for split, report in summary["ensemble"].items():
        terminal.say(_in_words(split, report))
    show_diagnosis(terminal, summary)
    show_speed(terminal, summary)
    show_digest(terminal, summary, ensemble.folder)


def _intervals(ensemble: Ensemble) -> dict[str, dict[str, dict[str, Any]]]:
    splits = [split for split in SPLITS if vars(getattr(ensemble, split))]
    return {
        split: {
            metric: dataclasses.asdict(finite_interval([run.summary[split][metric] for run in ensemble.living]))
            for metric in vars(getattr(ensemble, split))
        }
        for split in splits
    }


def _score_together(ensemble: Ensemble, data: Data) -> dict[str, Any]:
    """The ensemble's report on validation and test; a task of the user's own has none."""
    if not isinstance(ensemble.living[0].setting.task, Classification | Regression):
        return {}
    spans = {"val": data.val, "test": data.test}
    # A member that has not diverged may have an answer to some example that is not finite: of those there is no mean.
    return {
        split: ensemble.evaluate(data.image[start:stop], data.label[start:stop])
        for split, (start, stop) in spans.items()
        if stop > start and all(math.isfinite(run.summary[split]["loss"]) for run in ensemble.living)
    }


def _table(members: Sequence[Mapping[str, Any]]) -> str:
    rows = [{**member, **_flat(member)} for member in members]
    scores = [name for row in rows for name in row if "/" in name]
    names = ["seed", "status", *dict.fromkeys(scores), "final", "steps", "epochs", "digest"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(member: Mapping[str, Any]) -> dict[str, float]:
    return {f"{split}/{name}": value for split in SPLITS for name, value in member.get(split, {}).items()}


def _in_words(split: str, report: Mapping[str, Any]) -> str:
    """One sentence on what the members score together."""
    if "mean_of_probabilities" not in report:
        together, alone = report["mean_of_outputs"]["mse"], report["mean_member"]["mse"]
        return f"ensemble of {report['num_members']}, {split}: mse {together:.4g}, {alone:.4g} the mean member"
    mean, member = report["mean_of_probabilities"], report["mean_member"]
    return (
        f"ensemble of {report['num_members']}, {split}: {100 * mean['accuracy']:.2f} % by mean probability,"
        f" {100 * report['vote']['accuracy']:.2f} % by vote, {100 * member['accuracy']:.2f} % the mean member;"
        f" NLL {mean['nll']:.4f} against {member['nll']:.4f}, ECE {mean['ece']:.4f} against {member['ece']:.4f}"
    )


def mean_rows(histories: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[int, Mapping[str, float]]]:
    """The evaluations of all members step by step: for each step the rows of those that have it, by member."""
    steps = sorted({int(row["step"]) for history in histories for row in history})
    return [
        {i: row for i, history in enumerate(histories) for row in history if int(row["step"]) == step} for step in steps
    ]


def speed_of(clocks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The clock of groups that were trained one after another."""
    return {
        "seconds": sum(clock["seconds"] for clock in clocks),
        "seconds_to_first_step": clocks[0]["seconds_to_first_step"],
        "compile_seconds": sum(clock["compile_seconds"] for clock in clocks),
        "images_per_second": statistics.fmean(clock["images_per_second"] for clock in clocks),
    }
