"""Contestants side by side: their processes, their epochs interleaved, and what comes of the figures.

Knows nothing of any framework. On a shared machine speeds drift by more than most differences, so all processes live at
the same time and take turns, an epoch each (A B C, A B C): a ratio is that of two neighbours, and its median over the
rounds is what is told. With one pinned core the seconds are those of the CPU, which other processes do not take.
"""

import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxtrain.errors import WorldError

FLOPS_AN_IMAGE = {
    # Forward, and the gradients by weights and by inputs; the first layer needs none by its input.
    "mlp": 2 * (2 * 784 * 512 + 3 * (512 * 512 + 512 * 10)),
    "cnn": 2 * (2 * 28 * 28 * 9 * 32 + 3 * (14 * 14 * 288 * 64 + 3136 * 128 + 128 * 10)),
}
"""Of matrix products, in training."""

PRINTED = ("ready", "first_epoch", "accuracy")
"""What a whole program may tell of itself."""

Clock = Literal["wall", "cpu"]

_EXCEPTION = re.compile(r"[\w.]+(Error|Exception|Interrupt): ")


@dataclass(frozen=True)
class Entry:
    """A contestant: what it is called, and its command."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and largest value."""

    median: float
    min: float
    max: float
    count: int

    @staticmethod
    def of(values: Iterable[float]) -> "Spread":
        values = list(values)
        return Spread(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.min)} to {_short(self.max)})"


@dataclass
class Result:
    """What was seen of one contestant: a row an epoch, but for the first, which compiles; or a row a whole program."""

    name: str
    rounds: list[dict[str, float]] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)  # ready, first epoch, accuracy, peak_bytes
    failure: str | None = None


class Process:
    """A contestant that waits for its turn."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self._errors = entry, tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [*entry.command, "--asked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **entry.environment},
        )

    def answer(self) -> dict[str, float]:
        """The next line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ContestantFailed(self._last_words())
        return json.loads(line)

    def epoch(self) -> dict[str, float]:
        """Its turn."""
        assert self._process.stdin is not None
        busy = busy_seconds()
        print("go", file=self._process.stdin, flush=True)
        found = self.answer()
        return {**found, "foreign": max(0.0, busy_seconds() - busy - found["cpu"]) / found["wall"]}

    def finish(self) -> dict[str, float]:
        """Its last answer: test accuracy and memory."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.answer()

    def close(self) -> None:
        """End it, wherever it is."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, AttributeError):
                stream.close()  # pyright: ignore[reportOptionalMemberAccess]
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return last_words(self._errors) or f"it ended with status {self._process.wait()} and said nothing"


class ContestantFailed(WorldError):
    """A contestant ended before its time; the others go on."""


def contest(entries: Sequence[Entry], rounds: int, say: Callable[[str], None]) -> list[Result]:
    """So many rounds that count, after one that does not, in which all compile."""
    results = {entry.name: Result(entry.name) for entry in entries}
    processes: dict[str, Process] = {}

    def turn(name: str, ask: Callable[[Process], dict[str, float]]) -> dict[str, float] | None:
        try:
            return ask(processes[name])
        except (ContestantFailed, OSError) as error:
            results[name].failure = str(error)
            say(f"{name} failed and is left out: {error}")
            processes.pop(name).close()
        return None

    try:
        for entry in entries:
            processes[entry.name] = Process(entry)
            found = turn(entry.name, Process.answer)  # one after the other, so that each has the cores to start
            results[entry.name].facts.update(found or {})
        for number in range(rounds + 1):
            for name in list(processes):
                found = turn(name, Process.epoch)
                if found is None:
                    continue
                if number == 0:
                    results[name].facts["first_epoch"] = found["wall"]
                else:
                    results[name].rounds.append(found)
            say(f"round {number} of {rounds}")
        for name in list(processes):
            results[name].facts.update(turn(name, Process.finish) or {})
    finally:
        for process in processes.values():
            process.close()
    return list(results.values())


def rates(result: Result, clock: Clock) -> list[float]:
    """Images a second of each round, by the clock "wall" or "cpu"."""
    return [row["images"] / row[clock] for row in result.rounds]


def ratios(ours: Result, theirs: Result, clock: Clock) -> Spread:
    """How many times as fast ours is, round by round."""
    both = zip(rates(ours, clock), rates(theirs, clock), strict=True)
    return Spread.of(own / other for own, other in both)


def shares(result: Result, limit: Result, flops_an_image: float, clock: Clock) -> Spread:
    """The share of the machine's matrix products, round by round."""
    peaks = [row["flops"] / row[clock] for row in limit.rounds]
    return Spread.of(rate * flops_an_image / peak for rate, peak in zip(rates(result, clock), peaks, strict=True))


def whole_programs(entries: Sequence[Entry], rounds: int, say: Callable[[str], None]) -> list[Result]:
    """Run each from its start to its end, in turn, so many rounds."""
    results = [Result(entry.name) for entry in entries]
    for number in range(1, rounds + 1):
        for entry, result in zip(entries, results, strict=True):
            if result.failure is not None:
                continue
            try:
                found = run_whole(entry)
            except ContestantFailed as error:
                result.failure = str(error)
                say(f"{entry.name} failed and is left out: {error}")
                continue
            result.facts = {name: found.pop(name) for name in PRINTED if name in found}
            result.rounds.append(found)
        say(f"round {number} of {rounds}")
    return results


def run_whole(entry: Entry) -> dict[str, Any]:
    """Run a whole program: its seconds by the clock and of the CPU, its memory, and what it printed last as JSON."""
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as output:
        wall = time.perf_counter()
        process = subprocess.Popen(
            entry.command, stdout=output, stderr=errors, env={**os.environ, **entry.environment}, text=True
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - wall
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise ContestantFailed(f"it ended with status {process.returncode}: {last_words(errors)}")
        output.seek(0)
        printed = output.read().strip().splitlines()
    return {**_usage(usage, wall), **_json_of(printed)}


def last_words(lines: Iterable[str]) -> str:
    """The last line that names an exception, or the last line: JAX adds notes and tables of memory after the former."""
    said = [line.strip() for line in lines if line.strip()]
    return next((line for line in reversed(said) if _EXCEPTION.match(line)), said[-1] if said else "")


def busy_seconds() -> float:
    """CPU seconds that all cores of this machine have worked, or 0 where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _usage(usage: resource.struct_rusage, wall: float) -> dict[str, float]:
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024}


def _json_of(printed: list[str]) -> dict[str, Any]:
    with contextlib.suppress(json.JSONDecodeError, IndexError):
        found = json.loads(printed[-1])
        return {name: value for name, value in found.items() if name in PRINTED}
    return {}


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
