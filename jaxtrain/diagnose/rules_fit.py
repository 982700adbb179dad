"""Rules about how well training and validation are fitted.

Imports signs and findings. The fact that surprises: poor is relative. What a good network reaches on these data is not
known, but what can be had without training is; where not even that is known, poor is never told surely.
"""

import math

import numpy as np

from jaxtrain.diagnose.degrees import behind_kernel, number, percent, ramp, sure
from jaxtrain.diagnose.findings import Finding
from jaxtrain.diagnose.signs import Signs, known


def stale_batch_norm(signs: Signs) -> Finding | None:
    gaps = signs.mode_gaps
    if len(gaps) < 2 or signs.facts.get("batch_norm") is False:
        return None
    end = signs.end(gaps)
    worst = float(np.percentile(gaps[np.isfinite(gaps)], 75)) if known(gaps) else math.nan
    degree = max(ramp(end, 0.015, 0.1), 0.6 * ramp(worst, 0.1, 0.5))
    if degree <= 0:
        return None
    return Finding(
        "stale_batch_norm",
        f"On the training examples themselves the loss in evaluation mode is {percent(end)} of a chance loss above"
        " that of the training steps: what evaluation normalises with, the running averages, is not what the network"
        " was trained with.",
        sure(degree),
        evidence={"mode_gap_at_end": end, "mode_gap_upper_quartile": worst},
    )


def overfitting(signs: Signs) -> Finding | None:
    gap, rise = signs.quality_gap, signs.val_rise
    train, val = signs.end(signs.train_loss), signs.end(signs.val_loss)
    # Between a network's answers and classes that are hard to tell some gap is usual, and more regularisation gains
    # nothing, unless all that was shown is known by heart; between numbers it is not.
    by_heart = ramp(signs.end(signs.quality("train")), 0.95, 0.99)
    by_gap = ramp(gap, 0.1, 0.25)
    if signs.by_accuracy:
        by_gap = ramp(gap, 0.15, 0.3) * max(by_heart, ramp(gap, 0.3, 0.45))
    by_rise = ramp(rise, 0.15, 0.6) * ramp(signs.loss_gap / signs.scale, 0.05, 0.2)
    if signs.bare:
        by_gap = _gap_of_curves(signs)
    degree = max(by_gap, by_rise)
    if degree <= 0 or math.isnan(gap):
        return None
    row = signs.best_row(signs.val_loss)
    epoch = signs.epoch(row)
    risen = f" and has risen by {percent(rise)} since {signs.when(row)}" if rise > 0.02 else ""
    what = "accuracy"
    ends = [signs.end(signs.train_accuracy), signs.end(signs.val_accuracy)]
    if not signs.by_accuracy:
        ends = [signs.end(signs.quality("train")), signs.end(signs.quality("val"))]
        told = math.isfinite(signs.chance_loss) and not signs.classifies
        what = "explained share of the variance" if told else "fall of the loss from where it began"
    shares = f": {what} {percent(ends[0])} against {percent(ends[1])}"
    if signs.bare and not signs.by_accuracy:
        shares = ""
    return Finding(
        "overfitting",
        f"Training is learnt far better than validation{shares}. The validation loss is {number(val)} against"
        f" {number(train)}{risen}.",
        sure(degree),
        epoch=epoch if rise > 0.02 else None,
        evidence={"quality_gap": gap, "val_rise": rise, **({} if epoch is None else {"best_epoch": epoch})},
    )


