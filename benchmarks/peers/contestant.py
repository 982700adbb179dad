"""What every contestant shares: its flags, its data, and how it is asked for one epoch after another.

Standard library and NumPy only, for each contestant imports its own framework and nothing of another. A contestant is a
script that is called in one of two ways:

    python benchmarks/peers/torch_loop.py memory --data data            # the whole program: trains, prints a JSON line
    python benchmarks/peers/torch_loop.py memory --data data --asked    # an epoch for each line on stdin

With `--asked` the processes of all contestants wait for each other, so that their epochs can be interleaved: each says
that it is ready, answers every line by the seconds that an epoch took, and the end of its input by its test accuracy.

The work: MNIST's first `--examples` training images, pixels normalised, shuffled anew in each epoch, the last
incomplete batch left out; AdamW whose decay acts on the matrices alone, the rate on a cosine over all steps; dropout
0.2; BatchNorm between each hidden layer and its ReLU.
"""

import argparse
import gzip
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

STARTED = time.perf_counter()

LEARNING_RATE, WEIGHT_DECAY, DROPOUT_RATE = 2e-3, 1e-2, 0.2
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081  # of the 60,000 training images


@dataclass(frozen=True)
class Work:
    """What is to be trained."""

    version: str
    network: str  # mlp: 784-512-512-10; cnn: conv32-pool, conv64-pool, dense128, 10
    folder: Path
    examples: int
    epochs: int
    batch_size: int
    members: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches."""
        return self.examples // self.batch_size

    @property
    def num_steps(self) -> int:
        """In all epochs: the length of the cosine."""
        return self.epochs * self.steps_per_epoch


class Contestant(NamedTuple):
    """A training that can be taken an epoch at a time."""

    epochs: Iterator[None]  # each next() trains for one, to its last update
    accuracy: Callable[[], float]  # of the 10,000 test images, in [0, 1]; of members the mean


def read_mnist(folder: Path, split: str, count: int | None = None):
    """Images u8[N, 28, 28] and labels i64[N] of the "train" or "t10k" split."""
    import numpy as np

    image = gzip.decompress((folder / "mnist" / f"{split}-images-idx3-ubyte.gz").read_bytes())
    label = gzip.decompress((folder / "mnist" / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(image, np.uint8, offset=16).reshape(-1, 28, 28)
    return images[:count], np.frombuffer(label, np.uint8, offset=8).astype(np.int64)[:count]


def normalise(image):
    """f32 of u8."""
    import numpy as np

    return ((image.astype(np.float32) / 255 - PIXEL_MEAN) / PIXEL_STD).astype(np.float32)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def work_parser(versions: Sequence[str]) -> argparse.ArgumentParser:
    """The flags that say what is to be trained."""
    parser = argparse.ArgumentParser()
    parser.add_argument("version", choices=versions, nargs="?", default=versions[0])
    parser.add_argument("--network", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("JAXTRAIN_DATA", "data")))
    parser.add_argument("--examples", type=int, default=54_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def work_of(args: argparse.Namespace) -> Work:
    """What these flags ask for."""
    return Work(
        args.version, args.network, args.data, args.examples, args.epochs, args.batch_size, args.members, args.seed
    )


def take_stdout() -> TextIO:
    """The real stdout, for answers alone: frameworks print to it as they like, and that goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def serve(make: Callable[[Work], Contestant], versions: Sequence[str]) -> None:
    """Do what the flags say. `make` imports the framework, reads the data and builds the network."""
    parser = work_parser(versions)
    parser.add_argument("--asked", action="store_true", help="an epoch for each line on stdin")
    args = parser.parse_args()
    work, answers = work_of(args), take_stdout()
    contestant = make(work)
    ready = time.perf_counter() - STARTED
    if args.asked:
        print(json.dumps({"ready": ready}), file=answers)
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), _cpu_seconds()
            next(contestant.epochs)
            wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
            images = work.steps_per_epoch * work.batch_size * work.members
            print(json.dumps({"wall": wall, "cpu": cpu, "images": images}), file=answers)
        print(json.dumps({"accuracy": contestant.accuracy(), "peak_bytes": _peak_bytes()}), file=answers)
        return
    accuracies, first = [], None
    for _ in contestant.epochs:
        first = first or time.perf_counter() - STARTED
        accuracies.append(contestant.accuracy())
    result = {"ready": ready, "first_epoch": first, "accuracy": accuracies[-1], "peak_bytes": _peak_bytes()}
    print(json.dumps(result), file=answers)


def _cpu_seconds() -> float:
    """Of this process, all its threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
