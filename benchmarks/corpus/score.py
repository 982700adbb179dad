"""How often the diagnosis is right, on the corpus of real runs with known faults.

    python benchmarks/corpus/score.py tuning
    python benchmarks/corpus/score.py held-out --write docs/diagnosis.md

Reads what `scripts/build_corpus.py` has trained: build/corpus, else what is packed in this folder. A planted fault
counts where it costs at least 5 % of the healthy twin's score (a leak: where validation is 5 % better than the test
split); the milder ones are told apart. Recall: the fault is among the findings. False alarm: a healthy run with any.
"""

import argparse
import gzip
import json
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout runs without being installed

from jaxtrain.diagnose import NAMES, Finding, History, diagnose
from jaxtrain.files import write_text

ROOT = Path(__file__).resolve().parents[2]

KINDS = {
    "diverged": ("diverged", "lr_too_high"),
    "not_normalised": ("not_normalised",),
    "wrong_loss": ("wrong_target",),
    "wrong_labels": ("wrong_target",),
    "exploding_gradients": ("exploding_gradients",),
    "vanishing_gradients": ("vanishing_gradients",),
    "dying_relus": ("dying_relus",),
    "lr_too_high": ("lr_too_high", "diverged"),
    "lr_too_low": ("lr_too_low",),
    "no_annealing": ("plateau", "lr_too_high"),
    "stale_batch_norm": ("stale_batch_norm",),
    "noisy": ("noisy",),
    "label_noise": ("label_noise",),
    "leaked_validation": ("leaked_validation",),
    "overfitting": ("overfitting",),
    "underfitting": ("underfitting",),
}
"""Planted fault -> the findings that name it. A rate that is too high may end in NaN, and one that is not annealed is
too high at the end."""

COSTS = 0.05
BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"


def read(half: str, *, packed: bool = False) -> list[dict[str, Any]]:
    """The lines of one half; `packed`: those of this folder, whatever has been built since."""
    built, kept = ROOT / "build" / "corpus" / f"{half}.jsonl", Path(__file__).parent / f"{half}.jsonl.gz"
    if built.exists() and not packed:
        text = built.read_text(encoding="utf-8")
    elif kept.exists():
        text = gzip.decompress(kept.read_bytes()).decode()
    else:
        raise SystemExit(f"there is neither {built} nor {kept}; make them by scripts/build_corpus.py")
    return [json.loads(line) for line in text.splitlines()]


def cost(line: Mapping[str, Any], twins: Mapping[str, float]) -> float:
    """What the fault has cost, as a share of the twin's score; 1 where nothing is left, NaN without a twin."""
    history = line["history"]
    if line["kind"] == "leaked_validation":
        val = history["rows"]["val/accuracy"][-1]
        return (val - line["score"]) / val if line["score"] is not None else math.nan
    twin = twins.get(line["twin"], math.nan)
    if line["score"] is None or not math.isfinite(line["score"]):
        return 1.0
    return min(1.0, (twin - line["score"]) / twin) if math.isfinite(twin) else math.nan


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share (Wilson, 1927)."""
    if not count:
        return 0.0, 1.0
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def score(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each line with its cost and its findings."""
    healthy = defaultdict(list)
    for line in lines:
        if line["kind"] == "healthy" and line["score"] is not None:
            healthy[line["name"]].append(line["score"])
    twins = {name: statistics.fmean(scores) for name, scores in healthy.items()}
    return [
        {**line, "cost": cost(line, twins), "found": diagnose(History.from_json(line["history"]))} for line in lines
    ]


def is_hit(kind: str, found: Iterable[Finding]) -> bool:
    return any(finding.name in KINDS[kind] for finding in found)


def table(scored: Sequence[Mapping[str, Any]]) -> str:
    """Recall by kind, and false alarms, as Markdown."""
    lines = ["| planted fault | runs that it costs 5 % | recall (95 % interval) | milder runs | recall |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for kind in KINDS:
        rows = [line for line in scored if line["kind"] == kind]
        parts = [[line for line in rows if (line["cost"] >= COSTS) == grave] for grave in (True, False)]
        cells = []
        for part, intervals in zip(parts, (True, False), strict=True):
            hits = sum(is_hit(kind, line["found"]) for line in part)
            low, high = wilson(hits, len(part))
            share = f"{hits / len(part):.0%}" if part else ""
            cells += [str(len(part)), f"{share} ({low:.0%} to {high:.0%})" if intervals and part else share]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", alarms(scored)])


def alarms(scored: Sequence[Mapping[str, Any]]) -> str:
    """Findings in healthy runs, in a sentence."""
    healthy = [line for line in scored if line["kind"] == "healthy"]
    found = [[f for f in line["found"] if f.name != "healthy"] for line in healthy]
    told, high = sum(map(bool, found)), sum(any(f.level == "high" for f in one) for one in found)
    low, up = wilson(told, len(healthy))
    share = f"{told / max(1, len(healthy)):.1%}, 95 % interval {low:.1%} to {up:.1%}"
    return f"{len(healthy)} healthy runs: {told} with a finding ({share}), {high} with one of high confidence."


def confusion(scored: Sequence[Mapping[str, Any]]) -> str:
    """Which findings each planted kind had, in runs that it cost 5 %."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sizes: Counter[str] = Counter()
    for line in scored:
        if line["kind"] == "healthy" or line["cost"] >= COSTS:
            sizes[line["kind"]] += 1
            counts[line["kind"]].update({finding.name for finding in line["found"]})
    lines = [f"| planted | runs | {' | '.join(NAMES)} |", f"| --- |{' --- |' * (len(NAMES) + 1)}"]
    for kind in (*KINDS, "healthy"):
        cells = [str(counts[kind][name] or "") for name in NAMES]
        lines.append(f"| {kind} | {sizes[kind]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def misses(scored: Sequence[Mapping[str, Any]]) -> list[str]:
    """For who tunes the rules: what was missed, and what was alarmed about."""
    told = []
    for line in scored:
        names = ", ".join(f"{finding.name} {finding.confidence:.2f}" for finding in line["found"])
        if line["kind"] == "healthy":
            if any(finding.name != "healthy" for finding in line["found"]):
                told.append(f"ALARM {line['name']} seed {line['seed']} score {line['score']}: {names}")
        elif line["cost"] >= COSTS and not is_hit(line["kind"], line["found"]):
            told.append(f"MISS {line['name']} seed {line['seed']} cost {line['cost']:.2f}: {names}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("half", choices=("tuning", "held-out"))
    parser.add_argument("--misses", action="store_true", help="list what was missed")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this Markdown file")
    flags = parser.parse_args()
    scored = score(read(flags.half))
    tables = f"{table(scored)}\n\n{confusion(scored)}"
    print(tables)
    if flags.misses:
        print("", *misses(scored), sep="\n")
    if flags.write is not None:
        write_between(flags.write, BEGIN, END, tables)


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Put `text` in the place of what stands between two marks of a file."""
    before, rest = path.read_text(encoding="utf-8").split(begin)
    write_text(path, f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
