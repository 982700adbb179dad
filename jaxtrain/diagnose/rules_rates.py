"""Rules about the size of the steps: none that holds, too large, too small, not annealed.

Imports signs and findings. The fact that surprises: a rate that is too high kills units, throws the loss far up in the
first steps, or merely shakes it; each alone is a sign, and all that are seen are told.
"""

import math

import numpy as np

from jaxtrain.diagnose.degrees import behind_kernel, number, percent, ramp, sure
from jaxtrain.diagnose.findings import Finding
from jaxtrain.diagnose.signs import Signs, known


def diverged(signs: Signs) -> Finding | None:
    history, row = signs.history, _lost_from(signs)
    if history.status != "diverged" and (row is None or len(history.points)):
        return None
    epoch = signs.epoch(-1 if row is None else row) if signs.count else None
    what = history.note.partition(". ")[0]  # what to do about it is told as advice
    told = f": {what}. Nothing" if what else "; nothing"
    text = f"The loss became NaN or infinite{told} after that means anything."
    return Finding("diverged", text, 0.99, epoch=epoch)


def _lost_from(signs: Signs) -> int | None:
    """The row from which on no loss that was recorded is finite. What was not recorded is no NaN: many programs
    validate now and then, or write training and validation on rows of their own."""
    names = ("train/loss", "val/loss")
    told = [(i, [row[name] for name in names if name in row]) for i, row in enumerate(signs.history.rows)]
    lost = None
    for i, losses in told:
        if any(map(math.isfinite, losses)):
            lost = None
        elif losses and lost is None:
            lost = i
    return lost


def lr_too_high(signs: Signs) -> Finding | None:
    ratio, curve = signs.update_ratio, signs.learning
    wobble, end = signs.wobble(curve), signs.end(curve) / signs.scale
    # Muon moves all directions of a layer alike, and by more: of a layer that is held at its length, by the rate.
    more = 1.0 if signs.facts.get("optimizer") == "Muon" else 0.0
    seen = [
        (
            ramp(math.log10(ratio) - more, -1.7, -1.2) if ratio > 0 else 0.0,
            f"an update changes a layer's weights by {percent(ratio)} ({_usual(signs)})",
        ),
        (
            ramp(wobble, 0.15, 0.4) * ramp(end, 0.05, 0.3),
            f"the training loss goes up and down by {percent(wobble)} of itself from one evaluation to the next",
        ),
        (
            0.0 if ratio < 0.01 else ramp(end, 1.3, 3.0),  # NaN where it is not known
            f"the loss ends at {end:.1f} times {signs.unit}",
        ),
        *([_risen(signs, curve), _surely_wrong(signs)] if signs.bare else []),
        (
            0.0 if signs.first("gradient_norm") > 30 else ramp(signs.first_step_loss, 1.5, 4.0),
            f"the first steps raised the loss to {number(signs.first_step_loss)} times that of knowing nothing",
        ),
        _adams_rate(signs, end),
        _deaths(signs, wobble),
    ]
    degree = max(degree for degree, _ in seen)
    if degree <= 0:
        return None
    return Finding(
        "lr_too_high",
        f"The steps are too large: {'; '.join(text for degree, text in seen if degree > 0)}.",
        sure(degree),
        evidence={"update_ratio": ratio, "wobble": wobble, "end_in_chance": end},
    )


def _usual(signs: Signs) -> str:
    """What a healthy ratio of update to weights is."""
    return "a percent or a few is healthy" if signs.facts.get("optimizer") == "Muon" else "about 0.1 % is healthy"


def _risen(signs: Signs, curve: np.ndarray) -> tuple[float, str]:
    """The largest rise of the training loss, of curves alone."""
    before, after = signs.rise
    if not 0 <= before < after:
        return 0.0, ""
    risen = curve[after] / curve[before] - 1
    degree = ramp(risen, 0.5, 1.5) * ramp(curve[after] / signs.scale, 0.2, 0.4)
    return degree, f"from {signs.when(before)} to {signs.when(after)} the training loss rose by {percent(risen)}"


def _surely_wrong(signs: Signs) -> tuple[float, str]:
    """That who answers a tenth rightly has a loss above log(1000) needs more than a thousand classes."""
    right, loss = signs.end(signs.train_accuracy), signs.end(signs.train_loss)
    return ramp(loss, 6.0, 7.5) * ramp(right, 0.05, 0.1), (
        f"{percent(right)} of the training examples are right, yet the loss is {number(loss)}, which is that of"
        " answers given with certainty and wrong; inputs that are not normalised (0 to 255) do the same"
    )


