"""Checks of the gradient: against difference quotients in float64, and whether it reaches every parameter.

Imports `double`, `subject` and what lies below. The fact that surprises: automatic differentiation is not beyond doubt.
A `stop_gradient`, a rounding or a derivative of one's own in the network makes a gradient that is computed rightly and
is not the loss's.

References:
  CS231n, https://cs231n.github.io/neural-networks-3/#gradcheck
"""

from collections.abc import Callable

import jax
import numpy as np

from jaxtrain.checks.checkup import Finding, Verdict, grade, skipped, worst
from jaxtrain.checks.double import Derivative
from jaxtrain.checks.passes import leaves_of
from jaxtrain.checks.subject import Subject
from jaxtrain.optim import kernel_mask
from jaxtrain.types import PyTree

MOST_ENTRIES, ALL_ENTRIES = (
    8,
    160,
)  # of a leaf; of all leaves together, as far as each has two
STEPS = (
    1e-5,
    1e-6,
    1e-4,
)  # h of the centred difference; the next is tried where one does not agree
WRONG, UNCOMFORTABLE = 1e-2, 1e-4  # relative errors, cs231n's
COARSE_STEPS = (1e-2, 3e-2, 1e-1)  # the same in float32, along the gradient of a leaf
COARSE_WRONG, COARSE_UNCOMFORTABLE = 0.2, 0.05


def gradient_check(subject: Subject) -> Finding:
    """The gradient of the data's loss, in training mode with all keys fixed, against centred differences."""
    derivative, params = subject.derivative, subject.moved.params
    if not jax.tree.leaves(params):
        return skipped("The network has no parameters.")
    if derivative.is_double:
        errors, judge, how = (
            _fine_errors(derivative, params, subject.seed),
            _judge_fine,
            "float64",
        )
    else:
        errors, judge = _coarse_errors(derivative, params), _judge_coarse
        how = f"float32 only: {derivative.reason}"
    judged: dict[str, Verdict] = {path: judge(error) for path, error in errors.items()}
    bad = [path for path, one in judged.items() if one == "fail"]
    path = max(
        errors,
        key=lambda path: float(np.nan_to_num(np.median(errors[path]), nan=np.inf)),
    )
    named = f"; wrong in {', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''}" if bad else ""
    return Finding(
        worst(*judged.values()),
        f"relative error {np.median(errors[path]):.1g} in {path}, the largest of {len(errors)} arrays ({how}){named}",
        f"below {UNCOMFORTABLE:g}, wrong above {WRONG:g}",
        "Look in these layers, and behind them, for a custom derivative, stop_gradient, rounding or argmax: the"
        " optimizer follows a gradient that is not the loss's. A straight-through estimator does so on purpose.",
    )


def reaches_all_parameters(subject: Subject) -> Finding:
    """A gradient other than 0 in each array, at the start, after ten steps or at the end of a short run."""
    paths = [path for path in leaves_of(subject.start.params) if not subject.is_frozen(path)]
    if not paths:
        return skipped("Every parameter is frozen.")
    seen = {path: [gradient[path] for gradient in subject.gradients] for path in paths}
    silent = [path for path, own in seen.items() if not any(np.any(gradient) for gradient in own)]
    broken = [path for path, own in seen.items() if not all(np.isfinite(gradient).all() for gradient in own)]
    return Finding(
        "fail" if silent or broken else "pass",
        f"{len(paths) - len(silent)} of {len(paths)} arrays get a gradient"
        + (f"; none: {_few(silent)}" if silent else "")
        + (f"; not finite: {_few(broken)}" if broken else ""),
        "every array that config.frozen does not name",
        "Use the layer's output, or remove stop_gradient, or give its units a start that is not dead: without a"
        " gradient these parameters stay as they were drawn.",
    )


def moves_all_parameters(subject: Subject) -> Finding:
    """Whether the real step changes each array, and leaves the frozen ones alone."""
    before, after = (leaves_of(weights.params) for weights in subject.trained.weights[:2])
    still = [path for path in before if np.array_equal(before[path], after[path])]
    stuck = [path for path in still if not subject.is_frozen(path)]
    thawed = [path for path in before if subject.is_frozen(path) and path not in still]
    return Finding(
        "fail" if stuck or thawed else "pass",
        f"{len(before) - len(still)} of {len(before)} arrays changed in ten steps"
        + (f"; unchanged: {_few(stuck)}" if stuck else "")
        + (f"; frozen, and changed: {_few(thawed)}" if thawed else ""),
        "all but the frozen ones",
        "Look at the optimizer (a mask, a rate of 0, an update below float32's resolution) and at the gradient of these"
        " arrays: they are not trained.",
    )


