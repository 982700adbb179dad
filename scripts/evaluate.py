"""Score a finished run.

    python scripts/evaluate.py runs/mnist-20261122-101500
    python scripts/evaluate.py runs/mnist-20261122-101500 --data.dir /data --split val

Loads the run's data again, checks that it is the same, and prints the metrics as JSON. Where the data has moved:
--data.dir or --data.path.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.config import Experiment
from jaxtrain.configfile import to_json
from jaxtrain.data import Data, load_data
from jaxtrain.errors import RequestError
from jaxtrain.folder import PLACES, differences
from jaxtrain.overrides import parse_overrides
from jaxtrain.script import make_parser, prepare, read_run, run_script


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="its config file, for a network of your own")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="which split to score")
    parser.add_argument("--other-data", action="store_true", help="score data other than the run's, on purpose")
    flags, rest = parser.parse_known_args(args)
    prepare()
    run, experiment = read_run(flags.run, flags.config)
    data = _load_data(experiment, rest)
    if data.info.sha256 != run.info.sha256 and not flags.other_data:
        raise RequestError(
            f"the data is not what {flags.run} was trained on (its SHA-256 is {data.info.sha256[:12]}, was"
            f" {run.info.sha256[:12]}), so a split may hold training examples; give --other-data if that is meant"
        )
    start, stop = getattr(data, flags.split)
    if start == stop:
        raise RequestError(f"{data.info.name} has no {flags.split} split; choose another with --split")
    scores = run.evaluate(data.image[start:stop], data.label[start:stop])
    print(json.dumps({"run": str(flags.run), "split": flags.split, "examples": stop - start, **vars(scores)}, indent=2))


def _load_data(experiment: Experiment, rest: list[str]) -> Data:
    """The run's data; only where it lies may be said anew, for another split would score training examples."""
    moved = parse_overrides(experiment, rest, prog="evaluate.py")
    changed = differences(to_json(experiment), to_json(moved), PLACES)
    if changed:
        raise RequestError(f"{changed[0]}; evaluate.py takes only --data.dir, --data.path and --data.download")
    return load_data(moved.data, report=lambda text: print(text, file=sys.stderr))


if __name__ == "__main__":
    run_script(main)