def _adams_rate(signs: Signs, end: float) -> tuple[float, str]:
    """Of a network that saturates ratios tell little, but Adam's steps are about the rate in size all the same."""
    rate = float(signs.facts.get("learning_rate") or 0) if signs.facts.get("optimizer") == "Adam" else 0.0
    degree = ramp(math.log10(rate), -1.3, -0.3) * ramp(end, 0.1, 0.4) if rate > 0 else 0.0
    return degree, f"with Adam every weight moves by about the learning rate, {number(rate)}, where 0.001 is usual"


def _deaths(signs: Signs, wobble: float) -> tuple[float, str]:
    """Units that a step has killed, where the loss was thrown. Once they are dead, updates are small again."""
    died = 0.0 if signs.largest_update < 0.01 else signs.died
    thrown = max(ramp(signs.first_step_loss, 1.05, 1.12), ramp(wobble, 0.03, 0.1))
    return ramp(died, 0.4, 0.9) * thrown, f"{percent(died)} of a layer's units have died since the beginning"


def lr_too_low(signs: Signs) -> Finding | None:
    curve = signs.learning
    falling, left, ratio = signs.still_falling(curve), signs.left, signs.update_ratio
    if ratio >= 0:
        size = -math.log10(max(ratio, 1e-12))
        # Or somewhat small, where the network is behind a method without training and still on its way.
        behind = ramp(size, 2.6, 2.8) * behind_kernel(signs) * ramp(falling / max(left, 1e-9), 0.2, 0.4)
        small = ramp(size, 3.0, 3.6) * ramp(left, 0.04, 0.2)
        degree = max(small, behind)
        told = f"an update changes a layer's weights by {percent(ratio)} ({_usual(signs)}), and the"
        if behind > small:
            told = "the network is worse than kernel ridge regression, which is not trained, and the"
    elif signs.bare:
        return _falls_as_at_first(signs, left)
    else:
        degree = 0.5 * ramp(falling / left if left > 0 else math.nan, 0.05, 0.25) * ramp(left, 0.1, 0.4)
        told = "the"
    if degree <= 0:
        return None
    ends = "still falls" if falling > 0.01 else "hardly moves"
    smoothed = f" above what smoothed labels leave ({number(signs.least)})" if signs.least else ""
    return Finding(
        "lr_too_low",
        f"The steps are too small: {told} training loss, {percent(left)} of that of knowing nothing{smoothed}, {ends}.",
        sure(degree),
        evidence={"update_ratio": ratio, "still_falling": falling, "end_in_chance": left},
    )


def _falls_as_at_first(signs: Signs, left: float) -> Finding | None:
    """Of curves alone, whose first row is often far below chance already: that the loss falls does not suffice, it must
    fall as fast as it did."""
    late = signs.late_share(signs.learning)
    degree = 0.8 * ramp(late, 0.15, 0.25) * ramp(left, 0.4, 0.6)
    right = max((signs.end(curve) for curve in (signs.train_accuracy, signs.val_accuracy) if known(curve)), default=0.0)
    degree *= ramp(right, 0.9, 0.7)  # what is fine-tuned moves little, and is good
    if degree <= 0:
        return None
    return Finding(
        "lr_too_low",
        f"The training loss ends at {percent(left)} of {signs.unit} and still falls as it did all along"
        f" ({percent(late)} of its fall came in the last third). Either the steps are too small, or"
        " there were too few of them.",
        min(0.89, sure(degree)),
        evidence={"late_share": late, "end_in_chance": left},
    )


def plateau(signs: Signs) -> Finding | None:
    rates = signs.history.curve("learning_rate")
    constant = signs.facts.get("schedule") == "constant"
    if len(rates) > 3:  # config.plateau reduces a constant rate, too; a warm-up is over by half of the run
        constant = float(np.ptp(rates[len(rates) // 2 :] if constant else rates)) == 0
    curve = signs.learning
    falling, wobble, left = signs.still_falling(curve), signs.wobble(curve), signs.left
    if not constant or math.isnan(wobble):
        return None
    degree = ramp(wobble, 0.03, 0.12) * ramp(falling / max(left, 1e-9), 0.3, 0.0) * ramp(left, 0.02, 0.1)
    if degree <= 0:
        return None
    return Finding(
        "plateau",
        f"The learning rate is constant, and the training loss no longer falls but goes up and down by"
        f" {percent(wobble)} of itself: it is the size of the steps that keeps it there.",
        sure(degree),
        epoch=float(np.interp(2 / 3, signs.progress, signs.history.epochs)),
        evidence={"wobble": wobble, "still_falling": falling, "end_in_chance": left},
    )