def underfitting(signs: Signs) -> Finding | None:
    train, val = signs.end(signs.quality("train")), signs.end(signs.quality("val"))
    if signs.bare:
        return _poor(signs, train, val)
    held_back = -signs.end(signs.mode_gaps) if signs.same_labels else math.nan
    by_dropout = ramp(held_back, 0.1, 0.2) * ramp(train, 0.97, 0.9) * ramp(train - val, 0.15, 0.05)
    if math.isfinite(signs.below_kernel):  # augmentation holds the steps back as well, and nothing need be lost by it
        by_dropout *= ramp(signs.below_kernel, -0.08, -0.02)
    by_kernel = behind_kernel(signs)
    degree = max(by_dropout, by_kernel)
    if math.isnan(signs.below_kernel):  # how good is good is not known then
        by_quality = ramp(train, 0.77, 0.55) if signs.by_accuracy else ramp(train, 0.88, 0.6)
        degree = max(by_dropout, 0.8 * by_quality * ramp(train - val, 0.15, 0.05))
    if degree <= 0 or train < 0.03 or signs.is_early:  # at chance it is something else
        return None
    dropout = (
        f" In the steps themselves, with dropout and all, the loss is higher by {percent(held_back)} of a chance loss."
        if by_dropout > 0
        else ""
    )
    kernel = f", which is less than there is to learn. {_told_by_kernel(signs)}" if by_kernel > 0 else "."
    unsure = "" if max(by_kernel, by_dropout) > 0 else "If that is poor for these data, then "
    cannot = f"{unsure}{'the' if unsure else 'The'} network cannot, or may not, fit even what it is shown."
    known_kernel = {} if math.isnan(signs.below_kernel) else {"kernel_quality": signs.kernel_quality}
    return Finding(
        "underfitting",
        f"Training and validation are {percent(train)} and {percent(val)} of the way from chance to perfect{kernel}"
        f" {cannot}{dropout}",
        sure(degree) if signs.history.status != "running" else min(0.89, sure(degree)),
        evidence={"train_quality": train, "val_quality": val, "held_back": held_back, **known_kernel},
    )


def _told_by_kernel(signs: Signs) -> str:
    """What kernel ridge regression reaches, in a sentence."""
    if signs.by_accuracy:
        accuracy, right = float(signs.facts["kernel_accuracy"]), signs.end(signs.train_accuracy)
        return (
            f"Kernel ridge regression on a few of the training examples, which has nothing to tune, is right on"
            f" {percent(accuracy)} of the validation examples; the network on {percent(right)} of those that it was"
            " trained on."
        )
    return (
        "Kernel ridge regression on a few of the training examples, which has nothing to tune, explains"
        f" {percent(signs.kernel_quality)} of the variance of the validation targets; the network"
        f" {percent(signs.end(signs.quality('train')))} of those that it was trained on."
    )


def _gap_of_curves(signs: Signs) -> float:
    """The degree of a gap in curves alone. A loss says less than an accuracy, in a unit that is only guessed; where
    validation has an accuracy, training is better by no more than what that lacks."""
    gap = signs.quality_gap
    above = ramp(signs.loss_gap / signs.scale, 0.0, 0.05)
    if signs.by_accuracy:
        return above * ramp(gap, 0.1, 0.25)
    if known(signs.val_accuracy):
        return above * min(ramp(gap, 0.1, 0.25), ramp(1 - signs.end(signs.val_accuracy), 0.1, 0.25))
    return above * ramp(gap, 0.2, 0.6)


def _poor(signs: Signs, train: float, val: float) -> Finding | None:
    """Of curves alone: never surely where it is not known what knowing nothing would score."""
    low, high = (0.8, 0.5) if signs.by_accuracy else (0.5, 0.2)
    degree = (1.0 if signs.knows_chance else 0.8) * ramp(train, low, high) * ramp(train - val, 0.15, 0.05)
    if degree <= 0:
        return None
    if signs.by_accuracy:
        chance = f" (by chance {percent(signs.chance_accuracy)} would be)" if signs.knows_chance else ""
        text = (
            f"Training and validation are close: {percent(signs.end(signs.train_accuracy))} and"
            f" {percent(signs.end(signs.val_accuracy))} are right{chance}."
        )
    else:
        text = (
            f"Training and validation end at a loss of {number(signs.end(signs.train_loss))} and"
            f" {number(signs.end(signs.val_loss))}, and training began at {number(signs.scale)}."
        )
    return Finding(
        "underfitting",
        f"{text} If that is poor for these data, the network cannot, or may not, fit even what it is shown.",
        sure(degree),
        evidence={"train_quality": train, "val_quality": val},
    )
