"""The rules: each reads the signs of a history and says what it finds, or nothing.

Imports signs and findings. The fact that surprises: rules do not exclude one another here; a fault has many signs, and
which finding explains away which others is decided once, in `diagnose`.
"""

import math
from collections.abc import Callable

import numpy as np

from jaxtrain.diagnose.findings import Finding
from jaxtrain.diagnose.signs import Signs, known, median

Rule = Callable[[Signs], Finding | None]


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, straight between; 0 of NaN. `high` may be the smaller one."""
    if math.isnan(value):
        return 0.0
    return min(1.0, max(0.0, (value - low) / (high - low)))


def highest(values: np.ndarray) -> float:
    """The largest number; NaN of none."""
    return float(np.nanmax(values)) if known(values) else math.nan


def _sure(share: float, least: float = 0.5, most: float = 0.98) -> float:
    """A confidence from a degree in [0, 1]: 0 stays 0, all else begins at `least`."""
    return 0.0 if share <= 0 else least + (most - least) * share


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if abs(value) < 0.1 else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def diverged(signs: Signs) -> Finding | None:
    history, row = signs.history, _lost_from(signs)
    if history.status != "diverged" and (row is None or len(history.points)):
        return None
    epoch = signs.epoch(-1 if row is None else row) if signs.count else None
    told = f" ({history.note})" if history.note else ""
    text = f"The loss became NaN or infinite{told}; nothing after that means anything."
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


def not_normalised(signs: Signs) -> Finding | None:
    mean, std, ratio = (signs.looked(f"input_{name}") for name in ("mean", "std", "feature_ratio"))
    size = math.hypot(mean, std)
    degree = max(ramp(math.log10(max(size, 1e-9)), 0.7, 1.3), ramp(-math.log10(max(size, 1e-9)), 1.5, 2.5))
    degree = max(degree, ramp(math.log10(max(ratio, 1.0)) if ratio == ratio else math.nan, 1.0, 1.7))
    if degree <= 0:
        return None
    spread = f", and the size of one feature is {_number(ratio)} times that of another" if ratio > 10 else ""
    return Finding(
        "not_normalised",
        f"The network gets inputs of mean {_number(mean)} and standard deviation {_number(std)}{spread}; initial"
        " weights and learning rates are made for mean 0 and deviation 1.",
        _sure(degree, 0.7),
        evidence={"input_mean": mean, "input_std": std, **({"input_feature_ratio": ratio} if ratio > 0 else {})},
    )


def wrong_target(signs: Signs) -> Finding | None:
    return _softmax_twice(signs) or _below_chance(signs) or _at_chance(signs)


def _softmax_twice(signs: Signs) -> Finding | None:
    """A loss of probabilities taken for logits: between log(e + K - 1) and that minus 1."""
    classes, loss, accuracy = signs.num_classes, signs.end(signs.train_loss), signs.end(signs.train_accuracy)
    expected = math.log(math.e + classes - 1) - accuracy if classes > 1 else math.nan
    if not (accuracy > 0.3 and classes > 2 and abs(loss - expected) < 0.08 and loss > 0.3 * signs.chance_loss):
        return None
    # All along, and in the steps, too: once, any curve may pass there.
    late = signs.count // 2
    away = median(np.abs(signs.train_loss - math.log(math.e + classes - 1) + signs.train_accuracy)[late:])
    if loss <= _most_of_honest(accuracy, classes) or not away < 0.08 or abs(signs.end(signs.mode_gaps)) > 0.1:
        return None
    if signs.update_ratio < 5e-4:  # what has hardly begun passes there, too
        return None
    return Finding(
        "wrong_target",
        f"{_percent(accuracy)} of the training examples are right, yet the loss is {loss:.3f}; the loss of"
        f" probabilities taken for logits would be {expected:.3f}: softmax seems to be applied twice. Such a loss"
        f" cannot fall below {math.log(math.e + classes - 1) - 1:.2f}, and its gradients are faint.",
        0.5 + 0.48 * ramp(accuracy, 0.3, 0.6),
        evidence={"train_loss": loss, "loss_of_probabilities": expected, "train_accuracy": accuracy},
    )


def _most_of_honest(accuracy: float, classes: float) -> float:
    """The largest loss of a network that is right as often as it says: of few classes that are hard to tell it is as
    large as that of probabilities taken for logits, and says nothing."""
    wrong = 1 - accuracy
    parts = [(accuracy, accuracy), (wrong, wrong / (classes - 1))]
    return -sum(share * math.log(probability) for share, probability in parts if probability > 0)


def _below_chance(signs: Signs) -> Finding | None:
    """A classifier that avoids the right answer, or whose loss grows while it is trained."""
    accuracy, chance = signs.end(signs.train_accuracy), signs.chance_accuracy
    loss = signs.end(signs.train_loss)
    avoids = accuracy < 0.5 * chance and loss > 1.1 * signs.chance_loss
    # A loss that rises all along by steps of a healthy size is climbed, not thrown.
    above = loss > 1.5 * signs.chance_loss
    climbs = signs.update_ratio < 0.02 and above and _share_rising(signs.train_loss) > 0.7
    # Or what is trained on falls below 0 while what is reported, which is never below 0, has risen.
    climbs |= above and signs.last_step_loss < -0.1
    if not (avoids or climbs):
        return None
    fewer = f", fewer than by chance ({_percent(chance)})" if avoids else ""
    right = f"{_percent(accuracy)} of the training examples are right{fewer}, and the" if signs.classifies else "The"
    return Finding(
        "wrong_target",
        f"{right} loss of training is {_number(loss)}, above that of knowing nothing"
        f" ({signs.chance_loss:.2f}): the training seems to go the wrong way, as with a loss of the"
        " wrong sign.",
        0.99 if climbs or accuracy < 0.2 * chance else 0.75,
        evidence={"train_accuracy": accuracy, "chance": chance, "train_loss": loss},
    )


def _share_rising(curve: np.ndarray) -> float:
    """Of the steps from one evaluation to the next, those that go up."""
    return float(np.mean(np.diff(curve) > 0)) if len(curve) > 3 else math.nan


def _at_chance(signs: Signs) -> Finding | None:
    """Validation as by chance: what was learnt, if anything, holds for no other example."""
    train, val = signs.end(signs.quality("train")), signs.end(signs.quality("val"))
    best = highest(signs.quality("val"))
    if signs.bare and not signs.knows_chance:
        return _standstill(signs, train, max(best, highest(signs.quality("train"))))
    held = float(signs.facts.get("num_val") or 500)
    chance = signs.chance_accuracy
    noise = 3 * math.sqrt(chance / (1 - chance) / held) if signs.classifies and 0 < chance < 1 else 0.05
    if not (best < max(0.05, noise) or (val < 0.02 and best < 0.1)) or signs.count < 2:
        return None
    if signs.end(signs.val_loss) < 0.8 * signs.chance_loss:  # of rare classes the accuracy tells little
        return None
    if train > max(0.15, val + 0.1):
        text = (
            f"The training examples are learnt ({_percent(train)} of the way from chance to perfect), but validation"
            f" is at chance all along ({_percent(max(val, 0.0))}): what is learnt holds for no other example, as where"
            " labels do not belong to their inputs."
        )
        sure = 0.97
    else:
        text = (
            f"Training stands at chance ({_percent(max(train, 0.0))} of the way to perfect), and so does validation"
            f" ({_percent(max(val, 0.0))}): nothing of the targets is learnt, as where the loss compares outputs with"
            " other examples' labels, or labels do not belong to their inputs."
        )
        text += " Far too large a learning rate looks the same in the curves." if signs.bare else ""
        sure = 0.8
    return Finding("wrong_target", text, sure, evidence={"train_quality": train, "val_quality": val})


def _standstill(signs: Signs, train: float, best: float) -> Finding | None:
    """Of curves alone, of which it is not known what knowing nothing would score: neither loss has ever fallen."""
    if signs.classifies or signs.count < 6 or not np.isfinite(signs.learning).all():
        return None
    if not (train < 0.03 and best < 0.05):
        return None
    text = (
        f"Neither loss has fallen: training ends at {_number(signs.end(signs.learning))}, {_percent(1 - train)} of what"
        " it began with. If all was not learnt before the first row, then nothing is learnt, as where targets do not"
        " belong to their inputs, or the learning rate is far too large or too small."
    )
    return Finding("wrong_target", text, 0.7, evidence={"train_quality": train})


def exploding_gradients(signs: Signs) -> Finding | None:
    norms, first = signs.first_gradients(), signs.first("gradient_norm")
    degree = ramp(math.log10(first), 2.0, 2.8) if first > 0 else 0.0
    if degree <= 0:
        return None
    layer = max(norms, key=lambda name: norms[name], default="")
    of_layer = f" (that of {layer} {_number(norms[layer])})" if layer else ""
    return Finding(
        "exploding_gradients",
        f"Before the first step the gradient has a length of {_number(first)}{of_layer}, where about 1 is usual:"
        " weights or activations are far too large.",
        _sure(degree, 0.6),
        epoch=0.0,
        evidence={"gradient_norm": first},
    )


def vanishing_gradients(signs: Signs) -> Finding | None:
    norms = {layer: norm for layer, norm in signs.first_gradients().items() if 0 < norm < math.inf}
    if len(norms) < 3:
        return None
    weakest, strongest = min(norms, key=lambda name: norms[name]), max(norms, key=lambda name: norms[name])
    ratio = norms[weakest] / norms[strongest]
    degree = ramp(-math.log10(ratio), 2.3, 3.5)
    if degree <= 0:
        return None
    return Finding(
        "vanishing_gradients",
        f"The gradient of {weakest} is {_number(1 / ratio)} times as small as that of {strongest}: layers far from the"
        " loss hardly learn from it.",
        _sure(degree, 0.6),
        epoch=0.0,
        evidence={"smallest_gradient": norms[weakest], "largest_gradient": norms[strongest]},
    )


def dying_relus(signs: Signs) -> Finding | None:
    shares = signs.dead()
    if not shares:
        return None
    layer = max(shares, key=lambda name: shares[name])
    degree = ramp(shares[layer], 0.35, 0.8)
    if degree <= 0:
        return None
    return Finding(
        "dying_relus",
        f"{_percent(shares[layer])} of the units of {layer} get no gradient from any example of a batch, as behind a"
        " ReLU that is never on: they will not learn again by themselves.",
        # Dead from the beginning they are the cause; units that have died are more often a sign of something else.
        _sure(degree, 0.6, 0.78 if signs.died > 0.4 else 0.98),
        evidence={"dead_share": shares[layer]},
    )


def lr_too_high(signs: Signs) -> Finding | None:
    ratio = signs.update_ratio
    by_ratio = ramp(math.log10(ratio), -1.7, -1.2) if ratio > 0 else 0.0
    curve = signs.learning
    wobble, end = signs.wobble(curve), signs.end(curve) / signs.scale
    by_curve = ramp(wobble, 0.15, 0.4) * ramp(end, 0.05, 0.3)
    large = not ratio < 0.01  # or not known
    worse = ramp(end, 1.3, 3.0) if large else 0.0
    quiet = not signs.first("gradient_norm") > 30  # before the first step
    blown = ramp(signs.first_step_loss, 1.5, 4.0) if quiet else 0.0
    died = signs.died if not signs.largest_update < 0.01 else 0.0  # of dead units the updates are small again
    thrown = max(ramp(signs.first_step_loss, 1.05, 1.12), ramp(wobble, 0.03, 0.1))
    by_deaths = ramp(died, 0.4, 0.9) * thrown
    # Of curves alone. That who answers a tenth rightly has a loss above log(1000) needs more than a thousand classes.
    right, loss = signs.end(signs.train_accuracy), signs.end(signs.train_loss)
    surely_wrong = ramp(loss, 6.0, 7.5) * ramp(right, 0.05, 0.1) if signs.bare else 0.0
    before, after = signs.rise if signs.bare else (-1, -1)
    risen = curve[after] / curve[before] - 1 if 0 <= before < after else math.nan
    by_rise = ramp(risen, 0.5, 1.5) * ramp(curve[after] / signs.scale, 0.2, 0.4) if risen > 0 else 0.0
    # Of a network that saturates, ratios tell little; Adam's steps are about the rate in size whatever the gradient.
    rate = float(signs.facts.get("learning_rate") or 0) if signs.facts.get("optimizer") == "Adam" else 0.0
    by_rate = ramp(math.log10(rate), -1.3, -0.3) * ramp(end, 0.1, 0.4) if rate > 0 else 0.0
    degree = max(by_ratio, by_curve, worse, blown, by_deaths, surely_wrong, by_rise, by_rate)
    if degree <= 0:
        return None
    told = []
    if by_ratio > 0:
        told.append(f"an update changes a layer's weights by {_percent(ratio)} (about 0.1 % is healthy)")
    if by_curve > 0:
        told.append(
            f"the training loss goes up and down by {_percent(wobble)} of itself from one evaluation to the next"
        )
    if worse > 0:
        told.append(f"the loss ends at {end:.1f} times {signs.unit}")
    if by_rise > 0:
        told.append(f"from {signs.when(before)} to {signs.when(after)} the training loss rose by {_percent(risen)}")
    if surely_wrong > 0:
        told.append(
            f"{_percent(right)} of the training examples are right, yet the loss is {_number(loss)}, which is that of"
            " answers given with certainty and wrong; inputs that are not normalised (0 to 255) do the same"
        )
    if blown > 0:
        told.append(
            f"the first steps raised the loss to {_number(signs.first_step_loss)} times that of knowing nothing"
        )
    if by_rate > 0:
        told.append(f"with Adam every weight moves by about the learning rate, {_number(rate)}, where 0.001 is usual")
    if by_deaths > 0:
        told.append(f"{_percent(died)} of a layer's units have died since the beginning")
    return Finding(
        "lr_too_high",
        f"The steps are too large: {'; '.join(told)}.",
        _sure(degree),
        evidence={"update_ratio": ratio, "wobble": wobble, "end_in_chance": end},
    )


def lr_too_low(signs: Signs) -> Finding | None:
    curve = signs.learning
    falling, left, ratio = signs.still_falling(curve), signs.end(curve) / signs.scale, signs.update_ratio
    if ratio >= 0:
        degree = ramp(-math.log10(max(ratio, 1e-12)), 3.0, 3.6) * ramp(left, 0.04, 0.2)
        told = f"an update changes a layer's weights by {_percent(ratio)} (about 0.1 % is healthy), and the"
    elif signs.bare:
        return _falls_as_at_first(signs, left)
    else:
        degree = 0.5 * ramp(falling / left if left > 0 else math.nan, 0.05, 0.25) * ramp(left, 0.1, 0.4)
        told = "the"
    if degree <= 0:
        return None
    ends = "still falls" if falling > 0.01 else "hardly moves"
    return Finding(
        "lr_too_low",
        f"The steps are too small: {told} training loss, {_percent(left)} of that of knowing nothing, {ends}.",
        _sure(degree),
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
        f"The training loss ends at {_percent(left)} of {signs.unit} and still falls as it did all along"
        f" ({_percent(late)} of its fall came in the last third). Either the steps are too small, or"
        " there were too few of them.",
        min(0.89, _sure(degree)),
        evidence={"late_share": late, "end_in_chance": left},
    )


def plateau(signs: Signs) -> Finding | None:
    rates = signs.history.curve("learning_rate")
    constant = signs.facts.get("schedule") == "constant"
    if len(rates) > 3:  # config.plateau reduces a constant rate, too; a warm-up is over by half of the run
        constant = float(np.ptp(rates[len(rates) // 2 :] if constant else rates)) == 0
    curve = signs.learning
    falling, wobble, left = signs.still_falling(curve), signs.wobble(curve), signs.end(curve) / signs.scale
    if not constant or math.isnan(wobble):
        return None
    degree = ramp(wobble, 0.03, 0.12) * ramp(falling / max(left, 1e-9), 0.3, 0.0) * ramp(left, 0.02, 0.1)
    if degree <= 0:
        return None
    return Finding(
        "plateau",
        f"The learning rate is constant, and the training loss no longer falls but goes up and down by"
        f" {_percent(wobble)} of itself: it is the size of the steps that keeps it there.",
        _sure(degree),
        epoch=float(np.interp(2 / 3, signs.progress, signs.history.epochs)),
        evidence={"wobble": wobble, "still_falling": falling, "end_in_chance": left},
    )


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
        f"On the training examples themselves the loss in evaluation mode is {_percent(end)} of a chance loss above"
        " that of the training steps: what evaluation normalises with, the running averages, is not what the network"
        " was trained with.",
        _sure(degree),
        evidence={"mode_gap_at_end": end, "mode_gap_upper_quartile": worst},
    )


def noisy(signs: Signs) -> Finding | None:
    batch = signs.batch
    wobble, scale = signs.wobble(signs.val_loss), signs.noise_scale
    small = ramp(batch, 16, 4) if batch == batch else 0.0
    degree = max(small * ramp(wobble, 0.01, 0.06), 0.5 * small)
    if degree <= 0:
        return None
    noise = f" (the gradient noise scale is about {_number(scale)} examples)" if 0 < scale < math.inf else ""
    moves = f", and the validation loss goes up and down by {_percent(wobble)} of itself" if wobble >= 0 else ""
    return Finding(
        "noisy",
        f"Batches of {batch:.0f} examples{noise}: each step follows its few examples more than the data{moves}.",
        _sure(degree),
        evidence={"batch_size": batch, "wobble": wobble, "noise_scale": scale},
    )


def label_noise(signs: Signs) -> Finding | None:
    rank, mistakes, row = signs.rank_of_mistakes("val")
    classes, held = signs.num_classes, float(signs.facts.get("num_val") or 0)
    if not classes >= 4 or not mistakes * held >= 15:
        return None
    # A wrong label drawn blindly is on average in the middle of the K - 1 wrong places, a network's own mistake nearly
    # always in the second.
    clean, blind = 1 + 0.08 * (classes - 2), classes / 2
    share = min(1.0, max(0.0, (rank - clean) / (blind - clean)))
    noise = share * mistakes
    quality = highest(signs.quality("val"))
    degree = ramp(share, 0.5, 0.75) * ramp(noise, 0.03, 0.08) * ramp(quality, 0.1, 0.3)
    if degree <= 0:
        return None
    return Finding(
        "label_noise",
        f"Where the network and the label disagree ({_percent(mistakes)} of the validation examples), the label stands"
        f" on average {rank:.1f} places behind the network's answer; a network's own mistakes stand about"
        f" {clean:.1f} behind, labels drawn blindly {blind:.1f}. About {_percent(noise)} of the labels look wrong.",
        _sure(degree, 0.6),
        epoch=float(signs.history.epochs[row]),
        evidence={"rank_of_mistakes": rank, "mistakes": mistakes, "estimated_noise": noise},
    )


def leaked_validation(signs: Signs) -> Finding | None:
    test = signs.history.test.get("accuracy", math.nan)
    val, train = signs.end(signs.val_accuracy), signs.end(signs.train_accuracy)
    held = float(signs.facts.get("num_val") or 500)
    noise = math.sqrt(max(test * (1 - test), 1e-4) * (1 / held + 1 / float(signs.facts.get("num_test") or 1000)))
    by_test = ramp((val - test) / noise, 2.5, 4.5) * ramp(val - test, 0.02, 0.05)
    better = (signs.train_loss - signs.val_loss)[signs.count // 3 :] / signs.scale
    by_train = 0.0
    if signs.count >= 4 and len(better) and np.isfinite(better).all():
        by_train = 0.7 * ramp(float(np.min(better)), 0.0, 0.05) * ramp(median(better), 0.03, 0.15)
    degree = max(by_test, by_train)
    if degree <= 0:
        return None
    if by_test >= by_train:
        text = (
            f"Validation is right on {_percent(val)}, the test split on {_percent(test)}: {(val - test) / noise:.0f}"
            " standard errors apart. Examples of validation, or near copies of them, may be among those of training; or"
            " the test split is of another kind."
        )
    else:
        text = (
            f"The validation loss ({_number(signs.end(signs.val_loss))}) lies below that of training"
            f" ({_number(signs.end(signs.train_loss))}) all along. If training is measured with dropout or"
            " augmentation on, that is why; else the validation split is easier, or too small."
            + (" A training loss that is the mean over an epoch lies a little too high, too." if signs.bare else "")
        )
    return Finding(
        "leaked_validation",
        text,
        _sure(degree),
        evidence={"val_accuracy": val, "test_accuracy": test, "train_accuracy": train},
    )


def overfitting(signs: Signs) -> Finding | None:
    gap, rise = signs.quality_gap, signs.val_rise
    train, val = signs.end(signs.train_loss), signs.end(signs.val_loss)
    # Between a network's answers and classes that are hard to tell some gap is usual; between numbers it is not.
    by_gap = ramp(gap, 0.15, 0.3) if signs.by_accuracy else ramp(gap, 0.1, 0.25)
    by_rise = ramp(rise, 0.15, 0.6) * ramp(signs.loss_gap / signs.scale, 0.05, 0.2)
    if signs.bare:
        by_gap = _gap_of_curves(signs)
    degree = max(by_gap, by_rise)
    if degree <= 0 or math.isnan(gap):
        return None
    row = signs.best_row(signs.val_loss)
    epoch = signs.epoch(row)
    risen = f" and has risen by {_percent(rise)} since {signs.when(row)}" if rise > 0.02 else ""
    what = "accuracy"
    ends = [signs.end(signs.train_accuracy), signs.end(signs.val_accuracy)]
    if not signs.by_accuracy:
        ends = [signs.end(signs.quality("train")), signs.end(signs.quality("val"))]
        told = math.isfinite(signs.chance_loss) and not signs.classifies
        what = "explained share of the variance" if told else "fall of the loss from where it began"
    shares = f": {what} {_percent(ends[0])} against {_percent(ends[1])}"
    if signs.bare and not signs.by_accuracy:
        shares = ""
    return Finding(
        "overfitting",
        f"Training is learnt far better than validation{shares}. The validation loss is {_number(val)} against"
        f" {_number(train)}{risen}.",
        _sure(degree),
        epoch=epoch if rise > 0.02 else None,
        evidence={"quality_gap": gap, "val_rise": rise, **({} if epoch is None else {"best_epoch": epoch})},
    )


def underfitting(signs: Signs) -> Finding | None:
    train, val = signs.end(signs.quality("train")), signs.end(signs.quality("val"))
    if signs.bare:
        return _poor(signs, train, val)
    held_back = -signs.end(signs.mode_gaps) if signs.same_labels else math.nan
    by_quality = ramp(train, 0.77, 0.55) if signs.by_accuracy else ramp(train, 0.88, 0.6)
    by_dropout = ramp(held_back, 0.1, 0.2) * ramp(train, 0.97, 0.9)
    degree = max(by_quality, by_dropout) * ramp(train - val, 0.15, 0.05)
    if degree <= 0 or train < 0.03:  # at chance it is something else
        return None
    dropout = (
        f" In the steps themselves, with dropout and all, the loss is higher by {_percent(held_back)} of a chance loss."
        if by_dropout > 0
        else ""
    )
    return Finding(
        "underfitting",
        f"Training and validation are close, and both are poor: {_percent(train)} and {_percent(val)} of the way from"
        f" chance to perfect. The network cannot, or may not, fit even what it is shown.{dropout}",
        _sure(degree),
        evidence={"train_quality": train, "val_quality": val, "held_back": held_back},
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
        chance = f" (by chance {_percent(signs.chance_accuracy)} would be)" if signs.knows_chance else ""
        text = (
            f"Training and validation are close: {_percent(signs.end(signs.train_accuracy))} and"
            f" {_percent(signs.end(signs.val_accuracy))} are right{chance}."
        )
    else:
        text = (
            f"Training and validation end at a loss of {_number(signs.end(signs.train_loss))} and"
            f" {_number(signs.end(signs.val_loss))}, and training began at {_number(signs.scale)}."
        )
    return Finding(
        "underfitting",
        f"{text} If that is poor for these data, the network cannot, or may not, fit even what it is shown.",
        _sure(degree),
        evidence={"train_quality": train, "val_quality": val},
    )


RULES: dict[str, Rule] = {
    "diverged": diverged,
    "not_normalised": not_normalised,
    "wrong_target": wrong_target,
    "exploding_gradients": exploding_gradients,
    "vanishing_gradients": vanishing_gradients,
    "dying_relus": dying_relus,
    "lr_too_high": lr_too_high,
    "lr_too_low": lr_too_low,
    "plateau": plateau,
    "stale_batch_norm": stale_batch_norm,
    "noisy": noisy,
    "label_noise": label_noise,
    "leaked_validation": leaked_validation,
    "overfitting": overfitting,
    "underfitting": underfitting,
}
"""In the order of `NAMES`."""
