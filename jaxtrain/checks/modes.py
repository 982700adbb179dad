"""Checks of what training and evaluation do differently: dropout, BatchNorm, augmentation; and of nothing else.

Imports `subject` and what lies below. The fact that surprises: rates are traced, so to try one of 0.8 in evaluation
compiles nothing, and changes nothing where dropout is off as it should be.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.checks.checkup import Finding, grade, skipped, worst
from jaxtrain.checks.passes import (
    OTHER,
    SAME,
    augmented,
    difference,
    host_batch,
    leaves_of,
    momentum_of,
    off,
    spread,
)
from jaxtrain.checks.subject import Subject
from jaxtrain.models import is_own_batch_stats
from jaxtrain.program import compile_program
from jaxtrain.types import Array, Hyper

NUM_EVALUATED = 100  # examples scored by both the evaluation program and by hand: no whole number of batches
NUM_KEYS = 16  # masks over which outputs in training mode are averaged


def dropout_switches(subject: Subject) -> Finding:
    """Each rate acts in training, differently for each key, the more the larger it is; in evaluation not at all."""
    hyper = subject.numbers
    names = [name for name in ("dropout_rate", "input_dropout_rate") if getattr(hyper, name) is not None]
    wanted = [name for name in names if float(getattr(hyper, name)) > 0]
    keys = subject.keys(2)
    repeats = _noise(subject, hyper, keys[0], keys[0])
    noise = _noise(subject, hyper, keys[0], keys[1])
    if not wanted and noise <= SAME:
        return skipped("No dropout: hyper's rates are None or 0, and the network draws nothing at random.")
    idle = [name for name in wanted if _noise(subject, _only(hyper, names, name), *keys) <= SAME]
    swapped = [name for name in wanted if name not in idle and _falls(subject, _only(hyper, names, name), name, keys)]
    leaking = [name for name in wanted if _acts_in_evaluation(subject, hyper, name)]
    faults = {
        "one key gives two results": repeats > SAME,
        f"{', '.join(idle)} changes nothing in training": bool(idle),
        f"{', '.join(swapped)} acts less the larger it is": bool(swapped),
        f"{', '.join(leaking)} acts in evaluation": bool(leaking),
    }
    said = [fault for fault, found in faults.items() if found]
    return Finding(
        "fail" if said else "pass",
        "; ".join(said) or f"two keys differ by {noise:.2g} of the outputs' spread in training, evaluation by nothing",
        "differs between keys in training, never in evaluation",
        "Give Dropout the rate (the share dropped) and train=train, and nothing of it in evaluation: a rate that does"
        " not act regularises nothing, one that acts in evaluation makes predictions a lottery.",
    )


def _noise(subject: Subject, hyper: Hyper, one: Array, other: Array) -> float:
    """How much two keys differ in training mode, in units of the outputs' spread."""
    first, second = (subject.training_pass(subject.moved, subject.batch.image, k, hyper).outputs for k in (one, other))
    return difference(first, second, spread(first))


def _only(hyper: Hyper, names: list[str], name: str) -> Hyper:
    return off(hyper, *(other for other in names if other != name))


def _falls(subject: Subject, hyper: Hyper, name: str, keys: list[Array]) -> bool:
    """Whether a small rate disturbs more than a large one, as where the share kept is meant."""
    weak, strong = (dataclasses.replace(hyper, **{name: jnp.float32(rate)}) for rate in (0.02, 0.6))
    root = [float(np.sqrt(np.mean(np.square(_pair_difference(subject, h, keys))))) for h in (weak, strong)]
    return root[0] > root[1]


def _pair_difference(subject: Subject, hyper: Hyper, keys: list[Array]) -> np.ndarray:
    first, second = (subject.training_pass(subject.moved, subject.batch.image, k, hyper).outputs for k in keys)
    return (first - second) / spread(first)


def _acts_in_evaluation(subject: Subject, hyper: Hyper, name: str) -> bool:
    plain = subject.examine(subject.moved, subject.batch, off(hyper, name)).outputs
    strong = dataclasses.replace(hyper, **{name: jnp.float32(0.8)})
    return (
        difference(
            subject.examine(subject.moved, subject.batch, strong).outputs,
            plain,
            spread(plain),
        )
        > SAME
    )


def batch_norm_switches(subject: Subject) -> Finding:
    """Training updates the running statistics, and evaluation uses them."""
    stats = subject.moved.batch_stats
    if not stats:
        return skipped("The network keeps no running statistics.")
    update = functools.partial(subject.training_pass, image=subject.batch.image, key=subject.key)
    before, after = leaves_of(stats), leaves_of(update(subject.moved).batch_stats)
    still = [path for path in before if np.array_equal(before[path], after[path]) and not subject.is_frozen(path)]
    plain = subject.examine(subject.moved, subject.batch).outputs
    shifted = subject.moved._replace(batch_stats=jax.tree.map(lambda leaf: 1.5 * leaf + 0.5, stats))
    used = difference(subject.examine(shifted, subject.batch).outputs, plain, spread(plain))
    momentum = None if is_own_batch_stats(stats) else _momentum(subject)
    short = momentum is not None and momentum < 0.5
    return Finding(
        worst(
            "fail" if still else "pass",
            "fail" if used <= SAME else "pass",
            "warn" if short else "pass",
        ),
        f"training updates {len(before) - len(still)} of {len(before)} statistics; evaluation "
        + ("uses them" if used > SAME else "ignores them")
        + ("" if momentum is None else f"; momentum {momentum:.3g}"),
        "all updated in training, used in evaluation",
        "Pass the flag through to every BatchNorm (train=train, or Flax's use_running_average=not train), and give"
        " momentum as the weight of the old value (0.9 and more): otherwise training and evaluation are two networks.",
    )


