"""How often `diagnose.py --try` mends a run: faults that a change of config can mend, from the fault to the whole run.

    python benchmarks/corpus/mend.py                     # about 40 runs, resumable
    python benchmarks/corpus/mend.py --write docs/diagnosis.md

Each fault is trained (three seeds), diagnosed, and what the diagnosis suggests is tried for a third of its steps, as
`diagnose.py --try` does; the best is trained at full length. Restored is the share of the test score between the faulty
and the healthy run that it wins back. A fault counts where it costs 5 % of the healthy run's score.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout runs without being installed

import numpy as np
import sets
from recipes import Case, base, data_of, unscaled
from score import COSTS, write_between

import jaxtrain as jt
from jaxtrain.config import Experiment
from jaxtrain.device import enable_compilation_cache, one_device_per_core
from jaxtrain.diagnose import diagnose_path
from jaxtrain.errors import NonFiniteError
from jaxtrain.files import JsonLines, read_json_lines
from jaxtrain.tryout import remedies, try_remedies

ROOT = Path(__file__).resolve().parents[2]
BASES = (("digits", "mlp"), ("friedman", "mlp"), ("fashion", "mlp"))
SEEDS = (10, 11, 12)
RESTORED = 0.9
BEGIN, END = "<!-- mended: begin -->", "<!-- mended: end -->"


def faults(case: Case) -> Iterator[tuple[str, Case]]:
    """What a change of config can mend."""
    for factor in (100, 1000):
        yield f"learning rate x{factor}", case.number(learning_rate=factor)
        yield f"learning rate /{factor}", case.number(learning_rate=1 / factor)
    plain = case.networks(batch_norm=False)
    for rate in (10.0, 1e-5):
        yield (
            f"SGD, learning rate {rate:g}",
            plain.configs(optimizer=jt.Sgd()).hypers(learning_rate=rate, weight_decay=None),
        )
    constant = case.number(learning_rate=10).configs(schedule=jt.Schedule("constant"), batch_size=16)
    yield "constant rate x10, batch 16", constant
    yield "batch 2", case.configs(batch_size=2, epochs=case.config.epochs // 4)
    yield "dropout 0.95", case.hypers(dropout_rate=0.95)
    yield "two hidden units", plain.networks(hidden=(2,)).hypers(dropout_rate=None)
    yield "weight decay 100", case.hypers(weight_decay=100.0)
    raw = unscaled(plain, np.random.default_rng(0))
    yield "raw inputs, SGD", raw.configs(optimizer=jt.Sgd()).hypers(learning_rate=0.05, weight_decay=None)
    deep = plain.networks(hidden=(64,) * 10, activation="sigmoid").hypers(dropout_rate=None)
    yield "ten layers of sigmoids", deep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "mended.jsonl")
    parser.add_argument("--only", default="", metavar="NAME", help="faults whose name begins so, as digits/mlp/batch 2")
    parser.add_argument("--write", type=Path, help="put the table between the marks of this Markdown file, and end")
    flags = parser.parse_args()
    if flags.write is not None:
        write_between(flags.write, BEGIN, END, table(list(read_json_lines(flags.results))))
        return
    enable_compilation_cache()
    one_device_per_core(2)
    done = {line["name"] for line in read_json_lines(flags.results)}
    for data, network in BASES:
        healthy = None
        for fault, case in faults(base(data, network)):
            name = f"{data}/{network}/{fault}"
            if name in done or not name.startswith(flags.only):
                continue
            healthy = healthy if healthy is not None else trained(base(data, network))[0]
            line = mend(name, case, healthy)
            with JsonLines(flags.results) as file:
                file.append(line)
            print({key: line[key] for key in ("name", "healthy", "faulty", "mended", "best", "minutes")}, flush=True)
    print(table(list(read_json_lines(flags.results))))


def mend(name: str, case: Case, healthy: float) -> dict[str, Any]:
    """One line: what was found, what was tried, and what the best of it scores at full length."""
    began = time.monotonic()
    data = data_of(case, name)
    faulty, findings = trained(case)
    described = jt.DataConfig(val_share=case.val_share, preprocess=case.preprocess)  # pyright: ignore[reportArgumentType]
    experiment = Experiment(case.model, described, case.config, case.hyper)
    line = {"name": name, "healthy": healthy, "faulty": faulty, "found": [finding.name for finding in findings]}
    suggested = remedies(findings, experiment, image_shape=data.image_shape)
    if not suggested:
        return {**line, "tried": 0, "best": None, "mended": faulty, "minutes": 0.0}
    tryout = try_remedies(experiment, data, suggested, seeds=SEEDS)
    whole = case.config.epochs * (data.num_train // case.config.batch_size)
    steps = max(trial.steps for trial in tryout.trials)
    line |= {"tried": len(tryout.trials), "share_of_steps": steps / whole}
    best = tryout.best
    mended = faulty
    if best is not None:
        chosen = best.trial.experiment
        changed = replace(
            case, model=chosen.model, config=chosen.config, hyper=chosen.hyper, preprocess=chosen.data.preprocess
        )
        mended = trained(changed)[0]
    told = None if best is None else best.trial.name
    return {**line, "best": told, "mended": mended, "minutes": (time.monotonic() - began) / 60}


def trained(case: Case) -> tuple[float, Any]:
    """The mean test score over the seeds, that of knowing nothing for a seed that diverged, and the findings."""
    data, arrays = data_of(case), case.arrays
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "run")
        try:
            run = jt.fit(
                case.model,
                data,
                case.config,
                case.hyper,
                seeds=SEEDS,
                task=case.task,
                workdir=place,
                report=False,
                quiet=True,
            )
            tests = [member.summary.get("test") for member in run.members]
        except NonFiniteError:
            tests = [None] * len(SEEDS)
        findings = diagnose_path(place).findings
    nothing = float(np.bincount(arrays.label).max() / len(arrays.label)) if arrays.num_classes else 0.0
    scores = [nothing if test is None else max(0.0, sets.score(test, arrays.test_label)) for test in tests]
    return statistics.fmean(scores), findings


def table(lines: list[dict[str, Any]]) -> str:
    """All faults that count, and how many were mended, as Markdown."""
    rows = ["| fault | healthy | faulty | found | tried | best | trained with it | restored |", f"|{' --- |' * 8}"]
    restored = []
    for line in lines:
        lost = line["healthy"] - line["faulty"]
        if lost < COSTS * line["healthy"]:
            continue
        restored.append((line["mended"] - line["faulty"]) / lost)
        scores = [f"{line[name]:.3f}" for name in ("healthy", "faulty", "mended")]
        found = ", ".join(line["found"])
        rows.append(
            f"| {line['name']} | {scores[0]} | {scores[1]} | {found} | {line['tried']} | {line['best'] or 'nothing'} |"
            f" {scores[2]} | {restored[-1]:.0%} |"
        )
    mended = sum(share >= RESTORED for share in restored)
    most = max((line.get("share_of_steps", 0) for line in lines), default=0)
    return "\n".join(
        [
            *rows,
            "",
            f"{mended} of {len(restored)} have {RESTORED:.0%} of what was lost restored; no remedy was tried for more"
            f" than {most:.1%} of the run's steps.",
        ]
    )


if __name__ == "__main__":
    main()
