"""Score a finished run, or several as an ensemble.

    python scripts/evaluate.py runs/mnist-20261122-101500
    python scripts/evaluate.py runs/a runs/b
    python scripts/evaluate.py runs/mnist-20261122-101500 --data.dir /data --split val
    python scripts/evaluate.py runs/cifar10-20261122-101500 --tta mirror

Loads the run's data again, checks that it is the same, and prints the metrics as JSON: of one run its scores, of
several (or of a run of several members) those of the mean of their probabilities, of their vote and of the mean member.
Where the data has moved: --data.dir or --data.path.
"""

import json
import sys
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.config import Tta
from jaxtrain.data import load_data
from jaxtrain.errors import RequestError
from jaxtrain.files import jsonable
from jaxtrain.script import data_of, make_parser, prepare, read_runs, run_script


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("run", type=Path, nargs="+", help="folder of a finished run, or of a member of one")
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="its config file, for a network of your own")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="which split to score")
    parser.add_argument("--other-data", action="store_true", help="score data other than the run's, on purpose")
    parser.add_argument("--tta", choices=get_args(Tta), help="views of each image (default: as the run was trained)")
    flags, rest = parser.parse_known_args(args)
    prepare()
    run, experiment = read_runs(flags.run, flags.config)
    run = run if flags.tta is None else run.with_tta(flags.tta)
    moved = data_of(experiment, rest, "evaluate.py")
    data = load_data(moved, report=lambda text: print(text, file=sys.stderr))
    if data.info.sha256 != run.info.sha256 and not flags.other_data:
        raise RequestError(
            f"the data is not what {flags.run[0]} was trained on (its SHA-256 is {data.info.sha256[:12]}, was"
            f" {run.info.sha256[:12]}), so a split may hold training examples; give --other-data if that is meant"
        )
    start, stop = getattr(data, flags.split)
    if start == stop:
        raise RequestError(f"{data.info.name} has no {flags.split} split; choose another with --split")
    found = run.evaluate(data.image[start:stop], data.label[start:stop])
    scores = found if isinstance(found, dict) else vars(found)
    names = [str(folder) for folder in flags.run]
    facts = {"run": names[0] if len(names) == 1 else names, "split": flags.split, "examples": stop - start}
    facts |= {} if flags.tta is None else {"tta": flags.tta}
    print(json.dumps(jsonable({**facts, **scores}), indent=2))


if __name__ == "__main__":
    run_script(main)