def _momentum(subject: Subject) -> float:
    """The weight of the old value in the running averages, the smallest of all; from their updates of 0 and of 1."""
    like = (np.zeros_like, np.ones_like)
    trees = [subject.moved._replace(batch_stats=jax.tree.map(one, subject.moved.batch_stats)) for one in like]
    updated = [subject.training_pass(tree, subject.batch.image, subject.key).batch_stats for tree in trees]
    kept = jax.tree.leaves(jax.tree.map(momentum_of, *updated))
    return float(min(np.median(leaf) for leaf in kept))


def evaluation_is_plain(subject: Subject) -> Finding:
    """The scores of the evaluation program against a forward pass by hand, without augmentation; twice the same."""
    weights, count = subject.moved, min(NUM_EVALUATED, len(subject.rows[1]))
    examples = (subject.num_train, subject.num_train + count)
    program = compile_program(subject.brief)
    arguments = (*weights, subject.numbers, subject.arrays, *examples)
    twice = [jax.device_get(program.evaluate(*arguments)) for _ in range(2)]
    expected = float(subject.score(weights, *examples).metrics["loss"].sum())
    given = [float(metrics.sums["loss"]) for metrics in twice]
    off_by = abs(given[0] - expected) / max(abs(expected), 1e-12)
    image = np.array(subject.batch.image)
    image[-1] = image[0]
    outputs = subject.examine(weights, host_batch(image, np.asarray(subject.batch.label))).outputs
    places = difference(outputs[-1], outputs[0], spread(outputs))
    verdict = worst(
        grade(off_by, 1e-3, OTHER),
        grade(places, SAME, OTHER),
        "pass" if given[0] == given[1] else "fail",
    )
    return Finding(
        verdict,
        f"loss {given[0] / count:.4f}, by hand {expected / count:.4f}; the same image in two places differs by"
        f" {places:.1g}; " + ("repeats bit for bit" if given[0] == given[1] else "does not repeat"),
        "the same number, and every time",
        "Keep augmentation and all else that is random behind train=True: an evaluation is of the image as it is.",
    )


def augmentation_acts(subject: Subject) -> Finding:
    """Augmentation changes training images, anew at each step, and stays within the range of the pixels."""
    config, hyper = subject.setting.config.augment, subject.hyper
    if not (config.crop or config.flip or config.cutout or hyper.mixup is not None):
        return skipped("Nothing is configured in config.augment or hyper.mixup.")
    first, second = (
        augmented(subject.setting, dataclasses.replace(subject.state, step=np.int32(step)), key, subject.batch)
        for step, key in zip((0, subject.setting.steps_per_epoch), jax.random.split(subject.key), strict=True)
    )
    image, plain = np.asarray(first.image), np.asarray(subject.batch.image)
    changed = float(np.mean(np.any((image != plain).reshape(len(plain), -1), axis=1)))
    anew = bool(np.any(np.asarray(second.image) != image))
    low, high = min(float(plain.min()), 0.0), max(float(plain.max()), 0.0)
    outside = max(low - float(image.min()), float(image.max()) - high, 0.0) / max(high - low, 1e-12)
    return Finding(
        worst("pass" if changed > 0.05 and anew else "fail", grade(outside, 1e-3, 0.5)),
        f"{changed:.0%} of the images changed" + (", each time differently" if anew else ", always in the same way"),
        "changed, differently at each step",
        "Look at the images of the training batch: augmentation that does nothing helps nothing, and one that leaves"
        " the range of the pixels shows what evaluation never will.",
    )


def modes_agree(subject: Subject) -> Finding:
    """Outputs in training mode, mean over keys, against those in evaluation mode, with the same weights."""
    weights, batch = subject.best.end, subject.batch
    train = np.mean(
        [subject.training_pass(weights, batch.image, key).outputs for key in subject.keys(NUM_KEYS)],
        axis=0,
    )
    evaluation = subject.examine(weights, batch).outputs
    apart = float(np.sqrt(np.mean((train - evaluation) ** 2)))
    share = apart / max(min(spread(train), spread(evaluation)), 1e-12)
    return Finding(
        grade(share, 0.5, 1.0),
        f"they differ by {share:.2g} of the outputs' spread",
        "less than half",
        "Compare what the two modes do: dropout must keep the mean (divide by the share kept), BatchNorm's running"
        " statistics must be those of the training batches; otherwise what is scored is not what was trained.",
    )
