"""From a history to findings: all rules are asked, and what another finding explains is left out.

Imports rules, advice and histories. The fact that surprises: a fault shows in many ways. A rate that is too high looks
like underfitting at the end, so an effect is believed less, the surer its cause is.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtrain.diagnose.advice import advise
from jaxtrain.diagnose.degrees import FAR_BELOW_KERNEL
from jaxtrain.diagnose.findings import NAMES, TOLD, Finding
from jaxtrain.diagnose.foreign import read_csv
from jaxtrain.diagnose.history import History, read_members, read_run
from jaxtrain.diagnose.rules import RULES
from jaxtrain.diagnose.signs import Signs

EXPLAINS: Mapping[str, frozenset[str]] = {
    cause: frozenset(effects.split())
    for cause, effects in {
        "diverged": "vanishing_gradients dying_relus lr_too_low plateau stale_batch_norm label_noise"
        " leaked_validation overfitting underfitting",
        "not_normalised": "exploding_gradients dying_relus lr_too_high lr_too_low plateau stale_batch_norm label_noise"
        " overfitting underfitting wrong_target",
        "wrong_target": "dying_relus lr_too_low lr_too_high plateau stale_batch_norm label_noise leaked_validation"
        " overfitting underfitting",
        "exploding_gradients": "lr_too_high lr_too_low plateau stale_batch_norm label_noise overfitting underfitting"
        " dying_relus wrong_target",
        "vanishing_gradients": "lr_too_low plateau label_noise underfitting wrong_target",
        "dying_relus": "lr_too_low plateau label_noise wrong_target vanishing_gradients",
        "lr_too_high": "lr_too_low plateau label_noise leaked_validation underfitting wrong_target dying_relus"
        " stale_batch_norm overfitting",
        "lr_too_low": "label_noise underfitting wrong_target",
        "stale_batch_norm": "lr_too_high leaked_validation overfitting underfitting",
        "noisy": "plateau stale_batch_norm leaked_validation underfitting lr_too_high",
        "label_noise": "overfitting underfitting leaked_validation",
        "leaked_validation": "overfitting",
    }.items()
}
"""Cause -> what it makes look wrong, too."""

TOO_SHORT = 3
"""Evaluations below which a curve is no curve."""

OF_CURVES = frozenset(
    "wrong_target lr_too_low plateau stale_batch_norm label_noise leaked_validation overfitting underfitting".split()
)
"""What is not asked of a run that has only just begun: each of them looks so at first."""

BEGUN = 0.2
"""Share of the planned epochs up to which a run has only just begun."""


def diagnose(history: History) -> tuple[Finding, ...]:
    """What the history shows, the most basic fault first; "healthy" alone where nothing is found.

    Args:
      history: of one training, finished or going on; see `read_run` and `read_csv`.

    Returns:
      Findings of medium or high confidence. How often each is right: docs/diagnosis.md.
    """
    signs = Signs(history)
    asked = {name: rule for name, rule in RULES.items() if not (_has_begun(signs) and name in OF_CURVES)}
    found = {name: finding for name, rule in asked.items() if (finding := rule(signs)) is not None}
    left = {name: _explained(finding, found) for name, finding in found.items()}
    told = [finding for name, finding in left.items() if finding.confidence >= TOLD]
    if not told:
        told = [_nothing_found(signs)]
    return tuple(dataclasses.replace(finding, advice=advise(finding.name, signs)) for finding in told)


def _has_begun(signs: Signs) -> bool:
    """Whether it has only just begun, and goes on."""
    if signs.history.status != "running":
        return False
    planned = float(signs.facts.get("epochs") or 0)
    return signs.count < TOO_SHORT or float(signs.history.epochs[-1]) < BEGUN * planned


def _explained(finding: Finding, found: Mapping[str, Finding]) -> Finding:
    confidence = finding.confidence
    for cause, effects in EXPLAINS.items():
        if finding.name not in effects or cause not in found or found[cause].confidence < TOLD:
            continue
        if cause in EXPLAINS.get(finding.name, ()) and _surer(finding, found[cause]):
            continue  # each may explain the other
        confidence *= 1 - 0.7 * found[cause].confidence
    return dataclasses.replace(finding, confidence=confidence)


def _surer(one: Finding, other: Finding) -> bool:
    """Of equals, the more basic one."""
    order = list(NAMES)
    return (one.confidence, -order.index(one.name)) > (other.confidence, -order.index(other.name))


def _nothing_found(signs: Signs) -> Finding:
    if signs.count < TOO_SHORT:
        count = "1 evaluation" if signs.count == 1 else f"{signs.count} evaluations"
        text = f"{count}, which is too few for a diagnosis; nothing is conspicuous."
        return Finding("healthy", text, TOLD)
    train, val = signs.end(signs.quality("train")), signs.end(signs.quality("val"))
    what = "accuracy" if signs.by_accuracy else "loss"
    ends = {split: signs.end(signs.whole(f"{split}/{what}")) for split in ("train", "val")}
    shown = {split: f"{end:,.0f}" if end >= 1000 else f"{end:.3g}" for split, end in ends.items()}
    if not math.isfinite(ends["train"]):
        text = "Nothing is conspicuous"
        text += f": the validation {what} ends at {shown['val']}." if math.isfinite(ends["val"]) else "."
    elif not math.isfinite(ends["val"]):
        text = (
            f"Nothing is conspicuous: the training {what} ends at {shown['train']}. Without a validation {what} there"
            " is no telling whether what is learnt holds for new examples."
        )
    else:
        text = f"Nothing is conspicuous: training and validation {what} end at {shown['train']} and {shown['val']}."
    if signs.kernel_quality - val > FAR_BELOW_KERNEL / 2:
        reached = (
            f"{signs.facts['kernel_accuracy']:.3g}" if signs.by_accuracy else f"{signs.facts['kernel_mse']:.3g} (mse)"
        )
        text += (
            f" But kernel ridge regression on a few of the training examples reaches {reached} on validation: on these"
            " data another network, or more regularisation, has something to gain."
        )
    if signs.bare:
        text += " Curves alone show neither wrong labels nor examples that are in both splits."
    return Finding("healthy", text, 0.9, evidence={"train_quality": train, "val_quality": val})


@dataclass(frozen=True)
class Diagnosis:
    """Of a folder or file: the findings, and of how many members each is."""

    path: Path
    histories: tuple[History, ...]
    each: tuple[tuple[Finding, ...], ...]  # of each history

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of several members the surest of each name."""
        everything = [finding for found in self.each for finding in found]
        names = _told({finding.name for finding in everything})
        return tuple(max((one for one in everything if one.name == name), key=lambda x: x.confidence) for name in names)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        found = merge_told([[finding.to_json() for finding in found] for found in self.each])
        return {"path": str(self.path), "members": len(self.histories), "findings": found}


def diagnose_path(path: str | Path) -> Diagnosis:
    """The diagnosis of a run's folder, of one of several members, or of a CSV of curves.

    Raises:
      RequestError: there is no run, or no curve, in it.
      WorldError: a file cannot be read.
    """
    path = Path(path)
    path = path.parent if path.name == "metrics.jsonl" else path
    if path.is_file():
        histories = (read_csv(path),)
    else:
        histories = tuple(read_members(path).values()) or (read_run(path),)
    return Diagnosis(path, histories, tuple(map(diagnose, histories)))


def merge_told(told: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The findings of several members, as JSON values: of each name the surest, and how many members have it."""
    by_name = defaultdict(list)
    for finding in (finding for findings in told for finding in findings):
        by_name[finding["name"]].append(finding)
    return [
        {**max(by_name[name], key=lambda finding: finding["confidence"]), "members": len(by_name[name])}
        for name in _told(by_name)
    ]


def _told(found: Collection[str]) -> list[str]:
    """Names in order; "healthy" only where nothing else is."""
    return [name for name in NAMES if name in found and (name != "healthy" or len(found) == 1)]
