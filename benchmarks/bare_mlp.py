"""The yardstick: an MLP on MNIST in plain JAX and Optax, by hand, as fast as one would write it.

    python benchmarks/bare_mlp.py --epochs 5

Imports nothing of jaxtrain, on purpose: the framework's images per second are held against this loop's. Prints one JSON
line. 784-512-512-10 with BatchNorm, ReLU and dropout 0.2, AdamW with a cosine, batch 128; the images lie on the device
as uint8 and are gathered and normalised inside one compiled loop, whose state is donated. `bare_cnn.py` is another
network in the same loop.
"""

import argparse
import gzip
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

BATCH_SIZE = 128
SEGMENT_STEPS = 60_000 // BATCH_SIZE // 4
MOMENTUM, EPSILON, DROPOUT_RATE = 0.9, 1e-5, 0.2
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081  # of the 60,000 training images

Layer = dict[str, Array]
Layers = list[Layer]
Apply = Callable[..., tuple[Array, Layers]]
Form = Literal["traced", "fixed", "unrolled"]


class Data(NamedTuple):
    """MNIST on the device: image u8[N, 784], label i32[N]."""

    image: Array
    label: Array


class State(NamedTuple):
    """All that a step changes."""

    params: Layers
    stats: Layers
    opt_state: Any


def he_normal(key: Array, *shape: int) -> Array:
    """f32[shape], deviation sqrt(2 / n) with n all dimensions but the last."""
    return jax.random.normal(key, shape) * math.sqrt(2 / math.prod(shape[:-1]))


def init_batch_norm(size: int) -> tuple[Layer, Layer]:
    """Parameters and running averages of one BatchNorm."""
    one, zero = jnp.ones(size), jnp.zeros(size)
    return {"scale": one, "bias": zero}, {"mean": jnp.zeros(size), "var": jnp.ones(size)}


def batch_norm(x: Array, param: Layer, stat: Layer, train: bool) -> tuple[Array, Layer]:
    """x normalised over all axes but the last, and the new running averages."""
    mean, var = stat["mean"], stat["var"]
    if train:
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        var = jnp.square(x - mean).mean(axes)
        new = {"mean": mean, "var": var}
        stat = jax.tree.map(lambda old, batch: MOMENTUM * old + (1 - MOMENTUM) * batch, stat, new)
    return (x - mean) * (param["scale"] * jax.lax.rsqrt(var + EPSILON)) + param["bias"], stat


def dropout(key: Array, x: Array) -> Array:
    """x with a share DROPOUT_RATE set to zero, the rest scaled up."""
    return jnp.where(jax.random.bernoulli(key, 1 - DROPOUT_RATE, x.shape), x / (1 - DROPOUT_RATE), 0)


def init_mlp(key: Array, widths: tuple[int, ...] = (784, 512, 512)) -> tuple[Layers, Layers]:
    """Parameters and running averages; the last dict of the parameters is the output layer."""
    params, stats = [], []
    for i, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        param, stat = init_batch_norm(fan_out)
        params.append({"kernel": he_normal(jax.random.fold_in(key, i), fan_in, fan_out), **param})
        stats.append(stat)
    output = {"kernel": he_normal(jax.random.fold_in(key, len(widths)), widths[-1], 10), "bias": jnp.zeros(10)}
    return [*params, output], stats


def apply_mlp(params: Layers, stats: Layers, image: Array, key: Array | None) -> tuple[Array, Layers]:
    """Logits f32[B, 10] for f32[B, 28, 28] and the new running averages; no key means evaluation."""
    x, new_stats = image.reshape(image.shape[0], -1), []
    for i, (param, stat) in enumerate(zip(params[:-1], stats, strict=True)):
        x, stat = batch_norm(x @ param["kernel"], param, stat, key is not None)
        x = jax.nn.relu(x)
        x = x if key is None else dropout(jax.random.fold_in(key, i), x)
        new_stats.append(stat)
    return x @ params[-1]["kernel"] + params[-1]["bias"], new_stats


def read_mnist(folder: Path, split: str) -> Data:
    """The "train" or "t10k" split from its two IDX files."""
    image = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    label = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    return Data(
        jnp.asarray(np.frombuffer(image, np.uint8, offset=16).reshape(-1, 28 * 28)),
        jnp.asarray(np.frombuffer(label, np.uint8, offset=8).astype(np.int32)),
    )


def take(data: Data, index: Array) -> tuple[Array, Array]:
    """Images f32[B, 28, 28], normalised, and labels. Rows of pixels are gathered four times faster than images."""
    image = data.image[index].reshape(-1, 28, 28)
    return (image.astype(jnp.float32) / 255 - PIXEL_MEAN) / PIXEL_STD, data.label[index]


