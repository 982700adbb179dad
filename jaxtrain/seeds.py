"""Statistics over seeds: how sure a mean is, and whether two runs differ by more than the luck of their seeds.

Imports errors, fields and the run's folder. The fact that surprises: all seeds are scored on the same examples, so an
interval over seeds is about the luck of training alone, and says nothing of how other examples would come out.

`±` always stands before the standard deviation over seeds; how sure a mean or a difference is, is an interval from one
end to the other.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.fields import did_you_mean
from jaxtrain.folder import read_config, read_json

SIGNIFICANCE, POWER = 0.05, 0.8
RECOMMENDED_SEEDS = 5
"""Half the 95 % interval is 9 standard deviations with 2 seeds, 2.5 with 3, 1.2 with 5 and 0.7 with 10."""
MOST_SEEDS = 10_000  # beyond it nobody trains, and "more than" is said
DECIDES_EXAMPLES: dict[str, tuple[str, ...]] = {
    "test": (),
    "val": ("data.val_share", "data.split_seed"),
    "train": ("data.val_share", "data.split_seed", "config.train_eval_examples"),
}
"""What of a config says which examples of the same data a split's scores are of."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and how sure it is; one seed has a mean only, the rest is None."""

    mean: float
    std: float | None  # over seeds, by count - 1
    low: float | None
    high: float | None
    count: int
    confidence: float = 0.95


@dataclass(frozen=True)
class Comparison:
    """Mean of B minus mean of A. What rests on a spread is None where there is none (`std` None or 0)."""

    difference: float
    counts: tuple[int, int]  # seeds of A and B
    paired: bool
    std: float | None = None  # of the difference between one seed of B and one of A; None with a single seed
    low: float | None = None  # ends of the difference's 95 % interval
    high: float | None = None
    p_value: float | None = None  # two-sided, of no difference
    seeds_needed: int | None = None  # on each side, to tell a difference of this size; None where it is told, or 0

    @property
    def significant(self) -> bool:
        """Whether the seeds tell a difference, at 5 %."""
        return self.p_value is not None and self.p_value < SIGNIFICANCE

    @property
    def test(self) -> str:
        """The test and what it is over, in words."""
        a, b = self.counts
        return f"paired t-test over {a} seeds" if self.paired else f"Welch's t-test over {a} and {b} seeds"


@dataclass(frozen=True)
class SeedScores:
    """Scores of a finished run's members, by seed."""

    folder: Path
    config: Mapping[str, Any]  # the experiment as JSON
    data: Mapping[str, Any]  # name, sha256, num_train, num_val, num_test
    scores: Mapping[int, Mapping[str, Mapping[str, float]]]  # seed -> split -> metric -> value; without diverged ones
    diverged: tuple[int, ...]

    def metrics(self, split: str) -> list[str]:
        """The metrics that every member has on a split; none where one was not scored on it."""
        return sorted(set.intersection(*(set(scores.get(split, {})) for scores in self.scores.values())))

    def values(self, split: str, metric: str) -> dict[int, float]:
        """Seed -> value.

        Raises:
          RequestError: not every member has this score.
        """
        known = self.metrics(split)
        if not known:
            raise RequestError(f"{self.folder} has no {split} scores; compare another split")
        if metric not in known:
            hint = did_you_mean(metric, known)
            raise RequestError(f"{self.folder} has no {split} {metric!r}; it has {', '.join(known)}{hint}")
        return {seed: float(scores[split][metric]) for seed, scores in self.scores.items()}


def interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean over seeds.

    Args:
      values: one a seed.
      confidence: how often such an interval holds the true mean, in (0, 1).

    Raises:
      RequestError: no values, values that are not finite, or a confidence out of range.

    References:
      Student, The Probable Error of a Mean, 1908, https://doi.org/10.2307/2331554
    """
    numbers = _finite(values)
    if not 0 < confidence < 1:
        raise RequestError(f"confidence is {confidence}; it must lie between 0 and 1, for example 0.95")
    mean, count = statistics.mean(numbers), len(numbers)
    if count == 1:
        return Interval(mean, None, None, None, 1, confidence)
    from scipy.special import stdtrit  # a third of a second to import, for which a single seed shall not wait

    std = statistics.stdev(numbers)
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * std / math.sqrt(count)
    return Interval(mean, std, mean - half, mean + half, count, confidence)


def finite_interval(values: Iterable[Any]) -> Interval:
    """`interval`, but NaN for numbers that are not finite, as a task of one's own may give."""
    numbers = [float(value) for value in values]
    if all(map(math.isfinite, numbers)):
        return interval(numbers)
    return Interval(math.nan, None, None, None, len(numbers))


def describe(interval: Interval, percent: bool = True) -> str:
    """As in "98.97 ± 0.06 % (95 % interval 98.90 to 99.04, 5 seeds)", where ± is the standard deviation over seeds.

    Args:
      interval: of the seeds.
      percent: whether the values are shares, to be shown in percent; else they are shown as they are.
    """
    spread, ends = cells(interval, percent)
    if interval.count == 1:
        return f"{spread} (1 seed, which has no interval)"
    return f"{spread} ({100 * interval.confidence:g} % interval {ends}, {interval.count} seeds)"


def cells(interval: Interval, percent: bool = True) -> tuple[str, str]:
    """Two cells of a table, as in "98.97 ± 0.06 %" and "98.90 to 99.04"; of one seed "98.97 %" and "none"."""
    unit = " %" if percent else ""
    mean, std, low, high = (
        None if value is None else _number(value, interval.std, percent)
        for value in (interval.mean, interval.std, interval.low, interval.high)
    )
    return (f"{mean}{unit}", "none") if std is None else (f"{mean} ± {std}{unit}", f"{low} to {high}")


def compare(values_a: Sequence[float], values_b: Sequence[float], paired: bool) -> Comparison:
    """Whether B differs from A: a t-test of the differences seed by seed, or Welch's of two unpaired samples.

    With a single seed on a side, or differences that are all the same, there is no spread to judge by, and no test.

    Args:
      values_a: one value a seed of A.
      values_b: one value a seed of B.
      paired: whether values in the same place are of the same seed.

    Raises:
      RequestError: no values, values that are not finite, or a pair without its partner.

    References:
      Welch, The Generalization of "Student's" Problem when Several Different Population Variances are Involved, 1947,
      https://doi.org/10.2307/2332510
    """
    a, b = _finite(values_a), _finite(values_b)
    if paired and len(a) != len(b):
        raise RequestError(f"{len(a)} and {len(b)} values cannot be paired; give one a seed on both sides, or unpaired")
    counts, difference = (len(a), len(b)), statistics.mean(b) - statistics.mean(a)
    if min(counts) < 2:
        return Comparison(difference, counts, paired)
    samples = [[y - x for x, y in zip(a, b, strict=True)]] if paired else [a, b]
    variances = [statistics.variance(sample) for sample in samples]
    std = math.sqrt(sum(variances))
    rounding = 1e-12 * max(map(abs, a + b))  # 0.99 - 0.98 and 0.98 - 0.97 differ in their last bits
    difference = 0.0 if abs(difference) <= rounding else difference
    if std <= rounding:
        return Comparison(difference, counts, paired, std=0.0)
    p_value, half = _t_test(difference, variances, [len(sample) for sample in samples])
    told = p_value < SIGNIFICANCE or difference == 0
    needed = None if told else _seeds_needed(difference, variances)
    return Comparison(difference, counts, paired, std, difference - half, difference + half, p_value, needed)


