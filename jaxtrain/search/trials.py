"""What trials tell: which are best, how sure that is, what mattered, and where to look next.

Imports the space. The fact that surprises: everything here goes by ranks. The validation scores of a search are skewed,
with a few that failed far below the rest, and a correlation of the scores themselves would be about those few.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxtrain.space import Choice, Range, Search, reaches

State = Literal["running", "waiting", "complete", "pruned", "diverged", "lost", "surplus"]

TOP = 5
"""Trials that speak for "the best" where a single one would be luck."""
BORDER = 0.05
"""Share of a range, at each end, that counts as its border."""
MARGIN = 0.05
"""Share of the old range that a refined one keeps beyond the best trials."""
WIDEST = 1 / 3
"""Share of the old range that a refined one may have."""


@dataclass(frozen=True)
class Trial:
    """One trial of a search, as far as it has come."""

    number: int
    """In order of asking."""
    params: Mapping[str, Any]
    """Name -> number, or the label of a choice."""
    state: State
    """lost: its worker died and it was asked again; surplus: one too many; diverged: the loss became NaN."""
    value: float | None = None
    """The watched validation metric, of a pruned trial at its last rung."""
    epochs: int = 0
    steps: int = 0
    num_steps: int = 0
    """Steps of the whole run."""
    seconds: float = 0.0
    """Its share of the time of those trained with it."""
    worker: str = ""
    again: int | None = None
    """Number of the lost trial that this one repeats."""
    rungs: Mapping[int, float] = field(default_factory=dict)
    """Epoch -> value, at each rung of halving."""

    @property
    def counts(self) -> bool:
        """Whether it is one of those that were asked for."""
        return self.state not in ("lost", "surplus")

    @property
    def scored(self) -> bool:
        """Whether it has a place in the ranking."""
        return self.state in ("complete", "pruned", "diverged")


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


class Importance(NamedTuple):
    """How much a hyper-parameter mattered."""

    share: float  # in [0, 1], of the variance of the trials' ranks
    direction: float  # Spearman's rho, 1: the larger the better, -1: the smaller the better; NaN for a choice


def ranked(trials: Sequence[Trial], sign: int) -> list[Trial]:
    """The trials that have a place, best first: complete ones, pruned ones by how far they came, diverged ones.

    Args:
      trials: any; those without a place are left out.
      sign: 1 where a larger value is better, -1 where a smaller one is.
    """
    return sorted((trial for trial in trials if trial.scored), key=lambda trial: (*_badness(trial, sign), trial.number))


def accuracy_interval(accuracy: float, count: int) -> Interval:
    """95 % interval of a share that was found in `count` examples.

    It is about these weights on other examples; that another seed gives other weights comes on top.

    References:
      Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927
    """
    z = 1.96
    middle = (accuracy + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count * count))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def importance(search: Search, trials: Sequence[Trial], sign: int) -> dict[str, Importance]:
    """How much each hyper-parameter mattered alone, the most important first.

    The share of the variance of the trials' ranks that a fit on this one explains: a parabola over its (logarithmic)
    scale for a range, for the best learning rate lies in the middle, which a correlation would take for no effect; the
    mean of each value for a choice. The share is adjusted for the number of coefficients, so that it is about 0 where
    there is nothing.

    What it does not see: interactions, anything more bent than a parabola, and what lies outside the ranges. Shares do
    not add up to 1; the rest is interaction and noise. With sampler tpe, or trials that were pruned early, it describes
    the trials that were made and not the space. Too few trials for a fit give no entry.

    References:
      Bergstra & Bengio, Random Search for Hyper-Parameter Optimization, 2012, section 4, on why few of them matter
    """
    from scipy.stats import rankdata

    order = ranked(trials, sign)
    levels = sorted({_badness(trial, sign) for trial in order})
    score = -rankdata([levels.index(_badness(trial, sign)) for trial in order])  # equal ones share their mean rank
    found: dict[str, Importance] = {}
    for name, member in search.space.items():
        num_coefficients = len(member.values) if isinstance(member, Choice) else 3
        if len(order) < 3 * (num_coefficients + 1) or np.ptp(score) == 0:
            continue
        design = _design(member, [trial.params[name] for trial in order])
        varied = isinstance(member, Range) and np.ptp(design[:, 1]) > 0
        direction = float(np.corrcoef(rankdata(design[:, 1]), score)[0, 1]) if varied else math.nan
        found[name] = Importance(_explained(design, score), direction)
    return dict(sorted(found.items(), key=lambda item: -item[1].share))


def borders(search: Search, trials: Sequence[Trial], sign: int) -> list[str]:
    """A sentence for each range at whose border the best trials lie: the optimum may be outside.

    Not where nothing can be outside, as below a dropout rate of 0.
    """
    best = [trial for trial in ranked(trials, sign) if trial.state == "complete"][:TOP]
    found = []
    for name, member in search.space.items():
        if not isinstance(member, Range) or not best or member.low == member.high:
            continue
        for who, unit in _positions(name, member, best).items():
            upper = unit > 1 - BORDER
            if BORDER <= unit <= 1 - BORDER or not _goes_on(search, name, member, upper):
                continue
            end, value, where = ("upper", member.high, "higher") if upper else ("lower", member.low, "lower")
            found.append(f"{who} of {name} lies at the {end} border ({value:g}) of its range; search {where}")
            break
    return found


def narrow(search: Search, trials: Sequence[Trial], sign: int, *, top: int = TOP) -> Search:
    """A search of the same experiment around the best trials: coarse to fine.

    Each range covers the best `top` trials with a margin, is at most a third as wide as before, lies around the very
    best where that needs a choice, and goes on beyond a border that the best trials touch. A choice keeps the values
    that the best trials have.
    """
    best = [trial for trial in ranked(trials, sign) if trial.state == "complete"][:top]
    space: dict[str, Range | Choice] = {}
    for name, member in search.space.items():
        drawn = [trial.params[name] for trial in best]
        if isinstance(member, Choice):
            seen = {repr(entry) for entry in drawn}
            kept = [v for v, entry in zip(member.values, member.labels(), strict=True) if repr(entry) in seen]
            space[name] = Choice(tuple(kept))
        else:
            space[name] = _narrower(search, name, member, [member.unit(value) for value in drawn])
    return dataclasses.replace(search, space=space)


def _badness(trial: Trial, sign: int) -> tuple[float, ...]:
    """Small is good; equal where nothing tells two trials apart."""
    kind = ("complete", "pruned", "diverged").index(trial.state)
    epochs = trial.epochs if trial.state == "pruned" else 0
    return kind, -epochs, math.inf if trial.value is None else -sign * trial.value


def _narrower(search: Search, name: str, member: Range, units: list[float]) -> Range:
    """The range around `units`, of which the first is the best."""
    low, high = min(units) - MARGIN, max(units) + MARGIN
    if high - low > WIDEST:
        low, high = units[0] - WIDEST / 2, units[0] + WIDEST / 2
    for upper, hit in ((False, low < 0), (True, high > 1)):
        if hit and not _goes_on(search, name, member, upper, by=WIDEST / 2):
            low, high = max(low, 0.0), min(high, 1.0)
    ends = member.at(low), member.at(high)
    return dataclasses.replace(member, low=ends[0], high=ends[1])


def _positions(name: str, member: Range, best: Sequence[Trial]) -> dict[str, float]:
    """Where the best trials lie in a range, 0 to 1, and what to call them."""
    units = [member.unit(trial.params[name]) for trial in best]
    return {"the best value": units[0], f"the middle of the best {len(units)} values": float(np.median(units))}


def _goes_on(search: Search, name: str, member: Range, upper: bool, by: float = BORDER) -> bool:
    return reaches(search, name, member.at(1 + by if upper else -by))


def _design(member: Range | Choice, drawn: Sequence[Any]) -> np.ndarray:
    """f64[num_trials, num_coefficients]: 1, x, x^2 of a range, x from -1 to 1; an indicator a value of a choice."""
    if isinstance(member, Range):
        x = 2 * np.array([member.unit(value) for value in drawn], dtype=np.float64) - 1
        return np.stack([np.ones_like(x), x, x * x], axis=1)
    present = sorted({repr(value) for value in drawn})
    return np.array([[float(repr(value) == entry) for entry in present] for value in drawn])


def _explained(design: np.ndarray, score: np.ndarray) -> float:
    """Adjusted R^2 of the least-squares fit, at least 0."""
    count, rank = len(score), int(np.linalg.matrix_rank(design))
    fitted = design @ np.linalg.lstsq(design, score, rcond=None)[0]
    unexplained = np.sum((score - fitted) ** 2) / max(count - rank, 1)
    return max(0.0, 1 - float(unexplained / np.var(score, ddof=1)))
