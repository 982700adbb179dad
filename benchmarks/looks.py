"""What TensorBoard costs: epochs of a config with all that is written of them, against epochs with nothing written.

    python benchmarks/looks.py configs/mnist.py --output benchmarks/results/looks-mnist.json
    python benchmarks/looks.py configs/mnist.py:cnn --pairs 5

Both are the whole loop with its evaluations, in alternating epochs of one process; one of them logs into a folder,
looks at single steps at the config's cadence and flushes after each epoch. `share` is the share of an epoch that its
looks took by the clock, which is steadier than the ratio of two epochs on a machine that does other things too. What is
drawn once a run (graphs, the batch, the report) is timed apart.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.configfile import load_config
from jaxtrain.data import load_data
from jaxtrain.device import enable_compilation_cache, manifest
from jaxtrain.files import write_json
from jaxtrain.layout import Layout
from jaxtrain.log import Log, Logs
from jaxtrain.members import make_group
from jaxtrain.overview import log_graphs
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import train


def epochs(reference: str, folder: Path | None, once: dict[str, float]) -> Iterator[tuple[float, float]]:
    """Seconds of each epoch, and of the looks in it; `once` gets what is drawn at the beginning."""
    experiment = load_config(reference)
    data = load_data(experiment.data)
    setting = make_setting(experiment.model, data, experiment.config)
    group = make_group(setting, data, (0,), experiment.hyper, Layout("loop", 1, 1))
    log = Log(folder, Terminal(quiet=True))
    if folder is not None:
        now = time.perf_counter()
        log_graphs(log, setting, data, experiment.hyper)
        once["graphs"] = time.perf_counter() - now
    for epoch in range(1, experiment.config.epochs + 1):
        now = time.perf_counter()
        timing = train(group, log=Logs(log), until=epoch * setting.steps_per_epoch)
        log.flush()
        if epoch == 1:
            once["first_looks_with_compilation"] = timing.look
        yield time.perf_counter() - now - timing.compile, timing.look


def measure(reference: str, pairs: int) -> dict[str, Any]:
    """Medians over pairs of epochs; the first pair, which compiles, does not count."""
    once: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        both = zip(epochs(reference, None, {}), epochs(reference, Path(folder), once), strict=True)
        next(both)
        rows = []
        for _ in range(pairs):
            (plain, _), (logged, looks) = next(both)
            rows.append((plain, logged, looks))
            print(f"nothing written {plain:.3f} s, all {logged:.3f} s, looks {looks:.4f} s", flush=True)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    shares, ratios = [looks / plain for plain, _, looks in rows], [logged / plain for plain, logged, _ in rows]
    return {
        "config": reference,
        "seconds_an_epoch": statistics.median(plain for plain, _, _ in rows),
        "share": {"median": statistics.median(shares), "min": min(shares), "max": max(shares)},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "once_seconds": once,
        "bytes_written": size,
        "pairs": pairs,
    }


def main() -> None:
    """Print a line a pair, and the medians as JSON."""
    parser = argparse.ArgumentParser(description="What is written of an epoch, against nothing written, alternating.")
    parser.add_argument("config", help="config file, for example configs/mnist.py")
    parser.add_argument("--pairs", type=int, default=9, help="epochs of each that count, below the config's number")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    args = parser.parse_args()
    enable_compilation_cache()
    result = measure(args.config, args.pairs)
    print(json.dumps(result, indent=2))
    if args.output is not None:
        write_json(args.output, {**result, "manifest": manifest()})


if __name__ == "__main__":
    main()
