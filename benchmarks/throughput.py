"""The framework's training loop against the bare one, in alternating segments of one process.

    python benchmarks/throughput.py mlp --output benchmarks/results/throughput-mlp.json
    python benchmarks/throughput.py cnn --output benchmarks/results/throughput-cnn.json

Both train the same network on MNIST with batch 128, BatchNorm, dropout 0.2, AdamW and cosine; each with its defaults,
so the dropout masks are hashed here and drawn by threefry there. A segment is a number of steps; the ratio is taken
pair by pair and its median printed, for the speed of a shared machine drifts. The framework's segment is the whole loop
of `fit`: chunks, sums, fetches and log points. There is no evaluation in either.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

import bare_cnn
import bare_mlp

import jaxtrain as jt
from jaxtrain.device import manifest
from jaxtrain.files import write_json
from jaxtrain.layout import Parallel
from jaxtrain.log import Log, Logs
from jaxtrain.members import make_group
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import train

STEPS = {"mlp": 400, "cnn": 50}  # of a segment: about two seconds
EPOCHS = 1000  # long enough for any number of segments


def bare(name: str, folder: Path) -> Iterator[float]:
    """Images per second of the bare loop, segment by segment."""
    init, apply = {"mlp": (bare_mlp.init_mlp, bare_mlp.apply_mlp), "cnn": (bare_cnn.init_cnn, bare_cnn.apply_cnn)}[name]
    images = bare_mlp.read_mnist(folder / "mnist", "train")
    for rate, _ in bare_mlp.train_segments(init, apply, images, epochs=EPOCHS, steps=STEPS[name]):
        yield rate


def framework(
    name: str, folder: Path, *, members: int = 1, parallel: Parallel = "loop", devices: Sequence[Any] | None = None
) -> Iterator[float]:
    """Images per second of the loop of `fit`, all members together, segment by segment."""
    networks = {"mlp": jt.MLP(hidden=(512, 512)), "cnn": jt.CNN(features=(32, 64), hidden=128)}
    data = jt.load_data(jt.DataConfig(name="mnist", dir=str(folder), val_share=0.02, download=False))
    config = jt.Config(epochs=EPOCHS, batch_size=128, eval_every_epochs=EPOCHS)
    hyper = jt.Hyper(learning_rate=2e-3, weight_decay=1e-2, dropout_rate=0.2)
    group = make_group(
        make_setting(networks[name], data, config), data, range(members), hyper, parallel, devices=devices
    )
    while True:
        with Log(None, Terminal(quiet=True)) as log:
            began = time.perf_counter()
            timing = train(group, log=Logs(log), until=group.step + STEPS[name])
            spent = time.perf_counter() - began - timing.compile
        yield timing.images / spent


def main() -> None:
    """Print a line a pair, and the medians as JSON."""
    parser = argparse.ArgumentParser(description="jaxtrain's loop against the bare one, alternating.")
    parser.add_argument("network", choices=sorted(STEPS))
    parser.add_argument("--segments", type=int, default=9, help="pairs that count; one more comes first")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("JAXTRAIN_DATA", "data")))
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    args = parser.parse_args()
    pairs = zip(framework(args.network, args.data), bare(args.network, args.data), strict=False)
    next(pairs)  # warm-up
    rates = []
    for _ in range(args.segments):
        rates.append(next(pairs))
        print(f"jaxtrain {rates[-1][0]:,.0f} img/s, bare {rates[-1][1]:,.0f} img/s", flush=True)
    ratios = [ours / theirs for ours, theirs in rates]
    result: dict[str, Any] = {
        "network": args.network,
        "jaxtrain_images_per_second": round(statistics.median(ours for ours, _ in rates)),
        "bare_images_per_second": round(statistics.median(theirs for _, theirs in rates)),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "segments": len(rates),
        "steps_a_segment": STEPS[args.network],
    }
    print(json.dumps(result, indent=2))
    if args.output is not None:
        write_json(args.output, {**result, "manifest": manifest()})


if __name__ == "__main__":
    main()
