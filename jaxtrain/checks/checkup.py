"""What a check says, and all of them together: verdicts in words, as a table and as JSON.

Imports only `terminal`. The fact that surprises: "skip" is a verdict with a reason. A check that cannot be made must
not look like one that was passed.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jaxtrain.terminal import Terminal

Verdict = Literal["pass", "warn", "fail", "skip"]
ORDER: tuple[Verdict, ...] = ("skip", "pass", "warn", "fail")


class Finding(NamedTuple):
    """What one check found."""

    verdict: Verdict
    value: str  # what was measured
    expected: str  # what a healthy network and sound data give
    advice: str  # what to do where it is not so, and why; of a skipped check the reason


@dataclass(frozen=True)
class Check:
    """One line of a checkup."""

    name: str
    group: str  # data, forward, gradient or learning
    verdict: Verdict
    value: str
    expected: str
    advice: str
    seconds: float


@dataclass(frozen=True)
class Checkup:
    """What `check` returns."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """The checks that failed; empty where training may begin."""
        return [check for check in self.checks if check.verdict == "fail"]

    @property
    def warned(self) -> list[Check]:
        """The checks whose result is unusual and may be meant."""
        return [check for check in self.checks if check.verdict == "warn"]

    @property
    def seconds(self) -> float:
        """What all checks took, with the compilation."""
        return sum(check.seconds for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        return {check.name: check for check in self.checks}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for a file."""
        counts = {verdict: sum(check.verdict == verdict for check in self.checks) for verdict in ORDER}
        return {
            "counts": counts,
            "checks": [dataclasses.asdict(check) for check in self.checks],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Checkup":
        """The checkup that `to_json` gave."""
        return cls(tuple(Check(**check) for check in stored["checks"]))

    def show(self, terminal: Terminal) -> None:
        """A line for each check; below one that did not pass what is expected and what to do."""
        width = max((len(check.name) for check in self.checks), default=0)
        for index, check in enumerate(self.checks):
            if index == 0 or check.group != self.checks[index - 1].group:
                terminal.say(check.group)
            terminal.say(f"  {check.verdict}  {check.name:{width}}  {check.value}")
            if check.verdict in ("warn", "fail"):
                terminal.say(f"        expected: {check.expected}\n        {check.advice}")
        counts = self.to_json()["counts"]
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in reversed(ORDER) if counts[verdict])
        terminal.say(f"{len(self.checks)} checks in {self.seconds:.0f} s: {told}")


def skipped(reason: str) -> Finding:
    """A check that cannot be made here."""
    return Finding("skip", f"not checked: {reason}", "", reason)


def grade(value: float, warn: float, fail: float) -> Verdict:
    """How bad is a number of which less is better: "fail" above `fail`, "warn" above `warn`; NaN fails."""
    if math.isnan(value) or value > fail:
        return "fail"
    return "warn" if value > warn else "pass"


def worst(*verdicts: Verdict) -> Verdict:
    """The most serious of them."""
    return max(verdicts, key=ORDER.index)
