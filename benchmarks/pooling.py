"""Derivatives of pooling by the maximum, in a CNN's gradient: by place, by comparing with the maximum, Flax's.

    python benchmarks/pooling.py --output benchmarks/results/pooling.json
    python benchmarks/pooling.py --members 4 --pairs 10

Ten steps of gradient descent in one program, on noise in the shape of MNIST and batches of 128; all forms in turn, in
one process. The ratios are those of neighbouring turns.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

import flax.linen as nn
import jax
import jax.numpy as jnp
from bare_cnn import max_pool2
from conv_forms import FormCNN

from jaxtrain.device import manifest
from jaxtrain.files import write_json
from jaxtrain.models import max_pool

Array = jax.Array
STEPS, BATCH = 10, 128


POOLS: Mapping[str, Callable[[Array], Array]] = {
    "place": max_pool,
    "compared": max_pool2,
    "flax": lambda x: nn.max_pool(x, (2, 2), (2, 2)),
}


def make_steps(pool: Callable[[Array], Array], members: int, batch: int = BATCH) -> Callable[[], Any]:
    """A function that makes ten steps of each member from the same start and returns their weights."""
    image, label = jax.random.normal(jax.random.key(0), (batch, 28, 28)), jnp.arange(batch) % 10
    network = FormCNN("patches", pool)
    variables = network.init(jax.random.key(1), image, train=False)

    def loss(params: Any) -> Array:
        given = {**variables, "params": params}
        logits, _ = network.apply(given, image, train=True, mutable=["batch_stats"])
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1).mean()

    def steps(params: Any) -> Any:
        def step(params: Any, _: None) -> tuple[Any, None]:
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, jax.grad(loss)(params)), None

        return jax.lax.scan(step, params, None, length=STEPS)[0]

    start = jax.tree.map(lambda leaf: jnp.stack([leaf] * members), variables["params"])
    compiled = jax.jit(jax.vmap(steps) if members > 1 else lambda stacked: steps(jax.tree.map(lambda p: p[0], stacked)))
    return lambda: jax.block_until_ready(compiled(start))


def measure(members: int, pairs: int) -> dict[str, Any]:
    """Milliseconds a step of all members, and ratios to the form by place, medians over the turns."""
    runs = {name: make_steps(pool, members) for name, pool in POOLS.items()}
    for run in runs.values():
        run()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(pairs):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            runs[name]()
            seconds[name].append((time.perf_counter() - began) / STEPS)
    ratios = {
        name: statistics.median(other / ours for other, ours in zip(seconds[name], seconds["place"], strict=True))
        for name in runs
    }
    medians = {name: round(1e3 * statistics.median(times), 2) for name, times in seconds.items()}
    return {"members": members, "pairs": pairs, "ms_a_step": medians, "ratio_to_place": ratios}


def main() -> None:
    """Print the medians as JSON."""
    parser = argparse.ArgumentParser(description="Derivatives of pooling by the maximum, alternating.")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4], help="members that train side by side")
    parser.add_argument("--pairs", type=int, default=20, help="turns of each form")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    args = parser.parse_args()
    rows = [measure(members, args.pairs) for members in args.members]
    print(json.dumps(rows, indent=2))
    if args.output is not None:
        write_json(args.output, {"rows": rows, "manifest": manifest()})


if __name__ == "__main__":
    main()
