"""Whether the healthy trainings of the corpus are: each beside what would be tried if they were not.

    python benchmarks/corpus/bases.py                    # all bases, minutes
    python benchmarks/corpus/bases.py cifar/resnet

A base counts as healthy if nothing here gains 5 % of its score: three times as long, twice as wide, three times the
rate, both, or a third of it, more dropout and less. What a base lacks would else be told as a false alarm. Two seeds
each, scored on the validation split.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout runs without being installed

import sets
from recipes import HELD_OUT, TUNING, Case, base, data_of

import jaxtrain as jt
from jaxtrain.device import enable_compilation_cache, one_device_per_core
from jaxtrain.errors import NonFiniteError


def changes(case: Case) -> dict[str, Case]:
    """What might be better than the base."""
    model, dropout = case.model, case.hyper.dropout_rate or 0.0
    widths = {
        name: tuple(2 * width for width in getattr(model, name))
        for name in ("hidden", "features", "widths")
        if isinstance(getattr(model, name, None), tuple)
    }
    return {
        "base": case,
        "epochs x3": case.configs(epochs=3 * case.config.epochs),
        "twice as wide": case.networks(**widths),
        "rate x3": case.number(learning_rate=3),
        "epochs and rate x3": case.configs(epochs=3 * case.config.epochs).number(learning_rate=3),
        "rate /3": case.number(learning_rate=1 / 3),
        "dropout +0.2": case.hypers(dropout_rate=dropout + 0.2),
        "dropout -0.2": case.hypers(dropout_rate=max(0.0, dropout - 0.2) or None),
    }


def score(case: Case) -> float:
    """Mean validation accuracy, or explained share of the variance, of two seeds; 0 of what diverged."""
    try:
        run = jt.fit(
            case.model, data_of(case), case.config, case.hyper, seeds=(50, 51), task=case.task, report=False, quiet=True
        )
    except NonFiniteError:
        return 0.0
    return statistics.fmean(sets.score(member.summary["val"], case.arrays.label) for member in run.members)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="data/network; default: all")
    flags = parser.parse_args()
    enable_compilation_cache()
    one_device_per_core(2)
    for data, network in (*TUNING, *HELD_OUT):
        if flags.names and f"{data}/{network}" not in flags.names:
            continue
        scores = {name: score(case) for name, case in changes(base(data, network)).items()}
        own = scores.pop("base")
        best = max(scores, key=lambda name: scores[name])
        gain = (scores[best] - own) / own
        told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        print(f"{data}/{network}: base {own:.3f}; {told}. Best gain {gain:.1%} ({best})", flush=True)


if __name__ == "__main__":
    main()