def in_words(
    comparison: Comparison, name_a: str, name_b: str, metric: str, larger_is_better: bool | None = True
) -> str:
    """What the comparison says, as a sentence without its full stop.

    Args:
      comparison: of A and B.
      name_a: what A is called.
      name_b: what B is called.
      metric: for example "test accuracy"; an accuracy is shown in points of a percent.
      larger_is_better: None where that is not known; then the winner is only "higher".
    """
    c = comparison
    if c.difference == 0 and c.std == 0:
        return f"identical: {name_a} and {name_b} have the same {metric} on every seed"
    signed = f"{name_b} minus {name_a} is {_amount(c, c.difference, metric)}"
    if c.std is None:
        return (
            f"no difference can be told, for one seed tells nothing about the spread: {signed}; run at least"
            f" {RECOMMENDED_SEEDS} seeds of each"
        )
    b_leads = (c.difference > 0) == (larger_is_better is not False)
    verb = "higher" if larger_is_better is None else "better"
    lead = f"{name_b if b_leads else name_a} is {verb} by {_amount(c, abs(c.difference), metric)}"
    if c.std == 0:
        return f"{lead}, the same for every seed: without a spread there is nothing to test"
    if c.significant:
        return f"{lead} ({_evidence(c, metric, from_lead=True)})"
    more = "" if c.seeds_needed is None else f"; to tell a difference of that size, {_about(c.seeds_needed)} are needed"
    return f"no difference can be told: {signed} ({_evidence(c, metric)}){more}"


def read_scores(folder: str | Path) -> SeedScores:
    """The scores of a finished run, of one seed or of several.

    Raises:
      RequestError: the folder holds no finished run, or one of which every seed diverged.
      WorldError: config.json or summary.json cannot be read.
    """
    folder = Path(folder)
    config, summary = read_config(folder), read_json(folder / "summary.json")
    if config is None or summary is None:
        state = "no run" if config is None else "an unfinished run; finish it with --resume"
        raise RequestError(f"{folder} holds {state}; expected the folder of a finished run")
    try:
        members, data = summary.get("members", [summary]), dict(summary["data"])
        rows = {int(row["seed"]): row for row in members}
        diverged = tuple(seed for seed, row in rows.items() if row["status"] == "diverged")
    except (KeyError, TypeError, ValueError) as error:
        raise WorldError(f"{folder}/summary.json is not what a finished run writes ({error!r}); restore it") from None
    if len(rows) < len(members):
        raise RequestError(f"{folder} has several members of one seed; expected one a seed")
    splits = ("train", "val", "test")
    scores = {s: {k: row[k] for k in splits if k in row} for s, row in rows.items() if s not in diverged}
    if not scores:
        raise RequestError(f"every seed of {folder} diverged, so it has no scores; lower its learning rate")
    return SeedScores(folder, config, data, scores, diverged)


def check_comparable(a: SeedScores, b: SeedScores, split: str) -> None:
    """Raise RequestError where the scores of a split are of different examples, and their difference means nothing."""
    for name in ("sha256", f"num_{split}"):
        if a.data.get(name) != b.data.get(name):
            raise _incomparable(a, b, split, f"data.{name}", a.data.get(name), b.data.get(name))
    for path in DECIDES_EXAMPLES[split]:
        part, _, name = path.partition(".")
        ours, theirs = (side.config.get(part, {}).get(name) for side in (a, b))
        if ours != theirs:
            raise _incomparable(a, b, split, path, ours, theirs)


