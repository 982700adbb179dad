"""Train a config over several seeds and write what came of it: the source of the figures in the README.

    python scripts/reproduce.py configs/mnist.py configs/mnist.py:cnn --seeds 5
    python scripts/reproduce.py configs/digits.py --seeds 10 --output benchmarks/results

Refuses stand-in data, and checks that the data is what its authors published. Writes OUTPUT/reproduce-NAME.json with
every seed's validation and test accuracy, the times, the versions and the command.
"""

import dataclasses
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.configfile import load_config, to_json
from jaxtrain.data import Data, load_data
from jaxtrain.device import manifest
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import write_json
from jaxtrain.overrides import parse_overrides
from jaxtrain.run import fit
from jaxtrain.script import make_parser, prepare, run_name, run_script


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("configs", nargs="+", metavar="FILE[:VARIANT]", help="config files")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (default 5)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder for the JSON")
    flags, rest = parser.parse_known_args(args)
    if flags.seeds < 1:
        raise RequestError(f"--seeds is {flags.seeds}; give at least 1")
    prepare()
    for reference in flags.configs:
        result = reproduce(reference, rest, flags.seeds)
        write_json(flags.output / f"reproduce-{run_name(reference)}.json", result)
        print(describe(result), flush=True)


def reproduce(reference: str, overrides: list[str], num_seeds: int) -> dict[str, Any]:
    """Every seed's result and what they come to."""
    experiment = parse_overrides(load_config(reference), overrides, prog="reproduce.py")
    data = _published(experiment.data)
    runs = []
    for seed in range(num_seeds):
        run = fit(experiment.model, data, experiment.config, experiment.hyper, seed=seed, quiet=True)
        keep = ("seed", "val", "test", "epochs", "seconds", "compile_seconds", "images_per_second", "digest")
        runs.append({name: run.summary[name] for name in keep})
        print(f"{reference} seed {seed}: val {run.val.accuracy:.4f} test {run.test.accuracy:.4f}", flush=True)
    return {
        "config": reference,
        "overrides": overrides,
        **{split: _spread([run[split]["accuracy"] for run in runs]) for split in ("val", "test")},
        "seconds": statistics.median(run["seconds"] for run in runs),
        "images_per_second": statistics.median(run["images_per_second"] for run in runs),
        "runs": runs,
        "experiment": to_json(experiment),
        "data": dataclasses.asdict(data.info),
        "manifest": manifest(),
    }


def describe(result: dict[str, Any]) -> str:
    """One line: mean, spread, seeds, time."""
    parts = [f"{split} {_percent(result[split])}" for split in ("val", "test")]
    return (
        f"{result['config']}: {', '.join(parts)} ({result['test']['seeds']} seeds,"
        f" {result['seconds']:.0f} s a run, {result['images_per_second']:,.0f} img/s)"
    )


def _published(config: Any) -> Data:
    data = load_data(dataclasses.replace(config, fallback=None, download=False))
    if not data.info.published:
        raise WorldError(f"{data.info.name} in {data.info.source} is not the published data set; get that one")
    return data


def _spread(values: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": statistics.mean(values),
        "std": deviation,
        "min": min(values),
        "max": max(values),
        "seeds": len(values),
    }


def _percent(spread: dict[str, float]) -> str:
    return f"{100 * spread['mean']:.2f} ± {100 * spread['std']:.2f} %"


if __name__ == "__main__":
    run_script(main)
