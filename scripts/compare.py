"""Compare two finished runs: what differs between their configs, and whether their scores differ by more than luck.

    python scripts/compare.py runs/before runs/after
    python scripts/compare.py runs/before runs/after --split val --metric loss

Seeds that both runs have are compared in pairs (paired t-test); where there are no two of them, the runs are compared
as a whole (Welch's t-test). Diverged seeds are left out. ± is the standard deviation over seeds.
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.errors import RequestError
from jaxtrain.folder import differences
from jaxtrain.report.comparison import CHANGES_NOTHING, larger_is_better, left_out, names_of
from jaxtrain.script import make_parser, run_script
from jaxtrain.seeds import (
    Comparison,
    Interval,
    SeedScores,
    cells,
    check_comparable,
    compare,
    in_words,
    interval,
    is_percent,
    partners,
    read_scores,
)
from jaxtrain.terminal import Terminal

MOST_LINES = 10


@dataclass(frozen=True)
class Report:
    """All that is printed, as it goes into the JSON."""

    split: str
    metric: str
    changed: list[str]  # fields of the config, as "hyper.learning_rate is 0.01, was 0.001"
    runs: dict[str, Interval]
    comparison: Comparison
    notes: list[str]
    verdict: str


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("run_a", type=Path, help="folder of a finished run")
    parser.add_argument("run_b", type=Path, help="folder of the run that is compared with it")
    parser.add_argument("--metric", help="default: accuracy where there is one, else loss")
    parser.add_argument("--split", choices=("test", "val", "train"), help="default: test where there is one, else val")
    parser.add_argument("--json", action="store_true", help="print JSON")
    flags = parser.parse_args(args)
    if flags.run_a.resolve() == flags.run_b.resolve():
        raise RequestError(f"{flags.run_a} was given twice; name the folders of two runs")
    a, b = read_scores(flags.run_a), read_scores(flags.run_b)
    split = flags.split or ("test" if a.metrics("test") and b.metrics("test") else "val")
    metric = flags.metric or ("accuracy" if "accuracy" in a.metrics(split) else "loss")
    report = make_report(a, b, split, metric)
    if flags.json:
        print(json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False))
    else:
        show(Terminal(), report)


def make_report(a: SeedScores, b: SeedScores, split: str, metric: str) -> Report:
    """The comparison of two runs by one score, and what a reader has to know with it."""
    check_comparable(a, b, split)
    values_a, values_b, paired = partners(a.values(split, metric), b.values(split, metric))
    comparison = compare(list(values_a.values()), list(values_b.values()), paired)
    name_a, name_b = names_of((a.folder, b.folder))
    return Report(
        split=split,
        metric=metric,
        changed=differences(a.config, b.config, CHANGES_NOTHING),
        runs={name_a: interval(values_a.values()), name_b: interval(values_b.values())},
        comparison=comparison,
        notes=[*left_out(name_a, a, values_a), *left_out(name_b, b, values_b), *_cautions(comparison, split)],
        verdict=in_words(comparison, name_a, name_b, f"{split} {metric}", larger_is_better(metric, (a, b))),
    )


def show(terminal: Terminal, report: Report) -> None:
    """For a person: the configs' differences, both runs in a table, the notes, and the verdict last."""
    name_a, name_b = report.runs
    terminal.say(f"{name_b} against {name_a}: {'what differs' if report.changed else 'the same config'}")
    for line in report.changed[:MOST_LINES]:
        terminal.say(f"  {line}")
    if len(report.changed) > MOST_LINES:
        terminal.say(f"  and {len(report.changed) - MOST_LINES} more; --json lists all")
    percent = is_percent(report.metric)
    terminal.table(
        f"\n{report.split} {report.metric} over seeds",
        ("run", "seeds", "mean ± std", "95 % interval of the mean"),
        [(name, str(run.count), *cells(run, percent)) for name, run in report.runs.items()],
    )
    for note in report.notes:
        terminal.say(f"note: {note}")
    terminal.say(f"{report.verdict}.")


def _cautions(comparison: Comparison, split: str) -> list[str]:
    cautions = []
    if not comparison.paired and min(comparison.counts) > 1:
        cautions.append("the runs have no two seeds in common, so the seeds are not paired")
    if split == "test":
        cautions.append("choose between runs with --split val; a run chosen by its test score has no fair one left")
    if split == "val":
        cautions.append("these are validation scores, the ones to choose by; a choice by test is no fair selection")
    return cautions


if __name__ == "__main__":
    run_script(main)
