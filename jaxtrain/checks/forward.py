"""Checks of the forward pass before training: first loss, penalty, outputs, scales.

Imports `subject` and what lies below. The fact that surprises: outputs are judged at the start and after a few steps.
One look could be luck, or a last layer that begins at 0, which is sound.
"""

import numpy as np

from jaxtrain.checks.checkup import Finding, grade, skipped, worst
from jaxtrain.checks.passes import Weights, leaves_of, penalised
from jaxtrain.checks.subject import Subject
from jaxtrain.tasks import Classification, Regression
from jaxtrain.types import Hyper


def first_loss(subject: Subject) -> Finding:
    """The loss before the first step against that of knowing nothing."""
    loss = float(subject.scores.loss.mean())
    if isinstance(subject.setting.task, Regression):
        return _first_squared_error(loss, subject.labels[: subject.num_train])
    if subject.num_classes is None:
        return skipped("A loss of another task than classification or regression has no value known beforehand.")
    chance = float(np.log(subject.num_classes))
    verdict = worst(grade(loss - chance, 0.75, 4), grade(chance - loss, 0.25 * chance, 0.5 * chance))
    if type(subject.setting.task) is not Classification and verdict == "fail":
        verdict = "warn"  # a loss of one's own need not be a cross-entropy
    return Finding(
        verdict,
        f"{loss:.3f}",
        f"{chance:.3f}, the logarithm of {subject.num_classes} classes",
        "Higher: make the last layer's initial weights smaller, or normalise the input, for the network is sure before"
        " it has seen anything. Lower: it already knows something of the labels, or the loss is not what it seems.",
    )


def _first_squared_error(loss: float, target: np.ndarray) -> Finding:
    variance, size = float(target.var(0).mean()), float(np.square(target).mean())
    ratio = loss / max(variance, 1e-12)
    return Finding(
        worst(grade(ratio, 4, 1000), grade(1 / max(ratio, 1e-12), 2, 10)),
        f"{loss:.4g}, {ratio:.2g} times the variance of the targets",
        f"near {variance:.4g} (their variance; 0 as the answer gives {size:.4g})",
        "Higher: standardize the targets, for the network begins far from them. Lower: an untrained network explains"
        " nothing, so the loss is not the error that it seems.",
    )


def penalty_raises_loss(subject: Subject) -> Finding:
    """More L2 raises the loss that is minimised; the configured penalties against the data's loss."""
    params, hyper = subject.start.params, subject.numbers
    weak, strong = (float(penalised(params, Hyper(l2=strength))) for strength in (1e-3, 1e-2))
    own, loss = float(penalised(params, hyper)), abs(float(subject.scores.loss.mean()))
    if strong == 0:
        return skipped("No parameter is a kernel other than 0, so there is nothing for a penalty to act on.")
    return Finding(
        worst(
            "pass" if 0 < weak < strong else "fail",
            grade(own / max(loss, 1e-12), 1, 100),
        ),
        f"+{weak:.3g} at l2 = 0.001, +{strong:.3g} at 0.01; as configured {own:.3g} to a loss of {loss:.3g}",
        "larger with more L2; as configured below the loss",
        "Lower hyper.l1 and hyper.l2 where the penalty is larger than the loss: the step would shrink weights and learn"
        " nothing else.",
    )


def outputs_fit_task(subject: Subject) -> Finding:
    """Outputs that the task can use: finite, different from input to input, of both signs, not probabilities yet."""
    looks = [
        subject.scores.outputs,
        *(_outputs(subject, weights) for weights in subject.trained.weights[1:]),
    ]
    faults = [fault for fault, found in _faults(subject, looks).items() if found]
    last = looks[-1]
    return Finding(
        "fail" if faults else "pass",
        "; ".join(faults)
        or f"{np.nanmin(last):.3g} to {np.nanmax(last):.3g} after a few steps, different for each input",
        "plain numbers of both signs, different for each input",
        "Let the network end in a plain linear layer (no ReLU, sigmoid or softmax: the loss has its own) whose input"
        " varies: what the last operation cuts off, no training gives back.",
    )


