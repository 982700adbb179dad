"""Checks that examples do not see one another: in evaluation by changing the others, in training by a derivative.

Imports `subject` and what lies below. The fact that surprises: a derivative finds what no comparison does. That of one
example's loss by another one's pixels is exactly 0 where they are kept apart, however small a mixture would be.
"""

import jax
import numpy as np
from flax.errors import FlaxError

from jaxtrain.checks.checkup import Finding, grade, skipped, worst
from jaxtrain.checks.passes import (
    OTHER,
    SAME,
    Scores,
    Weights,
    difference,
    host_batch,
    influence,
    spread,
)
from jaxtrain.checks.subject import Subject
from jaxtrain.types import Batch

ALONE_SAME, ALONE_OTHER = (
    0.05,
    0.3,
)  # the same of a batch of one: another program, which in bfloat16 rounds otherwise


def neighbours_in_evaluation(subject: Subject) -> Finding:
    """An example's outputs whatever else is in the batch, wherever it stands, and alone."""
    batch, weights = subject.batch, subject.moved
    if len(batch.label) < 2:
        return skipped("There is one training example only, and it has no neighbours.")
    plain = subject.examine(weights, batch)
    kept = max(1, len(batch.label) // 4)
    label = np.asarray(batch.label)
    noise, zeros = (np.array(batch.image) for _ in range(2))
    noise[kept:], zeros[kept:] = 3 * noise[: len(noise) - kept] + 1, 0
    changed = {
        "order": subject.examine(weights, jax.tree.map(lambda x: x[::-1], batch)).outputs[::-1][:kept],
        "other neighbours": subject.examine(weights, host_batch(noise, label)).outputs[:kept],
        "padding": subject.examine(weights, host_batch(zeros, label)).outputs[:kept],
    }
    scale = spread(plain.outputs)
    found = {name: difference(outputs, plain.outputs[:kept], scale) for name, outputs in changed.items()}
    most = max(found, key=lambda name: np.nan_to_num(found[name], nan=np.inf))
    alone = _alone(subject, weights, batch, plain, scale)
    return Finding(
        worst(grade(found[most], SAME, OTHER), grade(alone, ALONE_SAME, ALONE_OTHER)),
        f"{most} changes an example's outputs by {found[most]:.1g} of their spread, a batch of one by {alone:.1g}",
        f"nothing but rounding, below {SAME:g}",
        "Look for a reshape that does not begin with the batch's axis, a mean, softmax or normalisation over axis 0,"
        " and BatchNorm in training mode: a prediction must not depend on what else is asked.",
    )


def _alone(subject: Subject, weights: Weights, batch: Batch, plain: Scores, scale: float) -> float:
    """The first example by itself; infinite where the network cannot take it or gives another shape."""
    try:
        outputs = subject.examine(weights, jax.tree.map(lambda x: x[:1], batch)).outputs
    except (
        FlaxError,
        TypeError,
        ValueError,
        IndexError,
        ZeroDivisionError,
        AssertionError,
    ):
        return float("inf")
    return difference(outputs, plain.outputs[:1], scale) if outputs.shape == plain.outputs[:1].shape else float("inf")


def neighbours_in_training(subject: Subject) -> Finding:
    """The derivative of one example's loss by the images of the others."""
    if len(subject.batch.label) < 2:
        return skipped("There is one training example only, and it has no neighbours.")
    train = not subject.moved.batch_stats
    hyper = subject.numbers
    shares = []
    for index in (0, len(subject.batch.label) // 2):
        gradient = influence(
            subject.setting,
            train,
            *subject.moved,
            hyper,
            subject.batch,
            subject.key,
            index,
        )
        size = np.abs(np.asarray(gradient)).reshape(len(gradient), -1).sum(1)
        shares.append(float((size.sum() - size[index]) / max(size.sum(), 1e-30)))
    return Finding(
        grade(max(shares), 1e-6, 1e-4),
        f"{max(shares):.1g} of the derivative goes to other examples" + ("" if train else " (statistics held still)"),
        "0",
        "Look for a reduction over the wrong axis, labels [B, 1] against outputs [B], or a reshape that mixes examples:"
        " each example's loss must come from its own image.",
    )
