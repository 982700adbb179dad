"""The report's sentences and numbers, the same for HTML and Markdown.

Imports facts and statistics. The fact that surprises: no sentence here judges. Whether a gap is too wide is said by a
diagnosis; what stands here is what was measured, beside what it has to beat.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain.report.facts import Facts, Score
from jaxtrain.report.mistakes import Confused, Mistakes
from jaxtrain.seeds import Comparison, Interval, cells, describe, is_percent

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
METRIC_NAMES = {"loss": "loss", "accuracy": "accuracy", "mse": "mean squared error", "mae": "mean absolute error"}
NO_TEST = (
    "The data has no test split: these are validation scores. Whatever was chosen by them makes them look better than"
    " new examples would."
)
SPLITS = (
    "Training: examples that were learnt from. Validation: held out, to choose by. Test: scored once, at the end, and"
    " not looked at. All without dropout and augmentation."
)
PER_CLASS = (
    "Precision: of the answers that name the class, the share that is right. Recall: of the class's examples, the share"
    " that is found. F1: their harmonic mean."
)
PER_TARGET = (
    "Bias: mean of predicted minus true. R²: the share of the target's variance that is explained; 0 is what the mean"
    " alone would reach."
)
REPEAT = "This repeats it from its settings, all of which are in config.json:"
OWN_PARTS = "Its network, data or functions are your own, which config.json can only name: run your program again."
SAME_DIGEST = "On the same machine, with the same versions and number of cores, the digest comes out the same."
RANKING = (
    "± is the standard deviation over seeds, and the interval holds the true mean in 95 of 100 such studies. p is the"
    " chance of a difference at least this large if there were none, by a paired t-test over the seeds that both have,"
    " else by Welch's. Above 0.05 the order of the two is not known."
)
TONES = {
    "good": ("good", "ok", "pass", "passed"),
    "warning": ("warning", "warn", "note", "suspicious"),
    "bad": ("bad", "fail", "failed", "error"),
}
MANY = 9
"""More seeds than these are given by their ends."""


def number(value: float | None, metric: str) -> str:
    """A score as it is read: a share in percent, anything else with four digits; a dash where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{100 * value:.2f} %" if is_percent(metric) else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def share(value: float) -> str:
    """97.31 %, or a dash where there was nothing to divide by."""
    return "–" if math.isnan(value) else f"{100 * value:.2f} %"


def width(accuracy: float | None) -> str:
    """Of a bar, in percent of its frame."""
    return f"{100 * accuracy:.2f}" if accuracy is not None and math.isfinite(accuracy) else "0"


def named(split: str, metric: str) -> str:
    """Test accuracy."""
    return f"{SPLIT_NAMES[split]} {METRIC_NAMES.get(metric, metric)}"


def tone(verdict: str) -> str:
    """How a verdict is coloured: good, warning, bad, or not at all."""
    return next((tone for tone, verdicts in TONES.items() if verdict.lower() in verdicts), "")


def spread(score: Score | None) -> str:
    """98.97 ± 0.06 %, or of one seed 98.97 %."""
    if score is not None and math.isnan(score.interval.mean):
        return "not a number"
    return mean_of(None if score is None else score.interval, "" if score is None else score.metric)


def ends(score: Score | None) -> str:
    """98.90 to 99.04, or a dash for one seed."""
    return "–" if score is None else ends_of(score.interval, score.metric)


def result(facts: Facts) -> str:
    """The whole report in one sentence."""
    score = facts.score(facts.split, facts.metric)
    if score is None:
        return "This run has no scores."
    what = named(facts.split, facts.metric).capitalize()
    percent = is_percent(facts.metric)
    value = number(score.interval.mean, facts.metric)
    if not math.isnan(score.interval.mean):
        value = describe(score.interval, percent) if score.interval.count > 1 else cells(score.interval, percent)[0]
    beaten = [
        f"{number(line.scores[facts.metric], facts.metric)} by the {line.name}"
        for line in facts.baselines
        if line.scores is not None and facts.metric in line.scores
    ]
    against = f", against {' and '.join(beaten)}" if beaten else ""
    together = "" if score.together is None else f"; the members together reach {number(score.together, facts.metric)}"
    return f"{what} is {value}{against}{together}."


def wrong_in_thousand(accuracy: float | None) -> str:
    """Errors in a thousand examples, which tells 99.0 % from 99.5 % better than percents do."""
    if accuracy is None or not math.isfinite(accuracy):
        return "–"
    wrong = 1000 * (1 - accuracy)
    return f"{wrong:.0f}" if wrong >= 20 else f"{wrong:.1f}"


def subtitle(facts: Facts) -> str:
    """What was trained on what, in a line."""
    several, listed = len(facts.seeds) > 1, seed_list(facts.seeds)
    seeds = f"{len(facts.seeds)} seeds ({listed})" if several else f"seed {listed}"
    return f"{facts.network} on {facts.data['name']}, {epochs_done(facts)}, {seeds}"


def epochs_done(facts: Facts) -> str:
    """10 epochs; or fewer, where early stopping ended some."""
    low, high = min(facts.epochs), max(facts.epochs)
    done = str(high) if low == high else f"{low} to {high}"
    if high == low == facts.planned_epochs:
        return f"{done} epochs"
    return f"{done} of {facts.planned_epochs} epochs (early stopping)"


