"""What each part of configs/cifar10_fast.py brings: the same training without it, over the same seeds.

    python benchmarks/cifar10_parts.py --data data --seeds 10 --output benchmarks/results/cifar10-parts.json
    python benchmarks/cifar10_parts.py --data data --examples 5000 --epochs 8 --batch_size 100 --model.widths 16 64 64

Each is trained by `fit` with --seeds members, at the config's rates, and at usual ones of Adam and SGD, none of them
searched for; the difference to the whole is that seed by seed, with its 95 % interval
(paired t-test). Any field of the config can be given as to scripts/train.py, and --only names some of the parts.
Exit status: 0; 1 if the data cannot be read; 2 if the request is wrong.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

import jaxtrain as jt
from jaxtrain.configfile import load_config, to_json
from jaxtrain.data import Data
from jaxtrain.device import manifest
from jaxtrain.errors import RequestError
from jaxtrain.fields import replace_at
from jaxtrain.files import write_json
from jaxtrain.overrides import parse_overrides
from jaxtrain.script import make_parser, prepare, run_script
from jaxtrain.seeds import compare, describe, interval

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cifar10_fast import ROOT, read

Change = Callable[[jt.Experiment], jt.Experiment]


def fields(**values: Any) -> Change:
    """Fields of an experiment set, with __ for the dots of their paths."""

    def change(experiment: jt.Experiment) -> jt.Experiment:
        for path, value in values.items():
            experiment = replace_at(experiment, path.replace("__", "."), value)
        return experiment

    return change


PARTS: dict[str, Change] = {
    "the whole": lambda experiment: experiment,
    "AdamW for Muon": fields(
        config__optimizer=jt.Adam(), hyper__learning_rate=3e-3, hyper__momentum=0.9, hyper__weight_decay=0.01
    ),
    "Nesterov's SGD for Muon": fields(
        config__optimizer=jt.Sgd(nesterov=True),
        hyper__learning_rate=0.1,
        hyper__momentum=0.9,
        hyper__weight_decay=5e-3,
    ),
    "lengths of kernels not held": fields(config__optimizer=jt.Muon(steps=3, decay_mask="all")),
    "five steps of the iteration for three": fields(
        config__optimizer=jt.Muon(steps=5, hold_norm=True, decay_mask="all")
    ),
    "flips at random": fields(config__augment=jt.Augment(crop=2, flip=True)),
    "no flips": fields(config__augment=jt.Augment(crop=2)),
    "no crops": fields(config__augment=jt.Augment(flip=True, alternate=True)),
    "drawn at random, not close to the identity": fields(model__kernel_init="he"),
    "the whitening's bias trained to the end": fields(config__frozen_after=()),
    "no label smoothing": fields(hyper__label_smoothing=None),
    "a constant rate": fields(config__schedule=jt.Schedule(kind="constant")),
    "views mirrored only": fields(config__tta="mirror"),
    "one view": fields(config__tta="none"),
    "BatchNorm's usual momentum, 0.9": fields(model__norm_momentum=0.9),
}


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--config", default=str(ROOT / "configs" / "cifar10_fast.py"), metavar="FILE[:VARIANT]")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("JAXTRAIN_DATA", "data")))
    parser.add_argument("--seeds", type=int, default=5, help="of each, 2 at least")
    parser.add_argument("--examples", type=int, help="only so many training and test examples")
    parser.add_argument("--only", nargs="+", metavar="PART", help="some of: " + ", ".join(list(PARTS)[1:]))
    parser.add_argument("--output", type=Path, help="write what was found as JSON")
    flags, rest = parser.parse_known_args(args)
    if flags.seeds < 2:
        raise RequestError(f"--seeds is {flags.seeds}; a difference needs 2 or more")
    unknown = [name for name in flags.only or [] if name not in PARTS]
    if unknown:
        raise RequestError(f"--only has {unknown[0]!r}; expected some of: {', '.join(PARTS)}")
    own = [option for action in parser._actions for option in action.option_strings]
    experiment = parse_overrides(load_config(flags.config), rest, prog=parser.prog, own_flags=own)
    prepare(members=flags.seeds)
    experiment, data = read(experiment, flags)
    whole, *others = PARTS
    found: dict[str, Any] = {"experiment": to_json(experiment), "num_train": data.num_train, "manifest": manifest()}
    found["parts"] = {}
    for name in (whole, *(other for other in others if flags.only is None or other in flags.only)):
        row = one(PARTS[name](experiment), data, flags.seeds)
        found["parts"][name] = row
        if name != whole:
            row["minus_the_whole"] = dataclasses.asdict(
                compare(found["parts"][whole]["members"], row["members"], paired=True)
            )
        print(sentence(name, row), flush=True)
        if flags.output is not None:  # after each, for they take long
            write_json(flags.output, found)


def one(experiment: jt.Experiment, data: Data, count: int) -> dict[str, Any]:
    """Test accuracy of each member."""
    began = time.perf_counter()
    runs = jt.fit(experiment.model, data, experiment.config, experiment.hyper, seeds=range(count), quiet=True)
    members = [member["test"]["accuracy"] for member in runs.summary["members"]]
    return {
        "members": members,
        "accuracy": dataclasses.asdict(interval(members)),
        "seconds": time.perf_counter() - began,
    }


def sentence(name: str, row: dict[str, Any]) -> str:
    """A part in a line."""
    told = f"{name}: {describe(interval(row['members']))}"
    if "minus_the_whole" not in row:
        return told
    apart = row["minus_the_whole"]
    low, high = apart["low"], apart["high"]
    ends = "" if low is None else f" ({100 * low:+.2f} to {100 * high:+.2f})"
    return f"{told}; {100 * apart['difference']:+.2f} points{ends}"


if __name__ == "__main__":
    run_script(main)
