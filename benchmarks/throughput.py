"""The framework's training loop against the bare one, in alternating segments of one process.

    python benchmarks/throughput.py mlp --segments 9
    python benchmarks/throughput.py cnn --segments 7 --output benchmarks/results/throughput-cnn.json

Both train the same network on MNIST with batch 128, BatchNorm, dropout 0.2, AdamW and cosine. A segment is a number of
compiled steps; the ratio is taken pair by pair, and its median printed, for the speed of a shared machine drifts. The
framework's segment is the whole loop of `fit`: chunks, sums, fetches and log points; evaluations are apart in both.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import bare_cnn
import bare_mlp
import jax

import jaxtrain as jt
from jaxtrain.data import Resident
from jaxtrain.log import Log
from jaxtrain.program import compile_program
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import begin, train

STEPS = {"mlp": 400, "cnn": 60}  # of a segment: about two seconds


def bare(name: str, epochs: int) -> Iterator[float]:
    """Images per second of the bare loop, segment by segment."""
    init, apply = {"mlp": (bare_mlp.init_mlp, bare_mlp.apply_mlp), "cnn": (bare_cnn.init_cnn, bare_cnn.apply_cnn)}[name]
    yield from bare_mlp.segments(init, apply, epochs, STEPS[name])


def framework(name: str, mask: str, epochs: int) -> Iterator[float]:
    """Images per second of the loop of `fit`, segment by segment: it is stopped, and goes on where it stood."""
    networks = {"mlp": jt.MLP(hidden=(512, 512)), "cnn": jt.CNN(features=(32, 64), hidden=128)}
    data = jt.load_data(jt.DataConfig(name="mnist", val_share=0.02))
    config = jt.Config(epochs=epochs, batch_size=128, eval_every_epochs=epochs, log_every_steps=100)
    hyper = jt.Hyper(learning_rate=2e-3, weight_decay=1e-2, dropout_rate=0.2)
    program = compile_program(make_setting(networks[name], data, config))
    feed = Resident(data)
    progress = begin(program, feed, program.init(jax.random.key(0), hyper))
    while True:
        start, begun = int(progress.state.step), time.perf_counter()

        def enough(start: int = start) -> bool:
            return int(progress.state.step) - start >= STEPS[name]

        with Log(None, Terminal(quiet=True)) as log:
            timing = train(program, feed, data.num_val, progress, log=log, stop=enough)
        spent = time.perf_counter() - begun - timing.compile
        progress.reason = "running"
        yield timing.images / spent


if __name__ == "__main__":
    pass