def seed_list(seeds: Sequence[int]) -> str:
    """0 to 7; or one by one."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    if len(seeds) > MANY:
        return f"{', '.join(map(str, seeds[:3]))}, … {seeds[-1]}"
    return ", ".join(map(str, seeds))


def sureness(facts: Facts) -> str:
    """How the result is to be read."""
    count = len(facts.seeds)
    if count == 1:
        return (
            "One seed: how much of this is the luck of its initial weights and its order of the data is not known;"
            " five seeds (--members 5) would tell."
        )
    return (
        f"± is the standard deviation over the {count} seeds. In 95 of 100 such studies the interval holds the mean"
        " that endless seeds would have. All are scored on the same examples: how others would come out, neither says."
    )


def gap(facts: Facts) -> list[str]:
    """Training against validation, a sentence a metric."""
    sentences = []
    for metric in facts.metrics:
        sides = [facts.score(split, metric) for split in ("train", "val")]
        values = [side.interval.mean for side in sides if side is not None]
        if len(values) == 2 and all(map(math.isfinite, values)) and (metric != "mse" or "loss" not in facts.metrics):
            sentences.append(_one_gap(metric, *values))
    return sentences


def _one_gap(metric: str, train: float, val: float) -> str:
    name = METRIC_NAMES.get(metric, metric)
    shown = f"{number(train, metric)} on training, {number(val, metric)} on validation"
    if is_percent(metric):
        return f"{name}: {shown}, a gap of {100 * (train - val):.2f} points"
    ratio = f", {val / train:.2g} times as much" if train > 0 else ""
    return f"{name}: {shown}{ratio}"


def best(facts: Facts) -> str:
    """Which epochs were best on validation, and which weights were scored."""
    final = {"best": "those of the best epoch", "last": "the last ones", "ema": "a moving average", "swa": "an average"}
    chosen = facts.summary.get("final", "last")
    scored = f"The weights that were scored are {final.get(chosen, chosen)}."
    if not facts.best_epochs:
        return scored
    low, high = min(facts.best_epochs), max(facts.best_epochs)
    when = f"epoch {low}" if low == high else f"epochs {low} to {high}, by seed"
    return f"Validation was best after {when}. {scored}"


def mistakes(facts: Facts) -> str:
    """What was looked at, how much of it is wrong, and why it is validation."""
    found = facts.mistakes
    if found is None:
        return ""
    whose = "the members' joint answer" if len(facts.seeds) > 1 else "the network"
    looked = f"Of {found.num_examples:,} validation examples {whose}"
    left = f" {found.num_left_out:,} more, whose answers are not finite, are left out." if found.num_left_out else ""
    why = " Validation it is on purpose: a test split whose examples are looked at is soon tuned on."
    if isinstance(found, Mistakes):
        wrong = found.num_wrong / found.num_examples
        return f"{looked} gets {found.num_wrong:,} wrong ({100 * wrong:.2f} %).{left}{why}"
    return f"{looked} is measured against the truth.{left}{why}"


def often(pair: Confused) -> str:
    """7 times, 1.2 % of the class."""
    return f"{times(pair.count)}, {100 * pair.share:.1f} % of its examples"


def times(count: int) -> str:
    """Once, twice, 7 times; "" for never."""
    return {0: "", 1: "once", 2: "twice"}.get(count, f"{count:,} times")


def origin(stored: Mapping[str, Any] | None) -> str:
    """Whose weights a run began with; "" for its own."""
    return "" if stored is None else stored["folder"] or "the weights of a run without a folder"


def repeat_command(facts: Facts) -> str:
    """What repeats the run, where it lies in the folder that runs lie in."""
    stored = shlex.quote(f"runs/{facts.name}/config.json")
    return f"python scripts/train.py --config {stored} --workdir runs/again"


def duration(seconds: float | None) -> str:
    """22 s, 4 min 10 s, 2 h 5 min."""
    if seconds is None or not math.isfinite(float(seconds)):
        return "not measured"
    seconds = float(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def mean_of(found: Interval | None, metric: str) -> str:
    """98.97 ± 0.06 %, or a dash where there is no such score."""
    return "–" if found is None else cells(found, is_percent(metric))[0]


def ends_of(found: Interval | None, metric: str) -> str:
    """98.90 to 99.04, or a dash for one seed."""
    return "–" if found is None or found.low is None else cells(found, is_percent(metric))[1]


def against(comparison: Comparison | None, metric: str) -> str:
    """+0.40 points; with what it is against, a column of a table."""
    if comparison is None:
        return "not compared"
    difference = comparison.difference
    return f"{100 * difference:+.2f} points" if is_percent(metric) else f"{difference:+.4g}"


def p_value(comparison: Comparison | None) -> str:
    """As it is read: three decimals, for more are never meant."""
    if comparison is None or comparison.p_value is None:
        return "–"
    return "< 0.001" if comparison.p_value < 0.001 else f"{comparison.p_value:.3f}"


def shape(lengths: Sequence[int]) -> str:
    """28 × 28 × 1."""
    return " × ".join(map(str, lengths))


def fallback(facts: Facts) -> str:
    """What to say first of all where other data stands in; "" otherwise."""
    if not facts.data.get("fallback"):
        return ""
    return (
        f"This is not the data that was asked for. It could be neither found nor downloaded, and {facts.data['name']}"
        " stood in for it: no number below says anything about the data set of the config."
    )
