"""Train a config over several seeds and write what came of it: the source of the figures in the README.

    python scripts/reproduce.py configs/mnist.py configs/mnist.py:cnn
    python scripts/reproduce.py configs/digits.py --seeds 0 1 2 3 4 5 6 7 8 9

Each seed is a run of its own, RUNS/NAME-seed0 and so on. Finished runs of the same config are read and not repeated,
unfinished ones are resumed, so seeds may be trained by several processes and collected by one. Refuses stand-in data
and data other than its authors published. Writes OUTPUT/reproduce-NAME.json.
"""

import dataclasses
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.configfile import load_config, to_json
from jaxtrain.data import Data, load_data
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import write_json
from jaxtrain.folder import PLACES, differences, read_config, read_json
from jaxtrain.run import fit
from jaxtrain.script import make_parser, prepare, run_name, run_script


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("configs", nargs="+", metavar="FILE[:VARIANT]", help="config files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of the JSON")
    flags = parser.parse_args(args)
    prepare()
    for reference in flags.configs:
        summaries = [train_seed(reference, seed, flags.runs) for seed in flags.seeds]
        result = collect(reference, summaries)
        flags.output.mkdir(parents=True, exist_ok=True)
        write_json(flags.output / f"reproduce-{run_name(reference)}.json", result)
        print(describe(result), flush=True)


def train_seed(reference: str, seed: int, runs: Path) -> dict[str, Any]:
    """The summary of one seed's run, trained now unless its folder holds it; with the device it was trained on."""
    experiment = dataclasses.replace(load_config(reference), seed=seed)
    data = _published(experiment.data)
    folder = runs / f"{run_name(reference)}-seed{seed}"
    stored = read_config(folder)
    changed = differences(stored, to_json(experiment), PLACES) if stored else []
    if changed:
        raise RequestError(f"{folder} holds a run of another config ({changed[0]}); move it away, or give --runs")
    summary = read_json(folder / "summary.json")
    if summary is None:
        parts = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)}
        summary = fit(**parts, workdir=folder, resume=stored is not None, quiet=True).summary
    if summary["data"]["sha256"] != data.info.sha256:
        raise WorldError(f"{folder} was trained on other data than {data.info.name}; move it away")
    print(f"{reference} seed {seed}: {_scores(summary)}", flush=True)
    facts = read_json(folder / "manifest.json") or {}
    return {**summary, **{name: facts[name] for name in ("device", "backend", "num_cores", "versions")}}


def collect(reference: str, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Every seed's result and what they come to."""
    keep = ("seed", "val", "test", "epochs", "seconds", "compile_seconds", "images_per_second", "digest")
    keep += ("device", "backend", "num_cores", "versions")
    return {
        "config": reference,
        **{split: _spread([summary[split]["accuracy"] for summary in summaries]) for split in ("val", "test")},
        "seconds": statistics.median(summary["seconds"] for summary in summaries),
        "num_parameters": summaries[0]["num_parameters"],
        "data": summaries[0]["data"],
        "runs": [{name: summary[name] for name in keep} for summary in summaries],
        "experiment": to_json(load_config(reference)),
    }


def describe(result: dict[str, Any]) -> str:
    """One line: mean, spread, seeds, time."""
    cores = "/".join(str(number) for number in sorted({run["num_cores"] for run in result["runs"]}))
    return (
        f"{result['config']}: val {_percent(result['val'])}, test {_percent(result['test'])},"
        f" {result['test']['seeds']} seeds, {result['seconds']:.0f} s a run on {cores} cores"
    )


def _scores(summary: dict[str, Any]) -> str:
    return ", ".join(f"{split} {100 * summary[split]['accuracy']:.2f} %" for split in ("train", "val", "test"))


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
