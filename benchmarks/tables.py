"""Tables of the benchmarks: printed as Markdown, and given as JSON values.

Imports the contest. Speeds are medians over rounds, ratios those of neighbours; a contestant that failed is left out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from contest import Clock, Result, Spread, rates, ratios, shares

LIMIT = "limit"
"""The name of the contestant that says what the machine can do."""


def speed_table(results: Mapping[str, Result], ours: str, flops: float, title: str, clock: Clock) -> dict[str, Any]:
    """Images per second of each, and how many times as fast `ours` is; `flops` are those of an image."""
    seen = {name: result for name, result in results.items() if result.failure is None}
    limit, table = seen.pop(LIMIT, None), {}
    unit = "img/s" if clock == "wall" else "img/CPU-s"
    print(f"{title}: {unit}, median (smallest to largest) of {min(map(_count, seen.values()), default=0)} epochs")
    if limit is not None:
        peak = Spread.of(row["flops"] / row[clock] / 1e9 for row in limit.rounds)
        bandwidth = Spread.of(row["bandwidth"] / 1e9 for row in limit.rounds)
        print(f"limit: {peak} GFLOP/s of matrix products, {bandwidth} GB/s copied (read and written)")
        table[LIMIT] = {"gflops": as_json(peak), "copy_gigabytes_per_second": as_json(bandwidth)}
    print(f"\n| | {unit} | {ours} is so many times as fast | of the limit | test accuracy | foreign load |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, result in seen.items():
        row: dict[str, Any] = {"images_per_second": Spread.of(rates(result, clock)), **result.facts}
        row["foreign_cores"] = max(one["foreign"] for one in result.rounds)
        if ours in seen:
            row["ratio"] = ratios(seen[ours], result, clock)
        if limit is not None:
            row["share_of_limit"] = shares(result, limit, flops, clock)
        cells = [
            name,
            str(row["images_per_second"]),
            str(row.get("ratio", "")),
            f"{row['share_of_limit'].median:.0%}" if "share_of_limit" in row else "",
            _accuracy(row),
            f"{row['foreign_cores']:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
        table[name] = as_json(row)
    print(flush=True)
    return table


def whole_table(results: Mapping[str, Result], ours: str, clock: Clock) -> dict[str, Any]:
    """Seconds, memory and ratios of whole programs: how many times as long as `ours` each takes."""
    seen, table = {name: result for name, result in results.items() if result.failure is None}, {}
    print("| whole program | seconds | CPU seconds | ratio | most memory | first epoch after | test accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, result in seen.items():
        row: dict[str, Any] = {key: Spread.of(one[key] for one in result.rounds) for key in ("wall", "cpu")}
        row["peak_bytes"] = Spread.of(one["peak_bytes"] for one in result.rounds)
        if ours in seen:
            both = zip(seen[ours].rounds, result.rounds, strict=True)
            row["ratio"] = Spread.of(other[clock] / own[clock] for own, other in both)
        row |= result.facts
        cells = [
            name,
            str(row["wall"]),
            str(row["cpu"]),
            str(row.get("ratio", "")),
            f"{row['peak_bytes'].median / 1e6:,.0f} MB",
            f"{row['first_epoch']:.1f} s" if "first_epoch" in row else "",
            _accuracy(row),
        ]
        print(f"| {' | '.join(cells)} |")
        table[name] = as_json(row)
    print(flush=True)
    return table


def step_table(profiles: Mapping[str, Mapping[str, Any]]) -> None:
    """What a step is made of, by `profile_step.py`."""
    print("| a step | kernels or operations | us in them | copies | us in them | us by the clock | traced | longest |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, one in profiles.items():
        numbers = (one["us"], one["copies"], one["copies_us"], one["wall_us"], one["traced_wall_us"])
        first = ", ".join(f"{row['name']} {row['share']:.0%}" for row in one["longest"][:3])
        print(f"| {name} | {one['count']:,.1f} {one['kind']} | {' | '.join(f'{n:,.1f}' for n in numbers)} | {first} |")
    print(flush=True)


def as_json(value: Any) -> Any:
    """Spreads as dicts."""
    if isinstance(value, Spread):
        return dataclasses.asdict(value)
    return {key: as_json(one) for key, one in value.items()} if isinstance(value, dict) else value


def _count(result: Result) -> int:
    return len(result.rounds)


def _accuracy(row: Mapping[str, Any]) -> str:
    return f"{row['accuracy']:.2%}" if "accuracy" in row else ""