def partners(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[dict[int, float], dict[int, float], bool]:
    """Of values by seed those that `compare` takes, and whether they are paired: the common seeds if there are two."""
    common = sorted(a.keys() & b.keys())
    if len(common) < 2:
        return dict(a), dict(b), False
    return {seed: a[seed] for seed in common}, {seed: b[seed] for seed in common}, True


def is_percent(metric: str) -> bool:
    """Whether a metric is a share that is shown in percent: accuracy, also a user's own kind of it."""
    return metric.endswith("accuracy")


def _finite(values: Iterable[float]) -> list[float]:
    numbers = [float(value) for value in values]
    if not numbers:
        raise RequestError("there are no values to average; give at least one seed's")
    bad = [number for number in numbers if not math.isfinite(number)]
    if bad:
        raise RequestError(f"{len(bad)} of {len(numbers)} values are not finite ({bad[0]}); leave diverged seeds out")
    return numbers


def _t_test(difference: float, variances: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Two-sided p-value of no difference, and half the difference's 95 % interval."""
    from scipy.special import stdtr, stdtrit

    error, freedom = _standard_error(variances, counts)
    half = float(stdtrit(freedom, 1 - SIGNIFICANCE / 2)) * error
    return 2 * float(stdtr(freedom, -abs(difference) / error)), half


def _standard_error(variances: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Of a sum of independent means, with the degrees of freedom of Welch and Satterthwaite; of one mean count - 1."""
    parts = [variance / count for variance, count in zip(variances, counts, strict=True)]
    total = sum(parts)
    freedom = 1 / sum((part / total) ** 2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    return math.sqrt(total), freedom


def _seeds_needed(difference: float, variances: Sequence[float]) -> int:
    """Seeds on each side with which a t-test finds this difference, with its sign, in 80 % of repetitions."""
    from scipy.special import nctdtr, ndtri, stdtrit

    def misses(count: int) -> float:
        error, freedom = _standard_error(variances, [count] * len(variances))
        critical = stdtrit(freedom, 1 - SIGNIFICANCE / 2)
        return float(nctdtr(freedom, abs(difference) / error, critical))  # NaN where it is too small for a float

    # The normal distribution's answer is a lower bound, and short of Student's by about two seeds.
    quantiles = ndtri(1 - SIGNIFICANCE / 2) + ndtri(POWER)
    count = max(2, math.ceil(quantiles**2 * sum(variances) / difference**2))
    while count <= MOST_SEEDS and misses(count) > 1 - POWER:
        count += 1
    return count


def _evidence(c: Comparison, metric: str, *, from_lead: bool = False) -> str:
    """Interval and test; `from_lead` as the leader's lead, which is positive."""
    assert c.low is not None and c.high is not None and c.p_value is not None
    ends = sorted((abs(c.low), abs(c.high))) if from_lead else (c.low, c.high)
    low, high = (_number(end, _scale(c), is_percent(metric)) for end in ends)
    p_value = "p < 0.001" if c.p_value < 0.001 else f"p = {c.p_value:.3f}"
    return f"95 % interval {low} to {high}; {c.test}, {p_value}"


def _amount(c: Comparison, value: float, metric: str) -> str:
    percent = is_percent(metric)
    return f"{_number(value, _scale(c), percent)} {'points of' if percent else 'in'} {metric}"


def _scale(c: Comparison) -> float:
    """What the decimals of a difference follow: half its interval, else itself."""
    return abs(c.difference) if c.low is None or c.high is None else (c.high - c.low) / 2


def _number(value: float, scale: float | None, percent: bool) -> str:
    """As many decimals as show two figures of `scale`; of percents the hundredths, and more only for a finer scale."""
    factor = 100 if percent else 1
    if not scale:
        return f"{factor * value:z.{2 if percent else 4}f}"
    exponent = math.floor(math.log10(factor * scale))
    return f"{factor * value:z.{min(max(2, -exponent) if percent else max(0, 1 - exponent), 12)}f}"


def _about(count: int) -> str:
    """In round numbers, upwards: "about 7", "about 40", "about 140"."""
    if count > MOST_SEEDS:
        return f"more than {MOST_SEEDS:,} seeds of each"
    step = 1 if count < 20 else 10 ** max(1, len(str(count)) - 2)
    return f"about {math.ceil(count / step) * step:,} seeds of each"


def _incomparable(a: SeedScores, b: SeedScores, split: str, field: str, ours: Any, theirs: Any) -> RequestError:
    shown = [value[:12] if field == "data.sha256" and isinstance(value, str) else value for value in (ours, theirs)]
    return RequestError(
        f"{split} scores of {a.folder} and {b.folder} are of different examples ({field} is {shown[0]} and {shown[1]}),"
        " so they cannot be compared; train both on the same data"
    )
