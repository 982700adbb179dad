"""Rules about what is learnt: a loss or labels that are wrong, some labels that are, a split that leaks.

Imports signs and findings. The fact that surprises: wrong labels are seen by where they stand in the order of a
network's answers. Its own mistakes stand near the front, what was drawn blindly stands anywhere.
"""

import math

import numpy as np

from jaxtrain.diagnose.degrees import behind_kernel, highest, number, percent, ramp, sure
from jaxtrain.diagnose.findings import Finding
from jaxtrain.diagnose.signs import Signs, median


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
        f"{percent(accuracy)} of the training examples are right, yet the loss is {loss:.3f}; the loss of"
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
    fewer = f", fewer than by chance ({percent(chance)})" if avoids else ""
    right = f"{percent(accuracy)} of the training examples are right{fewer}, and the" if signs.classifies else "The"
    return Finding(
        "wrong_target",
        f"{right} loss of training is {number(loss)}, above that of knowing nothing"
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
    at_chance = best < max(0.05, noise) or (val < 0.02 and best < 0.1)
    # Or a little above, where much more is to be had: a best of many evaluations is above chance by luck, too.
    at_chance |= max(train, val, median(signs.quality("val"))) < 0.1 and signs.kernel_quality > 0.4
    at_chance |= not signs.classifies and best < 0.1 and signs.kernel_quality < 0.05
    if not at_chance or signs.count < 2:
        return None
    if signs.end(signs.val_loss) < 0.8 * signs.chance_loss:  # of rare classes the accuracy tells little
        return None
    if train > max(0.15, val + 0.1):
        text = (
            f"The training examples are learnt ({percent(train)} of the way from chance to perfect), but validation"
            f" is at chance all along ({percent(max(val, 0.0))}): what is learnt holds for no other example, as where"
            " labels do not belong to their inputs."
        )
        sure = 0.97
    else:
        text = (
            f"Training stands at chance ({percent(max(train, 0.0))} of the way to perfect), and so does validation"
            f" ({percent(max(val, 0.0))}): nothing of the targets is learnt, as where the loss compares outputs with"
            " other examples' labels, or labels do not belong to their inputs."
        )
        text += " Far too large a learning rate looks the same in the curves." if signs.bare else ""
        sure = 0.8
        if signs.kernel_quality > 0.2:
            text += (
                f" Kernel ridge regression, which is not trained, comes {percent(signs.kernel_quality)} of the way from"
                " chance to perfect: the labels do belong to the inputs, so look at the loss and at what the network is"
                " given."
            )
    if signs.kernel_quality < max(0.05, noise):
        text += " Kernel ridge regression, which is not trained, is at chance, too: it may well be the data."
    return Finding("wrong_target", text, sure, evidence={"train_quality": train, "val_quality": val})


def _standstill(signs: Signs, train: float, best: float) -> Finding | None:
    """Of curves alone, of which it is not known what knowing nothing would score: neither loss has ever fallen."""
    if signs.classifies or signs.count < 6 or not np.isfinite(signs.learning).all():
        return None
    if not (train < 0.03 and best < 0.05):
        return None
    text = (
        f"Neither loss has fallen: training ends at {number(signs.end(signs.learning))}, {percent(1 - train)} of what"
        " it began with. If all was not learnt before the first row, then nothing is learnt, as where targets do not"
        " belong to their inputs, or the learning rate is far too large or too small."
    )
    return Finding("wrong_target", text, 0.7, evidence={"train_quality": train})


def label_noise(signs: Signs) -> Finding | None:
    rank, mistakes, row = signs.rank_of_mistakes("val")
    classes, held = signs.num_classes, float(signs.facts.get("num_val") or 0)
    if not classes >= 4 or not mistakes * held >= 15:
        return None
    # A wrong label drawn blindly is on average in the middle of the K - 1 wrong places, a network's own mistake mostly
    # in the second; of few classes that are hard to tell often in the third.
    clean, blind = 1.2 + 0.055 * (classes - 1), classes / 2
    share = min(1.0, max(0.0, (rank - clean) / (blind - clean)))
    noise = share * mistakes
    quality = highest(signs.quality("val"))
    degree = ramp(share, 0.5, 0.75) * ramp(noise, 0.03, 0.08) * ramp(quality, 0.03, 0.15)
    # Labels of the training examples are as wrong as others; who is right on all of those has learnt too few by heart.
    of_training = 1 - signs.train_accuracy[row]
    degree *= ramp(of_training / mistakes, 0.1, 0.25) if math.isfinite(of_training) else 1.0
    degree *= 1 - behind_kernel(signs)  # which learns from the same labels
    if degree <= 0:
        return None
    return Finding(
        "label_noise",
        f"Where the network and the label disagree ({percent(mistakes)} of the validation examples), the label stands"
        f" on average {rank:.1f} places behind the network's answer; a network's own mistakes stand about"
        f" {clean:.1f} behind, labels drawn blindly {blind:.1f}. About {percent(noise)} of the labels look wrong.",
        sure(degree, 0.6),
        epoch=float(signs.history.epochs[row]),
        evidence={"rank_of_mistakes": rank, "mistakes": mistakes, "estimated_noise": noise},
    )


def leaked_validation(signs: Signs) -> Finding | None:
    test = signs.history.test.get("accuracy", math.nan)
    val, train = signs.end(signs.val_accuracy), signs.end(signs.train_accuracy)
    held = float(signs.facts.get("num_val") or 500)
    noise = math.sqrt(max(test * (1 - test), 1e-4) * (1 / held + 1 / float(signs.facts.get("num_test") or 1000)))
    by_test = ramp((val - test) / noise, 2.5, 4.5) * ramp(val - test, 0.02, 0.05)
    # Examples that were trained on are known as those are: most of what the test split lacks is made up for.
    if train > test:
        by_test *= max(ramp((train - val) / (train - test), 0.7, 0.5), ramp((val - test) / noise, 5.0, 7.0))
    better = (signs.train_loss - signs.val_loss)[signs.count // 3 :] / signs.scale
    by_train = 0.0
    if signs.count >= 4 and len(better) and np.isfinite(better).all():
        by_train = 0.7 * ramp(float(np.min(better)), 0.0, 0.05) * ramp(median(better), 0.03, 0.15)
    degree = max(by_test, by_train)
    if degree <= 0:
        return None
    if by_test >= by_train:
        text = (
            f"Validation is right on {percent(val)}, the test split on {percent(test)}: {(val - test) / noise:.0f}"
            " standard errors apart. Examples of validation, or near copies of them, may be among those of training; or"
            " the test split is of another kind."
        )
    else:
        text = (
            f"The validation loss ({number(signs.end(signs.val_loss))}) lies below that of training"
            f" ({number(signs.end(signs.train_loss))}) all along. If training is measured with dropout or"
            " augmentation on, that is why; else the validation split is easier, or too small."
            + (" A training loss that is the mean over an epoch lies a little too high, too." if signs.bare else "")
        )
    return Finding(
        "leaked_validation",
        text,
        sure(degree),
        evidence={"val_accuracy": val, "test_accuracy": test, "train_accuracy": train},
    )
