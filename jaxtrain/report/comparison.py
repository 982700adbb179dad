"""Finished runs side by side, as plain values: what differs in their configs, what in their scores, and what follows.

Imports statistics, the folder and the programs' signs of metrics. The fact that surprises: runs are ranked by
validation, though each has a test score. Who picks the best of many by test has no fair score left to report.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.errors import RequestError
from jaxtrain.folder import MAY_DIFFER, flat, read_history, read_summary
from jaxtrain.program import SIGNS
from jaxtrain.report.settings import shown
from jaxtrain.runs import SPLITS
from jaxtrain.seeds import (
    SIGNIFICANCE,
    Comparison,
    Interval,
    SeedScores,
    check_comparable,
    compare,
    in_words,
    interval,
    partners,
    read_scores,
)

CHANGES_NOTHING = MAY_DIFFER - {"config.epochs"} | {"seed", "seeds", "parallel"}
"""Fields that change no score. The number of epochs does, though a resumed run may change it."""


class Differing(NamedTuple):
    """A field of the config that is not the same in all runs."""

    path: str
    values: tuple[str, ...]  # one a run; "–" where it has no such field


@dataclass(frozen=True)
class Contender:
    """One of the runs."""

    name: str
    scores: SeedScores
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]  # of several members their mean, with f"{name}/std" beside each score

    def interval(self, split: str, metric: str) -> Interval | None:
        """Over its seeds; None where it has no such score."""
        known = metric in self.scores.metrics(split)
        return interval(self.scores.values(split, metric).values()) if known else None


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a run against the first."""

    name: str
    comparison: Comparison | None  # None where the runs cannot be compared
    sentence: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Contest:
    """All that a report on several runs says."""

    split: str
    metric: str
    larger_is_better: bool | None
    contenders: tuple[Contender, ...]  # as they were given; the first is what the others are compared with
    ranking: tuple[Contender, ...]  # the best first; those on other data than the first are left out
    differing: tuple[Differing, ...]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Split and metric of every score that any run has."""
        found = [(s, m) for s in SPLITS for run in self.contenders for m in run.scores.metrics(s)]
        return list(dict.fromkeys(found))

    def verdict(self, run: Contender) -> Verdict | None:
        """What is said of a run; None for the first."""
        return next((verdict for verdict in self.verdicts if verdict.name == run.name), None)


def hold_contest(folders: Sequence[Path], *, split: str | None = None, metric: str | None = None) -> Contest:
    """Compare finished runs with the first of them.

    Args:
      folders: of two finished runs or more.
      split: whose scores are compared; by default validation.
      metric: by default accuracy where the first has it, else loss.

    Raises:
      RequestError: a run that is not finished, given twice, or without such a score.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise RequestError("a comparison needs the folders of two different runs or more, each given once")
    contenders = tuple(map(_contender, folders, names_of(folders)))
    first, *others = contenders
    split = split or "val"
    metric = metric or ("accuracy" if "accuracy" in first.scores.metrics(split) else "loss")
    for contender in contenders:
        contender.scores.values(split, metric)  # raises where there is none
    larger = larger_is_better(metric, [contender.scores for contender in contenders])
    verdicts = tuple(_verdict(first, other, split, metric, larger) for other in others)
    fair = [first, *(run for run, verdict in zip(others, verdicts, strict=True) if verdict.comparison is not None)]
    return Contest(
        split=split,
        metric=metric,
        larger_is_better=larger,
        contenders=contenders,
        ranking=tuple(sorted(fair, key=lambda run: _place(run, split, metric, larger))),
        differing=differing([contender.scores.config for contender in contenders]),
        verdicts=verdicts,
        warnings=_warnings(verdicts, split),
        notes=_notes(verdicts),
    )


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths where two have the same name."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else list(map(str, folders))


def larger_is_better(metric: str, runs: Sequence[SeedScores]) -> bool | None:
    """Known of the metrics of our own tasks, and of a metric that a run watched with its sign, as '-rmse'."""
    if metric in SIGNS:
        return SIGNS[metric] > 0
    watched = {run.config.get("config", {}).get("watch") for run in runs}
    up, down = f"+{metric}" in watched, f"-{metric}" in watched
    return None if up == down else up


def differing(configs: Sequence[Mapping[str, Any]]) -> tuple[Differing, ...]:
    """The fields that are not the same in all configs, but for those that change no score."""
    each = [flat(config) for config in configs]
    paths = dict.fromkeys(path for fields in each for path in fields)
    values = {p: tuple(shown(f[p]) if p in f else "–" for f in each) for p in paths if p not in CHANGES_NOTHING}
    return tuple(Differing(path, row) for path, row in values.items() if len(set(row)) > 1)


def left_out(name: str, run: SeedScores, compared: Collection[int]) -> list[str]:
    """The seeds of a run that a comparison does not count, and why."""
    alone = [seed for seed in run.scores if seed not in compared]
    reasons = [(run.diverged, "diverged"), (alone, "no partner")]
    parts = [f"{', '.join(map(str, seeds))} ({why})" for seeds, why in reasons if seeds]
    return [f"seeds of {name} that are left out: {'; '.join(parts)}"] if parts else []


def _contender(folder: Path, name: str) -> Contender:
    scores = read_scores(folder)
    summary = read_summary(folder) or {}
    return Contender(name, scores, summary, read_history(folder, int(summary["steps"])))


def _verdict(first: Contender, other: Contender, split: str, metric: str, larger: bool | None) -> Verdict:
    a, b = first.scores, other.scores
    try:
        check_comparable(a, b, split)
    except RequestError as error:
        return Verdict(other.name, None, f"not compared: {error}", ())
    values_a, values_b, paired = partners(a.values(split, metric), b.values(split, metric))
    comparison = compare(list(values_a.values()), list(values_b.values()), paired)
    sentence = in_words(comparison, first.name, other.name, f"{split} {metric}", larger)
    notes = (*left_out(first.name, a, values_a), *left_out(other.name, b, values_b))
    return Verdict(other.name, comparison, sentence, notes)


def _place(run: Contender, split: str, metric: str, larger: bool | None) -> float:
    found = run.interval(split, metric)
    assert found is not None
    return found.mean if larger is False else -found.mean


def _warnings(verdicts: Sequence[Verdict], split: str) -> tuple[str, ...]:
    found = []
    if any(verdict.comparison is None for verdict in verdicts):
        found.append("Some runs were trained or scored on other examples than the first, and are not compared with it.")
    if split == "test":
        found.append("These are test scores. A run that is chosen by its test score has no fair one left to report.")
    return tuple(found)


def _notes(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    tested = sum(verdict.comparison is not None and verdict.comparison.p_value is not None for verdict in verdicts)
    many = (
        f"{tested} runs were tested, each at 5 %: where none differs, one at least is told apart by luck in up to"
        f" {100 * (1 - (1 - SIGNIFICANCE) ** tested):.0f} of 100 such comparisons"
    )
    left = dict.fromkeys(note for verdict in verdicts for note in verdict.notes)
    return (*([many] if tested > 1 else []), *left)
