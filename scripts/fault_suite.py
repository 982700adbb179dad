"""Break it on purpose: processes killed, files damaged, disks full, rubbish for input; what held, as a table.

    python scripts/fault_suite.py                        # all cases: about 20 minutes on two cores
    python scripts/fault_suite.py --quick                # the cases that the tests run, about 10 minutes
    python scripts/fault_suite.py --write faults.md      # the table into a file, with date and machine

It runs the tests in tests/faults, each case with its number as its seed. A case that fails is repeated alone by its
name, which is printed. Needs a checkout and the dev extra. Exit status: 0 everything held; 1 something did not;
2 the request is wrong.
"""

import datetime
import importlib.util
import shlex
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.device import manifest
from jaxtrain.errors import RequestError
from jaxtrain.files import write_text
from jaxtrain.script import make_parser, run_script

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Row:
    """What came of one kind of fault."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    found: Counter[str] = field(default_factory=Counter)  # what cases recorded of themselves, summed


class Tally:
    """A pytest plugin that adds up the cases of each row."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = defaultdict(Row)
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        properties = dict(report.user_properties)
        title = properties.pop("faults", None)
        if title is None:
            return
        row = self.rows[title]
        row.seconds += report.duration
        if report.when == "call" or report.outcome != "passed":
            row.outcomes[report.outcome] += 1
        if report.when == "call":
            row.found.update({name: value for name, value in properties.items() if isinstance(value, int | float)})
        if report.failed:
            self.failed.append(report.nodeid)


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--quick", action="store_true", help="the few cases of each fault that the tests run")
    parser.add_argument("--workers", type=int, default=2, help="processes at the same time (default: 2)")
    parser.add_argument("--only", metavar="WORDS", help="the tests that pytest's -k selects")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, as Markdown")
    flags = parser.parse_args(args)
    missing = [name for name in ("pytest", "xdist", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"{missing[0]} is missing; the suite needs the dev extra: pip install -e '.[dev]'")
    import pytest

    options = [f"{ROOT}/tests/faults", f"--rootdir={ROOT}", "-q", "-n", str(flags.workers), "--dist=worksteal"]
    options += [] if flags.quick else ["--full"]
    options += ["-k", flags.only] if flags.only else []
    started, tally = datetime.datetime.now(datetime.UTC), Tally()
    status = pytest.main(options, plugins=[tally])
    minutes = (datetime.datetime.now(datetime.UTC) - started).total_seconds() / 60
    chosen = (" --quick" if flags.quick else "") + (f" --only {shlex.quote(flags.only)}" if flags.only else "")
    table = as_markdown(tally, started, minutes, chosen=chosen, workers=flags.workers)
    print("\n" + table)
    for name in tally.failed:
        print(f"failed: {name}")
    if flags.write is not None:
        write_text(flags.write, table)
    return 0 if status == 0 else 1


def as_markdown(tally: Tally, started: datetime.datetime, minutes: float, *, chosen: str, workers: int) -> str:
    """The table, with what is needed to judge it."""
    facts = manifest()
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("jaxtrain", "jax", "orbax-checkpoint"))
    command = f"python scripts/fault_suite.py{chosen}"
    lines = [
        "# The fault suite",
        "",
        f"`{command}` on {started:%Y-%m-%d}: {facts['platform']}, {facts['num_cores']} cores, {facts['device']}, Python"
        f" {facts['python']}, {versions}; {workers} workers, {minutes:.0f} minutes. A case's number is its seed.",
        "",
        "| fault | cases | held | failed | of these | minutes |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for title, row in sorted(tally.rows.items()):
        held, failed, left_out = (row.outcomes[name] for name in ("passed", "failed", "skipped"))
        found = [f"{name} {value:g}" for name, value in sorted(row.found.items())]
        found += [f"left out {left_out}"] if left_out else []
        cases = sum(row.outcomes.values())
        lines.append(f"| {title} | {cases} | {held} | {failed} | {', '.join(found)} | {row.seconds / 60:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_script(main)
