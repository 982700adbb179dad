"""Checks by training, for seconds: does it memorise twenty examples, learn a few hundred, and nothing from chance?

Imports `subject` and what lies below. The fact that surprises: accuracy is counted here from outputs and labels, and
not asked of the task, where that can be: a task that is mistaken about the labels has metrics that are mistaken, too.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.checks.checkup import Finding, Verdict, grade, skipped, worst
from jaxtrain.checks.passes import off, stepped
from jaxtrain.checks.subject import NUM_FORWARD, Subject, Trained, bare, copied
from jaxtrain.config import Augment
from jaxtrain.step import Setting
from jaxtrain.types import Hyper

NUM_MEMORISED, MEMORISING_STEPS, CHUNK = 20, 200, 40
FACTORS = (
    1.0,
    0.1,
    10.0,
)  # of the configured rate, tried in this order until one learns
REGULARISERS = (
    "dropout_rate",
    "input_dropout_rate",
    "weight_decay",
    "label_smoothing",
    "l1",
    "l2",
)


def step_repeats(subject: Subject) -> Finding:
    """The same step from the same state on the same batch, twice, bit for bit."""
    batch = next(subject.batches(1))
    ends = [copied(stepped(subject.brief, subject.state, batch)[0]) for _ in range(2)]
    same = all(np.array_equal(one, other) for one, other in zip(*map(jax.tree.leaves, ends), strict=True))
    return Finding(
        "pass" if same else "warn",
        "bit-equal weights" if same else "different weights",
        "bit-equal weights",
        "Derive all that is random from the key that the step gives: a step that cannot be repeated cannot be debugged,"
        " and a resumed run is another run. (Some operations of a GPU sum in any order.)",
    )


def overfits_few(subject: Subject) -> Finding:
    """The loss on twenty examples, regularisation off, after at most two hundred real steps."""
    rows = _few_rows(subject)
    count, reference = len(rows), _reference(subject, subject.labels[rows])
    tried = {}
    for factor in FACTORS:
        tried[factor] = _memorise(subject, rows, factor, 0.05 * reference)
        if tried[factor] <= 0.05 * reference:
            break
    factor = min(tried, key=lambda factor: np.nan_to_num(tried[factor], nan=np.inf))
    verdict = grade(tried[factor] / reference, 0.05, 0.3)
    size = sum(leaf.size for leaf in jax.tree.leaves(subject.start.params))
    if verdict == "fail" and (size < count or subject.setting.config.frozen):
        verdict = "warn"  # too little to be tuned
    rate = "" if factor == 1 else f" at {factor:g} times the learning rate"
    return Finding(
        verdict,
        f"loss {tried[factor]:.3g} on {count} examples{rate}, {tried[factor] / reference:.1%} of knowing nothing",
        "below 5 %, wrong above 30 %",
        "Look for a fault in loss, labels or gradient, for outputs that are cut off, or a far too small network: one"
        " that cannot learn twenty examples by heart learns no more from fifty thousand.",
    )


def learns(subject: Subject) -> Finding:
    """Training loss and accuracy, against the labels as given, before and after a few dozen steps."""
    tried: dict[float, tuple[Verdict, str]] = {}
    for factor in FACTORS:
        tried[factor] = _progress(subject, subject.trained_at(factor))
        if tried[factor][0] == "pass":
            break
    factor = factor if tried[factor][0] == "pass" else 1.0
    verdict, told = tried[factor]
    rate = float(subject.hyper.learning_rate)
    if factor != 1.0:
        verdict, told = (
            "warn",
            f"{told} with {factor * rate:.2g}; with {rate:.2g}: {tried[1.0][1]}",
        )
    return Finding(
        verdict,
        told,
        "the loss falls and the accuracy rises",
        {
            0.1: "Lower the learning rate (scripts/lr_range.py finds one) or warm up: the network learns at a tenth.",
            10.0: "Raise the learning rate (scripts/lr_range.py finds one): with ten times as much the network learns.",
        }.get(
            factor,
            "Look at the sign of the loss, at what the loss compares (outputs with these labels?) and at the labels"
            " themselves: a loss that falls while the accuracy does not is the loss of something else.",
        ),
    )


def learns_what_holds(subject: Subject) -> Finding:
    """Validation above chance, where the training examples are learnt."""
    train, val = (_quality(subject, subject.best, *part) for part in _parts(subject))
    if train is None or val is None:
        return skipped("Outputs and labels of this task cannot be compared without knowing it.")
    chance, noise = _chance(subject, _parts(subject)[1])
    unit = "accuracy" if subject.num_classes else "R2"
    unsure = subject.num_classes is not None and subject.num_classes > subject.num_train // 20
    learnt = train > chance + 0.2 * (1 - chance)
    verdict: Verdict = "pass" if val > chance + noise else "fail" if learnt and not unsure else "warn"
    return Finding(
        verdict,
        f"{unit} {val:.3f} on {len(subject.rows[1])} held-out examples, {train:.3f} on the training examples",
        f"above {chance + noise:.3f}, which is chance and its noise",
        "See whether each label belongs to its image (an array sorted or shuffled without the other?) and whether both"
        " splits are prepared alike: what is learnt by heart and never holds elsewhere is not a pattern.",
    )


def chance_stays_chance(subject: Subject) -> Finding:
    """Scores of held-out examples after training on shuffled labels, against labels that are shuffled too."""
    label = subject.labels.copy()
    random = np.random.default_rng(subject.seed + 1)
    for first, stop in _parts(subject):
        label[first:stop] = random.permutation(label[first:stop])
    trained = subject.train(subject.best.learning_rate, label, num_steps=30)
    first, stop = _parts(subject)[1]
    scores = subject.score(trained.end, first, stop, label)
    reference, loss = (
        _knowing_nothing(subject, label[first:stop]),
        float(scores.metrics["loss"].mean()),
    )
    if reference is None:
        return skipped("What chance is worth is known of classification and regression only.")
    gain = 1 - loss / reference
    chance, noise = _chance(subject, (first, stop))
    accuracy = float(scores.metrics["accuracy"].mean()) if "accuracy" in scores.metrics else None
    verdict = worst(
        grade(gain, 0.1, 0.2),
        "pass" if accuracy is None else grade(accuracy, chance + noise, chance + 2 * noise),
    )
    return Finding(
        verdict,
        f"loss {loss:.3f}" + ("" if accuracy is None else f", accuracy {accuracy:.3f}") + ", labels at random",
        f"not below {reference:.3f}" + ("" if accuracy is None else f", not above {chance + noise:.3f}"),
        "Look where the label reaches the answer other than through the loss (a task whose outputs or metrics read it):"
        " labels at random cannot be predicted.",
    )


def _parts(subject: Subject) -> tuple[tuple[int, int], tuple[int, int]]:
    """Training and held-out examples as ranges of `subject.image`."""
    return (0, subject.num_train), (subject.num_train, len(subject.labels))


def _progress(subject: Subject, trained: Trained) -> tuple[Verdict, str]:
    """What a short run did to loss and accuracy of its training examples."""
    before, after = subject.scores, subject.score(trained.end, 0, subject.num_train)
    start, end = float(before.loss.mean()), float(after.loss.mean())
    fell = end < start - 0.1 * abs(start)
    told = f"loss {start:.3f} to {end:.3f}"
    quality = _quality(subject, trained, 0, subject.num_train)
    if quality is None:
        reported, said = _reported(subject, before.metrics, after.metrics)
        return "fail" if not fell else reported, told + said
    chance, noise = _chance(subject, (0, subject.num_train))
    unit = "accuracy" if subject.num_classes else "R2"
    return (
        "pass" if fell and quality > chance + noise else "fail",
        f"{told}, {unit} {quality:.3f} (chance {chance:.2f})",
    )


def _reported(subject: Subject, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Verdict, str]:
    """Whether the accuracy that a task of the user's own reports has risen, where it reports one.

    Against class indices it must be better than one answer for all; against other labels, better than before.
    """
    if "accuracy" not in after:
        return "pass", ""
    label, value = subject.labels[: subject.num_train], float(np.mean(after["accuracy"]))
    said = f", accuracy as reported {value:.3f}"
    if label.ndim == 1 and label.dtype.kind in "iu":
        chance = float(np.unique(label, return_counts=True)[1].max() / len(label))
        noise = 4 * math.sqrt(chance * (1 - chance) / len(label))
        return "pass" if value > chance + noise else "fail", f"{said} (chance {chance:.2f})"
    start = float(np.mean(before["accuracy"]))
    return "pass" if value > start else "warn", f"{said} ({start:.3f} before)"


def _quality(subject: Subject, trained: Trained, first: int, stop: int) -> float | None:
    """Accuracy, or in regression the squared correlation with its sign; None where outputs are of another kind."""
    outputs, label = (
        subject.score(trained.end, first, stop).outputs,
        subject.labels[first:stop],
    )
    if subject.num_classes is not None:
        return float(np.mean(np.argmax(outputs, axis=1) == label))
    if outputs.shape != label.shape or len(label) < 10:
        return None
    parts = [(outputs[:, i] - outputs[:, i].mean(), label[:, i] - label[:, i].mean()) for i in range(label.shape[1])]
    pairs = [float((a * b).sum() / max(math.sqrt((a * a).sum() * (b * b).sum()), 1e-30)) for a, b in parts]
    return float(np.mean([r * abs(r) for r in pairs]))


def _chance(subject: Subject, part: tuple[int, int]) -> tuple[float, float]:
    """What `_quality` is worth without knowledge, and four standard deviations of it."""
    label = subject.labels[slice(*part)]
    if subject.num_classes is None:
        return 0.0, 4 / math.sqrt(max(len(label), 1))
    chance = float(np.bincount(label).max() / len(label))
    return chance, 4 * math.sqrt(chance * (1 - chance) / len(label))


def _knowing_nothing(subject: Subject, label: np.ndarray) -> float | None:
    """The least loss without looking at the image: entropy of the labels, or variance of the targets."""
    if subject.num_classes is None:
        return float(label.var(0).mean()) if "mse" in subject.scores.metrics else None
    share = np.bincount(label) / len(label)
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def _reference(subject: Subject, label: np.ndarray) -> float:
    """The loss on few examples that is taken for knowing nothing; of a task of one's own the first loss."""
    if subject.num_classes is not None:
        return math.log(subject.num_classes)
    return max(
        _knowing_nothing(subject, label) or abs(float(subject.scores.loss.mean())),
        1e-12,
    )