def units_differ(subject: Subject) -> Finding:
    """Whether the units of a layer begin different from one another, or at least become so."""
    start, early = (leaves_of(weights.params) for weights in subject.trained.weights[:2])
    kernels = [path for path, kernel in leaves_of(kernel_mask(subject.start.params)).items() if kernel]
    wide = [path for path in kernels if start[path].shape[-1] > 1 and not subject.is_frozen(path)]
    if not wide:
        return skipped("No layer has two units and more.")
    alike = [path for path in wide if _alike(start[path]) and np.any(start[path])]
    remain = [path for path in wide if _alike(early[path])]
    surely = [path for path in alike if path.endswith("kernel")] + remain
    return Finding(
        "fail" if surely else "warn" if alike else "pass",
        f"all units alike in {_few(sorted({*alike, *remain}))}"
        if alike or remain
        else f"{len(wide)} layers, all differ",
        "no layer whose units are all alike",
        "Draw the initial kernels at random (he, glorot): units that begin equal get equal gradients, so the layer"
        " works like a single unit.",
    )


def _fine_errors(derivative: Derivative, params: PyTree, seed: int) -> dict[str, np.ndarray]:
    """Path -> relative errors of some entries, in float64; each the best of several h, for a kink lies within few."""
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params))
    floor = 1e-6 * abs(derivative.value(params)) + 1e-12  # of a smaller gradient rounding leaves no digits
    count, random = (
        min(MOST_ENTRIES, max(2, ALL_ENTRIES // len(leaves))),
        np.random.default_rng(seed),
    )

    def error(index: int, at: int, analytic: float) -> float:
        def numeric(h: float) -> float:
            ends = [jax.tree.unflatten(tree, _nudged(leaves, index, at, by)) for by in (h, -h)]
            return (derivative.value(ends[0]) - derivative.value(ends[1])) / (2 * h)

        return _smallest_error(analytic, numeric, floor)

    errors = {}
    for index, (path, gradient) in enumerate(leaves_of(derivative.gradient(params)).items()):
        flat = gradient.reshape(-1)
        errors[path] = np.array([error(index, at, float(flat[at])) for at in _entries(flat, count, random)])
    return errors


def _entries(gradient: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Half of them where the gradient is largest, half anywhere."""
    largest = np.argsort(-np.abs(gradient))[: count // 2]
    return np.unique(np.concatenate([largest, random.integers(0, len(gradient), count - count // 2)]))


def _smallest_error(analytic: float, numeric: Callable[[float], float], floor: float) -> float:
    """|a - n| / max(|a|, |n|), the smallest over `STEPS`; the first that is small enough ends the search."""
    smallest = np.inf
    for h in STEPS:
        found = numeric(h)
        smallest = min(smallest, abs(analytic - found) / max(abs(analytic), abs(found), floor))
        if smallest <= UNCOMFORTABLE:
            break
    return smallest


def _nudged(leaves: list[np.ndarray], index: int, at: int, by: float) -> list[np.ndarray]:
    leaf = leaves[index].copy()
    leaf.reshape(-1)[at] += by
    return [*leaves[:index], leaf, *leaves[index + 1 :]]


def _judge_fine(errors: np.ndarray) -> Verdict:
    """By the entries that are wrong at every h: one alone may sit on a kink, a quarter of them do not."""
    wrong, uneasy = (float(np.mean(~(errors <= bound))) for bound in (WRONG, UNCOMFORTABLE))
    return worst(grade(wrong, 0, 0.24), grade(uneasy, 0.49, np.inf))


def _coarse_errors(derivative: Derivative, params: PyTree) -> dict[str, np.ndarray]:
    """The same in float32: of each leaf's gradient along itself, where the difference is largest against rounding."""
    leaves, tree = jax.tree.flatten(params)
    errors = {}
    for index, (path, gradient) in enumerate(leaves_of(derivative.gradient(params)).items()):
        length = float(np.linalg.norm(gradient))
        direction = gradient / length if length > 0 else np.full(gradient.shape, gradient.size**-0.5, np.float32)
        found = []
        for h in COARSE_STEPS:
            ends = [[*leaves[:index], leaves[index] + by * direction, *leaves[index + 1 :]] for by in (h, -h)]
            high, low = (derivative.value(jax.tree.unflatten(tree, end)) for end in ends)
            numeric, rounding = (
                (high - low) / (2 * h),
                1e-6 * max(abs(high), abs(low)) / h,
            )
            found.append(max(abs(length - numeric) - rounding, 0) / max(length, abs(numeric), 1e-12))
        errors[path] = np.array([min(found)])
    return errors


def _judge_coarse(errors: np.ndarray) -> Verdict:
    return grade(float(errors.max()), COARSE_UNCOMFORTABLE, COARSE_WRONG)


def _alike(kernel: np.ndarray) -> bool:
    """Whether all units (the last axis) have the same incoming weights, to rounding."""
    columns = kernel.reshape(-1, kernel.shape[-1])
    return bool(np.ptp(columns, axis=1).max() <= 1e-6 * max(float(np.abs(columns).max()), 1e-30))


def _few(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
