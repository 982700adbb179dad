"""What it costs to lose nothing: checkpoints, the copies by which a NaN is traced, the guard that skips bad steps.

    python benchmarks/safety.py configs/mnist.py --output benchmarks/results/safety-mnist.json
    python benchmarks/safety.py configs/mnist.py:cnn --rounds 3

Four groups of one member train epoch after epoch in turn, in one process: `mark` (nothing is copied and nothing saved),
`stop` (the default of a single run: a copy of the state before each chunk), `skip` (each step is guarded), and `saved`
(as `stop`, with a checkpoint after each epoch, so that it is written while the next one trains). `save_share` is what a
checkpoint costs, the time for which it blocks the loop and what it slows down the next epoch, as a share of the seconds
that the config has between two of them.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.checkpoint import Store
from jaxtrain.configfile import load_config
from jaxtrain.data import load_data
from jaxtrain.device import enable_compilation_cache, manifest
from jaxtrain.files import write_json
from jaxtrain.layout import ALONE
from jaxtrain.log import Log, Logs
from jaxtrain.members import Group, make_group
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import checkpoint_tree, train

KINDS = ("mark", "stop", "skip", "saved")


class Runner:
    """A group that trains an epoch at a time."""

    def __init__(self, group: Group, kind: str, store: Store | None) -> None:
        self.group, self.kind, self.store, self.epoch = group, kind, store, 0

    def next_epoch(self) -> dict[str, float]:
        """Seconds in training chunks, and for which saving blocked the loop."""
        self.epoch += 1
        until, silent = self.epoch * self.group.setting.steps_per_epoch, Logs(Log(None, Terminal(quiet=True)))
        now = time.perf_counter()
        timing = train(self.group, log=silent, until=until, mark=self.kind == "mark")
        seconds, now = time.perf_counter() - now - timing.compile, time.perf_counter()
        if self.store is not None:
            self.store.save(self.group.step, checkpoint_tree(self.group), {})
        return {"epoch": seconds, "blocked": time.perf_counter() - now}


def measure(reference: str, rounds: int) -> dict[str, Any]:
    """Medians over rounds; the first, which compiles, does not count."""
    experiment = load_config(reference)
    data, seconds = load_data(experiment.data), []
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        runners = []
        for kind in KINDS:
            config = dataclasses.replace(experiment.config, nonfinite="skip" if kind == "skip" else "auto")
            config = dataclasses.replace(config, epochs=rounds + 1)
            setting = make_setting(experiment.model, data, config)
            group = make_group(setting, data, (0,), experiment.hyper, ALONE)
            runners.append(Runner(group, kind, store if kind == "saved" else None))
        for number in range(rounds + 1):
            row = {runner.kind: runner.next_epoch() for runner in runners}
            if number:
                seconds.append(row)
                print({kind: round(value["epoch"], 3) for kind, value in row.items()}, flush=True)
        store.wait()
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    blocked = [row["saved"]["blocked"] for row in seconds]
    slower = [row["saved"]["epoch"] - row["stop"]["epoch"] for row in seconds]
    every = experiment.config.checkpoint_every_seconds
    return {
        "config": reference,
        "seconds_an_epoch": {kind: statistics.median(row[kind]["epoch"] for row in seconds) for kind in KINDS},
        "ratio_stop_to_mark": _spread([row["stop"]["epoch"] / row["mark"]["epoch"] for row in seconds]),
        "ratio_skip_to_stop": _spread([row["skip"]["epoch"] / row["stop"]["epoch"] for row in seconds]),
        "save_blocks_seconds": _spread(blocked),
        "save_slows_next_epoch_seconds": _spread(slower),
        "save_share": (statistics.median(blocked) + max(0.0, statistics.median(slower))) / every,
        "checkpoint_every_seconds": every,
        "bytes_of_two_checkpoints": size,
        "rounds": rounds,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Print a line a round, and the medians as JSON."""
    parser = argparse.ArgumentParser(description="Checkpoints, copies and guards against none of them, alternating.")
    parser.add_argument("config", help="config file, for example configs/mnist.py")
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each that count")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    args = parser.parse_args()
    enable_compilation_cache()
    result = measure(args.config, args.rounds)
    print(json.dumps(result, indent=2))
    if args.output is not None:
        write_json(args.output, {**result, "manifest": manifest()})


if __name__ == "__main__":
    main()
