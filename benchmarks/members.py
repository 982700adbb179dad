"""Several members as one program against as many single runs in turn, in alternating segments of one process.

    python benchmarks/members.py mlp --members 8 --output benchmarks/results/members-mlp-8.json
    python benchmarks/members.py cnn --members 8 --parallel vmap
    python benchmarks/members.py mlp --members 1 2 4 8 16 32 64 128 --parallel vmap --output scaling.json   # on a GPU

The single run has the first device to itself, and the threads that JAX gives it there; the members are spread over all
devices, on a CPU one for each core. Images per second are those of all members together, so a ratio of 1 is the single
runs one after the other. Networks, data and segments are those of `throughput.py`.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

import jax
import throughput

from jaxtrain.device import manifest, one_device_per_core
from jaxtrain.files import write_json


def measure(network: str, members: int, parallel: Any, data: Path, segments: int) -> dict[str, Any]:
    """Medians over pairs of segments, the single run's first."""
    alone = throughput.framework(network, data, devices=jax.local_devices()[:1])
    together = throughput.framework(network, data, members=members, parallel=parallel)
    pairs = zip(alone, together, strict=False)
    next(pairs)  # warm-up
    rates = []
    for _ in range(segments):
        rates.append(next(pairs))
        print(f"single {rates[-1][0]:,.0f} img/s, {members} members {rates[-1][1]:,.0f} img/s", flush=True)
    ratios = [many / one for one, many in rates]
    return {
        "network": network,
        "members": members,
        "parallel": parallel,
        "single_images_per_second": round(statistics.median(one for one, _ in rates)),
        "members_images_per_second": round(statistics.median(many for _, many in rates)),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "segments": segments,
        "steps_a_segment": throughput.STEPS[network],
    }


def main() -> None:
    """Print a line a pair, and the medians as JSON."""
    parser = argparse.ArgumentParser(description="Members as one program against single runs in turn, alternating.")
    parser.add_argument("network", choices=sorted(throughput.STEPS))
    parser.add_argument("--members", type=int, nargs="+", default=[8])
    parser.add_argument("--parallel", choices=("auto", "vmap", "loop"), default="auto")
    parser.add_argument("--segments", type=int, default=9, help="pairs that count; one more comes first")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("JAXTRAIN_DATA", "data")))
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    args = parser.parse_args()
    one_device_per_core(max(args.members))
    results = [measure(args.network, count, args.parallel, args.data, args.segments) for count in args.members]
    print(json.dumps(results, indent=2))
    if args.output is not None:
        write_json(args.output, {"results": results, "manifest": manifest()})


if __name__ == "__main__":
    main()