def _outputs(subject: Subject, weights: Weights) -> np.ndarray:
    return subject.score(weights, 0, subject.num_train).outputs


def _faults(subject: Subject, looks: list[np.ndarray]) -> dict[str, bool]:
    """What is wrong with outputs [N, ...] before, soon after and some time after the start; judged on all of them."""
    flat = [np.asarray(x, np.float64).reshape(len(x), -1) for x in looks]
    if not all(np.isfinite(x).all() for x in flat[:2]):
        return {"NaN or infinite outputs": True}
    flat = [x for x in flat if np.isfinite(x).all()]
    target = subject.labels.reshape(len(subject.labels), -1)
    signed = subject.num_classes is not None or target.min() < -0.1 * target.std()
    in_unit = all(x.min() >= 0 and x.max() <= 1 for x in flat)
    sums = in_unit and all(np.abs(x.sum(1) - 1).max() < 1e-3 for x in flat) and flat[0].shape[1] > 1
    never_negative = signed and all(x.min() >= 0 for x in flat)
    return {
        "the same outputs for all inputs": all(np.ptp(x, axis=0).max() <= 1e-6 * np.abs(x).max() for x in flat[1:]),
        "each row sums to 1: probabilities already": bool(sums),
        "all within 0 and 1, as behind a sigmoid": bool(subject.num_classes and in_unit and not sums),
        "never negative, as behind a ReLU": bool(never_negative and not in_unit),
    }


def activation_scales(subject: Subject) -> Finding:
    """Deviation of each layer's outputs at the start, and the share of its units that nothing reaches."""
    kernels = _kernels(subject)
    scales = subject.training_pass(subject.start, subject.batch.image, subject.key).deviations
    # A kernel that begins at 0 is meant to, as in the last layer of a residual block.
    moving = {name: float(scales[name]) for name, kernel in kernels.items() if name in scales and np.any(kernel)}
    if not moving:
        return skipped("No layer with a kernel shows its outputs.")
    dead = {name: _dead_share(subject, name) for name in moving if not subject.is_frozen(name)} or {"": 0.0}
    small, large, deadest = (
        min(moving, key=moving.__getitem__),
        max(moving, key=moving.__getitem__),
        max(dead, key=dead.__getitem__),
    )
    return Finding(
        worst(
            grade(-np.log10(max(moving[small], 1e-30)), 3, 6),
            grade(np.log10(max(moving[large], 1e-30)), 2, 4),
            grade(dead[deadest], 0.5, 0.95),
        ),
        f"std {moving[small]:.2g} ({small}) to {moving[large]:.2g} ({large}); at most {dead[deadest]:.0%} units dead"
        + (f" ({deadest})" if dead[deadest] else ""),
        "std between 0.001 and 100 in every layer, few dead units",
        "Scale the initial weights to the layer's inputs (he for ReLU, glorot for tanh) or add BatchNorm; where units"
        " are dead lower the rate: a signal that shrinks or grows from layer to layer carries no gradient back.",
    )


def _kernels(subject: Subject) -> dict[str, np.ndarray]:
    """Layer -> kernel, at the start."""
    return {
        path.removesuffix("/kernel"): leaf
        for path, leaf in leaves_of(subject.start.params).items()
        if path.endswith("kernel") and leaf.ndim > 1
    }


def _dead_share(subject: Subject, layer: str) -> float:
    """Share of the layer's units that get no gradient: at the start, or later if fewer then."""
    name = f"{layer}/kernel" if layer else "kernel"
    gradients = [gradient[name].reshape(-1, gradient[name].shape[-1]) for gradient in subject.gradients]
    return min(float(np.mean(~np.any(gradient, axis=0))) for gradient in gradients)
