"""What a training step is made of: kernels on a GPU, XLA's operations on a CPU, and the microseconds that they take.

    python benchmarks/profile_step.py --network mlp --data data
    python benchmarks/profile_step.py vmap --network cnn --members 8 --data data

Flags and versions are those of jaxtrain_loop.py. The first epoch compiles, the second is timed, the third is traced by
JAX's profiler; what happens once an epoch is shared out among its steps. The fact that surprises: times are sums over
all threads or streams, so where they work side by side more time is spent in operations than passes by the clock.
"""

import dataclasses
import gzip
import itertools
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from contestant import Contestant, Work, take_stdout, work_of, work_parser
from jaxtrain_loop import VERSIONS, make_framework

Event = Mapping[str, Any]

EPOCHS = 4  # compiles, is timed, is traced; the last one, which would evaluate, is not trained
MOST_EVENTS = 1_000_000
"""The profiler writes no more than these into its JSON, and does not say what it left out."""
NUM_LONGEST = 10


def profile(work: Work) -> dict[str, Any]:
    """Train, trace and sum up; see `summary`."""
    contestant, steps = make_framework(dataclasses.replace(work, epochs=EPOCHS)), work.steps_per_epoch
    next(contestant.epochs)
    wall = epoch_seconds(contestant)
    with tempfile.TemporaryDirectory() as folder:
        traced = trace_epoch(contestant, folder)
        found = summary(read_trace(Path(folder)), steps)
    clock = {"wall_us": wall / steps * 1e6, "traced_wall_us": traced / steps * 1e6}
    return {"network": work.network, "version": work.version, "members": work.members, "steps": steps, **clock, **found}


def epoch_seconds(contestant: Contestant) -> float:
    """Train for an epoch."""
    start = time.perf_counter()
    next(contestant.epochs)
    return time.perf_counter() - start


def trace_epoch(contestant: Contestant, folder: str) -> float:
    """Train for an epoch that is traced into `folder`; seconds of it."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every Python call would be an event
    jax.profiler.start_trace(folder, profiler_options=options)
    try:
        return epoch_seconds(contestant)
    finally:
        jax.profiler.stop_trace()


def read_trace(folder: Path) -> dict[str, Any]:
    """The Chrome trace that the profiler left there."""
    files = list(folder.rglob("*.trace.json.gz"))
    if len(files) != 1:
        raise SystemExit(f"the profiler left {len(files)} files *.trace.json.gz, where one was expected")
    trace = json.loads(gzip.decompress(files[0].read_bytes()))
    if len(trace["traceEvents"]) >= MOST_EVENTS:
        raise SystemExit(f"the trace is full at {MOST_EVENTS:,} events; trace fewer steps: give fewer --examples")
    return trace


def summary(trace: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """What each step is made of.

    Returns:
      kind: "kernels" of a GPU or "operations" of a CPU.
      count, us: how many a step, and microseconds a step that are spent in them; of several devices the sum.
      copies, copies_us: the same of a GPU's copies and fills of memory, which are no kernels.
      longest: those that take longest, with the share of all that time.
    """
    on_gpu = gpu_events(trace)
    events = [event for event in on_gpu if not is_copy(event)] if on_gpu else leaves(cpu_events(trace))
    copies = [event for event in on_gpu if is_copy(event)]
    return {
        "kind": "kernels" if on_gpu else "operations",
        "count": len(events) / steps,
        "us": microseconds(events) / steps,
        "copies": len(copies) / steps,
        "copies_us": microseconds(copies) / steps,
        "longest": longest(events, steps),
    }


def gpu_events(trace: Mapping[str, Any]) -> list[Event]:
    """What ran on the streams of GPUs, without what wraps it."""
    processes, threads = lane_names(trace, "process_name"), lane_names(trace, "thread_name")
    events = [
        event
        for event in trace["traceEvents"]
        if event.get("ph") == "X"
        and processes.get((event["pid"], None), "").startswith("/device:GPU")
        and threads.get((event["pid"], event.get("tid")), "").startswith("Stream #")
    ]
    # Kernels of a command buffer may overlap within a stream, and then one that encloses another wraps nothing.
    return [event for event in events if is_reported(event)] or leaves(events)


def cpu_events(trace: Mapping[str, Any]) -> list[Event]:
    """XLA's operations in the host's threads."""
    return [event for event in trace["traceEvents"] if event.get("ph") == "X" and "hlo_op" in event.get("args", {})]


def lane_names(trace: Mapping[str, Any], kind: str) -> dict[tuple[int, int | None], str]:
    """Of each process (pid, None) or thread (pid, tid)."""
    return {
        (event["pid"], event["tid"] if kind == "thread_name" else None): event["args"]["name"]
        for event in trace["traceEvents"]
        if event.get("ph") == "M" and event["name"] == kind
    }


def is_reported(event: Event) -> bool:
    """Whether the driver itself reported it: kernel_details, memcpy_details, Memset_details."""
    return any(name.endswith("_details") for name in event.get("args", {}))


def is_copy(event: Event) -> bool:
    """Memcpy between host and device, or Memset."""
    return event["name"].startswith(("Memcpy", "Memset"))


def leaves(events: Iterable[Event]) -> list[Event]:
    """Those that enclose no other of their thread: a while or a call would count its body twice."""
    threads: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        threads[event["pid"], event["tid"]].append(event)
    found = []
    for thread in threads.values():
        thread.sort(key=lambda event: (event["ts"], -event["dur"]))
        # What is enclosed begins next.
        found += [event for event, after in itertools.pairwise(thread) if not encloses(event, after)] + thread[-1:]
    return found


def encloses(event: Event, other: Event) -> bool:
    """Whether `other`, which does not begin earlier, lies within it; times are rounded to nanoseconds."""
    end = event["ts"] + event["dur"]
    return other["ts"] < end - 1e-3 and other["ts"] + other["dur"] <= end + 1e-3


def microseconds(events: Iterable[Event]) -> float:
    """In all of them."""
    return sum(event["dur"] for event in events)


def longest(events: Sequence[Event], steps: int) -> list[dict[str, Any]]:
    """By name, those that take longest."""
    named: dict[str, list[float]] = defaultdict(list)
    for event in events:
        named[label(event)].append(event["dur"])
    total = microseconds(events)
    first = sorted(named.items(), key=lambda item: -sum(item[1]))[:NUM_LONGEST]
    return [
        {"name": name, "share": sum(durations) / total, "us": sum(durations) / steps, "count": len(durations) / steps}
        for name, durations in first
    ]


def label(event: Event) -> str:
    """The operation; with its kernel, where a library's has a name of its own."""
    kernel = event["name"]
    operation = event.get("args", {}).get("hlo_op", kernel)
    return operation if operation.replace(".", "_") == kernel.replace(".", "_") else f"{operation}: {kernel}"


def main() -> None:
    """Print a line of JSON."""
    parser = work_parser(VERSIONS)
    parser.set_defaults(examples=12_800)
    work, answers = work_of(parser.parse_args()), take_stdout()
    print(json.dumps(profile(work)), file=answers)


if __name__ == "__main__":
    main()