def make_run_steps(
    apply: Apply, tx: optax.GradientTransformation, per_epoch: int, form: Form = "traced"
) -> Callable[..., State]:
    """The compiled loop: `num_steps` updates over `order` from `start` on.

    Their number is an argument of the program, or fixed when it is compiled, and then perhaps unrolled by four.
    """

    def step(i: Array, state: State, data: Data, order: Array, key: Array) -> State:
        index = jax.lax.dynamic_slice_in_dim(order, (i % per_epoch) * BATCH_SIZE, BATCH_SIZE)
        image, label = take(data, index)

        def loss(params: Layers) -> tuple[Array, Layers]:
            logits, stats = apply(params, state.stats, image, jax.random.fold_in(key, i))
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), stats

        grads, stats = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        return State(params, stats, opt_state)

    @partial(jax.jit, donate_argnums=0, static_argnames=None if form == "traced" else "num_steps")
    def run_steps(state: State, data: Data, order: Array, key: Array, start: Array, *, num_steps: Any) -> State:
        def body(i: Array, state: State) -> State:
            return step(start + i, state, data, order, key)

        return jax.lax.fori_loop(0, num_steps, body, state, unroll=4 if form == "unrolled" else None)

    return run_steps


def evaluate(apply: Apply, state: State, data: Data) -> float:
    """Share of right answers."""

    @jax.jit
    def num_right(state: State, data: Data) -> Array:
        def right(index: Array) -> Array:
            image, label = take(data, index)
            return (apply(state.params, state.stats, image, None)[0].argmax(-1) == label).sum()

        return jax.lax.map(right, jnp.arange(data.label.size).reshape(-1, 500)).sum()

    return float(num_right(state, data)) / data.label.size


def train_segments(
    init: Callable[[Array], tuple[Layers, Layers]],
    apply: Apply,
    train: Data,
    *,
    epochs: int,
    learning_rate: float = 2e-3,
    seed: int = 0,
    steps: int = SEGMENT_STEPS,
    form: Form = "traced",
) -> Iterator[tuple[float, State]]:
    """Train for `epochs`, the length of the cosine; give images a second and the state after each `steps` updates.

    The state is donated to the next segment: use it before asking for that.
    """
    key, per_epoch = jax.random.key(seed), train.label.size // BATCH_SIZE
    params, stats = init(jax.random.fold_in(key, 0))
    schedule = optax.cosine_decay_schedule(learning_rate, epochs * per_epoch)
    is_kernel = jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)
    tx = optax.adamw(schedule, weight_decay=1e-2, mask=is_kernel)
    run_steps = make_run_steps(apply, tx, per_epoch, form)
    permute = jax.jit(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), train.label.size))

    order, state = permute(0), State(params, stats, tx.init(params))
    state = jax.block_until_ready(run_steps(state, train, order, key, 0, num_steps=0))  # compiles, changes nothing
    for start in range(0, epochs * per_epoch, steps):
        began = time.perf_counter()
        if start % per_epoch < steps:
            order = permute(start // per_epoch)
        state = jax.block_until_ready(run_steps(state, train, order, key, start, num_steps=steps))
        yield steps * BATCH_SIZE / (time.perf_counter() - began), state


def benchmark(name: str, init: Callable[[Array], tuple[Layers, Layers]], apply: Apply) -> None:
    """Train as the flags say, print one JSON line."""
    parser = argparse.ArgumentParser(description=f"Bare JAX loop, {name} on MNIST; prints one JSON line.")
    parser.add_argument("--data", default=os.environ.get("JAXTRAIN_DATA", "data"), help="folder that holds mnist/")
    parser.add_argument("--epochs", type=int, default=5, help="length of the run and of its cosine")
    parser.add_argument("--segments", type=int, help=f"stop after so many timed parts of {SEGMENT_STEPS} steps")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    folder = Path(args.data) / "mnist"
    train, test = read_mnist(folder, "train"), read_mnist(folder, "t10k")
    segments = train_segments(init, apply, train, epochs=args.epochs, learning_rate=args.learning_rate, seed=args.seed)
    rates = []
    for rate, state in itertools.islice(segments, args.segments):
        rates.append(rate)
        last = state
    if not rates:
        parser.error("--epochs and --segments must be at least 1")

    result = {
        "name": name,
        "images_per_second": round(statistics.median(rates)),
        "min": round(min(rates)),
        "max": round(max(rates)),
        "segments": len(rates),
        "steps": len(rates) * SEGMENT_STEPS,
        "test_accuracy": evaluate(apply, last, test),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    benchmark("mlp", init_mlp, apply_mlp)