def _few_rows(subject: Subject) -> np.ndarray:
    """Twenty training examples whose images all differ, as indices into `subject.image`."""
    image = subject.image[: subject.num_train]
    return np.sort(np.unique(image.reshape(len(image), -1), axis=0, return_index=True)[1])[:NUM_MEMORISED]


def _memorise(subject: Subject, rows: np.ndarray, factor: float, enough: float) -> float:
    """The smallest mean loss reached on these examples, in training mode or in evaluation mode."""
    setting, whole = (
        _memorising(subject, len(rows)),
        subject.examples(0, subject.num_train),
    )
    state = subject.begin(_unregularised(subject.numbers, factor))
    batch, shown = (
        jax.tree.map(lambda x, size=size: np.resize(x[rows], (size, *x.shape[1:])), whole)
        for size in (setting.config.batch_size, len(subject.batch.label))
    )
    smallest = math.inf
    for _ in range(0, MEMORISING_STEPS, CHUNK):
        for _ in range(CHUNK):
            state, metrics = stepped(setting, state, batch)
        training = float(metrics.sums["loss"]) / float(metrics.count)
        evaluation = float(subject.examine(copied(state), shown).loss[: len(rows)].mean())
        smallest = min(loss for loss in (smallest, training, evaluation) if not math.isnan(loss))
        if smallest <= enough:
            break
    return smallest


def _memorising(subject: Subject, count: int) -> Setting:
    """The step without augmentation, on `count` examples; or the short run's, where that is it and no dearer."""
    config = subject.brief.config
    if config.augment == Augment() and config.num_micro_batches == 1 and count <= config.batch_size <= NUM_FORWARD:
        return subject.brief
    config = dataclasses.replace(bare(config, count), num_micro_batches=1, augment=Augment())
    return dataclasses.replace(subject.brief, config=config)


def _unregularised(hyper: Hyper, factor: float) -> Hyper:
    """Nothing that keeps the loss from zero."""
    changes: dict[str, Any] = {
        "learning_rate": jnp.float32(factor) * hyper.learning_rate,
        "mixup": None,
    }
    changes |= {} if hyper.max_norm is None else {"max_norm": jnp.float32(1e6)}
    return dataclasses.replace(off(hyper, *REGULARISERS), **changes)
