"""The tables of a report that are more than a list of facts, as rows of texts and numbers.

Imports facts and words. The fact that surprises: the run stands in the same table as what it has to beat, for a number
beside which there is no other means nothing.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtrain.report import words
from jaxtrain.report.facts import Facts
from jaxtrain.report.mistakes import ClassRow, Mistakes
from jaxtrain.report.settings import Row
from jaxtrain.scores import Scores

ALL_CLASSES, WEAKEST = 12, 8
"""Up to 12 classes are shown at once; of more the 8 that are found worst, and the others on demand."""


class Compared(NamedTuple):
    """The run, or something beside it, on the split of the result."""

    name: str
    meaning: str
    scores: Mapping[str, float]
    why: str  # there are no scores
    own: bool


class Line(NamedTuple):
    """A name and what belongs to it."""

    name: str
    value: str
    meaning: str = ""


class ScoreLine(NamedTuple):
    """A line of the table of all scores."""

    split: str  # "" where it is that of the line above
    what: str
    values: tuple[str, ...]  # one a metric


def scores(facts: Facts) -> list[ScoreLine]:
    """Split by split: the score; of several members also its interval, and what they reach together."""
    lines = []
    for split, name in words.SPLIT_NAMES.items():
        found = [facts.score(split, metric) for metric in facts.metrics]
        if not any(found):
            continue
        lines.append(ScoreLine(name, "mean ± std", tuple(map(words.spread, found))))
        if len(facts.seeds) > 1:
            lines.append(ScoreLine("", "95 % interval of the mean", tuple(map(words.ends, found))))
        if any(score is not None and score.together is not None for score in found):
            together = ["–" if score is None else words.number(score.together, score.metric) for score in found]
            lines.append(ScoreLine("", "members together", tuple(together)))
    return lines


def compared(facts: Facts) -> list[Compared]:
    """What the result has to beat, the result, and what the members reach together."""
    own = [score for score in facts.scores if score.split == facts.split]
    found = [Compared(line.name, line.meaning, line.scores or {}, line.why, False) for line in facts.baselines]
    count = len(facts.seeds)
    meaning = f"mean of {count} seeds" if count > 1 else f"seed {facts.seeds[0]}"
    found.append(Compared("this run", meaning, {score.metric: score.interval.mean for score in own}, "", True))
    together = {score.metric: score.together for score in own if score.together is not None}
    if count > 1 and together:
        found.append(Compared("its members together", "their mean answer", together, "", True))
    return found


def weakest(facts: Facts) -> tuple[ClassRow, ...]:
    """The classes that are shown at once: all of few, else those with the lowest F1."""
    if not isinstance(facts.mistakes, Mistakes):
        return ()
    classes = facts.mistakes.classes
    if len(classes) <= ALL_CLASSES:
        return classes
    seen = [row for row in classes if not math.isnan(row.f1)]
    return tuple(sorted(seen, key=lambda row: row.f1)[:WEAKEST])


def changed(facts: Facts) -> list[Row]:
    """The settings that are not the defaults."""
    return [row for row in facts.settings if row.changed]


def calibration(scores: Scores) -> list[Line]:
    """Three numbers on the probabilities, each with its meaning."""
    return [
        Line(
            "NLL",
            f"{scores.nll:.4f}",
            "negative log-likelihood, nats: the mean of -log of the true class's probability",
        ),
        Line("Brier", f"{scores.brier:.4f}", "squared distance to the truth, from 0 to 2"),
        Line("ECE", f"{100 * scores.ece:.2f} points", "distance of confidence from accuracy, over 15 bins"),
    ]


def data(facts: Facts) -> list[Line]:
    """What it was trained on."""
    known = facts.data
    counts = [f"{known[f'num_{split}']:,} {name}" for split, name in words.SPLIT_NAMES.items()]
    stored = facts.manifest.get("data", {})
    preprocess = next((row.value for row in facts.settings if row.path == "data.preprocess"), None)
    lines = [
        Line("name", f"{known['name']}{', as published' if stored.get('published') else ''}"),
        Line("examples", ", ".join(counts)),
        Line("one example", words.shape(facts.image_shape)),
        Line("classes", f"{facts.num_classes:,}") if facts.num_classes else None,
        Line("preprocessing", f"{preprocess}, fitted on the training split") if preprocess else None,
        Line("SHA-256", known["sha256"]),
    ]
    return [line for line in lines if line is not None]


def speed(facts: Facts) -> list[Line]:
    """Times of the run, of all members together."""
    summary = facts.summary
    several = f", {len(facts.seeds) + len(facts.diverged)} members together" if len(facts.seeds) > 1 else ""
    rate = float(summary.get("images_per_second", math.nan))
    return [
        Line("training", f"{rate:,.0f} images a second{several}" if math.isfinite(rate) else "not measured"),
        Line("in all", words.duration(summary.get("seconds"))),
        Line("to the first step", words.duration(summary.get("seconds_to_first_step"))),
        Line("compilation", words.duration(summary.get("compile_seconds"))),
    ]


def machine(facts: Facts) -> list[Line]:
    """With what it was made, as far as that is known."""
    made, git = facts.manifest, facts.manifest.get("git") or {}
    versions = made.get("versions", {})
    dirty = ", with changes that are not in it" if git.get("dirty") else ""
    device = f"{made.get('num_devices')} × {made.get('device')} ({made.get('backend')}), {made.get('num_cores')} cores"
    lines: list[tuple[str, Any]] = [
        ("date", made.get("date")),
        ("seeds", words.seed_list((*facts.seeds, *facts.diverged))),
        ("started from", words.origin(made.get("init_from"))),
        ("resumed", words.times(len(made.get("earlier", [])))),
        ("commit", f"{git['commit']}{dirty}" if git else None),
        ("device", device if made else None),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("Python", made.get("python")),
        ("system", made.get("platform")),
        ("XLA_FLAGS", made.get("xla_flags")),
        ("digest of the weights", facts.summary["digest"]),
    ]
    return [Line(name, str(value)) for name, value in lines if value]
