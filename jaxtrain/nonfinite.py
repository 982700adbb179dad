"""Where a NaN came from: the steps before it once more, one at a time, and the one that went wrong in its parts.

Imports the step, the look at a step and the member axis. The fact that surprises: nothing is watched while a run goes
well but what it computes anyway. A step is a function of the state and its number, so what went wrong can be repeated.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtrain.data import take
from jaxtrain.members import Group, Lane, places
from jaxtrain.metrics import from_examples
from jaxtrain.models import model_table
from jaxtrain.optim.parameters import parameter_path
from jaxtrain.probe import layer_of, named_outputs
from jaxtrain.step import (
    MAX_BAD_STEPS,
    Setting,
    all_finite,
    augment_batch,
    learning_rate,
    step_gradient,
    step_keys,
    updated,
)
from jaxtrain.types import Array, Batch, PyTree, TrainState

Kept = list[tuple[TrainState, Any]]


class Cause(NamedTuple):
    """What is known of the first step that was not finite."""

    step: int  # steps done before it
    rate: float
    norm_before: float | None  # length of the gradient of the step before it; None where that was not repeated
    what: str  # a clause: what was the first that was not finite


def keep(group: Group) -> Kept:
    """A copy on the device of all that the next steps will change."""
    return [_copy((lane.state, lane.sums)) for lane in group.lanes]


def find_cause(group: Group, index: int, kept: Kept, count: int) -> Cause | None:
    """Repeat the last `count` steps of a member and look at the first that was not finite; its lane is used up.

    None where no single one of them is: what is not finite then is a score, or it does not come twice.
    """
    lane, place = group.where(index)
    number = 0 if lane.stacked else index
    lane.state, lane.sums = _copy(kept[number])
    start, per_epoch, seen = group.step - count, group.setting.steps_per_epoch, []
    examine = jax.jit(functools.partial(_examine, group.setting))
    for step in range(start, group.step):
        epoch, done = divmod(step, per_epoch)
        seen = [*seen[-1:], (_one(_copy(lane.state), place), _batch(lane, place, epoch, done))]
        lane.advance(epoch, done, 1)
        if not _is_sound(lane, place, seen[-1][0]):
            found = [jax.device_get(examine(*each)) for each in seen]
            rate = float(learning_rate(group.setting, _one(lane.state, place)))
            before = float(found[0]["norm"]) if len(found) > 1 else None
            what = _first_bad(group.setting, seen[-1][0], found[-1])
            return Cause(step, rate, before, what)
    return None


def describe(group: Group, index: int, count: int, view: Mapping[str, Any], cause: Cause | None = None) -> str:
    """What happened, where it came from as far as that is known, and what helps."""
    step, history, before = group.step, group.members[index].history, ""
    per_epoch, whose = group.setting.steps_per_epoch, ""
    if len(group.members) > 1:
        whose = f"member with seed {group.members[index].seed}: "
    if history:
        last = history[-1]
        before = f"; at the last evaluation (step {last['step']}) the validation loss was {last['val/loss']:.4g}"
    if int(view["bad_steps"]) >= MAX_BAD_STEPS:
        whose += f"{MAX_BAD_STEPS} steps in a row were not finite and were skipped: "
    if cause is None:
        what = (
            f"the loss or a weight became NaN or infinite between steps {step - count} and {step} (epoch"
            f" {step // per_epoch}), at learning rate {float(view['rate']):.3g}"
        )
    else:
        known = cause.norm_before is not None
        length = f"; the length of the gradient was {cause.norm_before:.3g} in the step before" if known else ""
        what = (
            f"step {cause.step} (epoch {cause.step // per_epoch}) gave NaN or infinity, at learning rate"
            f" {cause.rate:.3g}{length}; when that step is repeated, {cause.what}"
        )
    return (
        f"{whose}{what}{before}. A rate that is too high is the usual cause: try a tenth of it (--hyper.learning_rate),"
        " a warm-up (--schedule.warmup), or clipping (--hyper.clip_norm 1)"
    )


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def _one(tree: PyTree, place: int | None) -> PyTree:
    return tree if place is None else places(tree, place)


def _batch(lane: Lane, place: int | None, epoch: int, index: int) -> Batch:
    batch_size = lane.program.setting.config.batch_size
    arrays, order, first = lane.feed.chunk(lane.key, epoch, index, 1, batch_size)
    chosen: Array = _one(order, place)[first * batch_size : (first + 1) * batch_size]
    # Of a stack over the devices of a CPU, the examples lie on all of them, and what `places` took from it on one.
    if len(chosen.devices()) == 1:
        arrays = jax.device_put(arrays, *chosen.devices())
    return take(arrays, chosen)


def _is_sound(lane: Lane, place: int | None, before: TrainState) -> bool:
    after, sums, finite = _one((lane.state, lane.sums, lane.program.finite(lane.state)), place)
    taken = after.control.skipped == before.control.skipped
    return bool(finite & taken & jnp.isfinite(sums.sums["loss"]))


def _examine(setting: Setting, state: TrainState, batch: Batch) -> dict[str, Any]:
    """Whether each part of a step is finite, in the terms of `_first_bad`."""
    with jax.default_matmul_precision(setting.config.matmul_precision):
        augment_key, dropout_key = step_keys(state)
        batch = augment_batch(setting, state, augment_key, batch)
        options: Any = {"train": True, "key": dropout_key, "hyper": state.hyper, "activations": True}
        applied = setting.model.apply(state.params, state.batch_stats, batch.image, **options)
        losses = setting.task.loss(applied.outputs, batch, state.hyper)
        gradient, batch_stats, _ = step_gradient(setting, state, batch, dropout_key)
        after = updated(setting, state, gradient, batch_stats)
    return {
        "batch": all_finite((batch.image, batch.label)),
        "activations": {name: all_finite(leaf) for name, leaf in named_outputs(applied.activations)},
        "outputs": all_finite(applied.outputs),
        "loss": all_finite(from_examples({"loss": losses}, batch.weight).sums),
        "gradient": _by_path(gradient),
        "norm": optax.tree.norm(gradient),
        "params": _by_path(after.params),
        "batch_stats": _by_path(after.batch_stats),
    }


def _by_path(tree: PyTree) -> dict[str, Array]:
    return {parameter_path(path): all_finite(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def _first_bad(setting: Setting, state: TrainState, finite: dict[str, Any]) -> str:
    """The first part of a step that is not finite, in the order in which a step computes them."""
    table = model_table(setting.model, setting.image_shape, state.hyper)
    order = {row.path: number for number, row in enumerate(table)}

    def bad(part: str) -> list[str]:
        return [name for name, good in finite[part].items() if not good]

    if not finite["batch"]:
        return "the batch that it is given holds NaN or infinity"
    if names := bad("activations"):
        return f"the outputs of {_first(names, order)} are the first that are not finite"
    if not finite["outputs"]:
        return "the network's outputs are not finite, though those of its layers are"
    if not finite["loss"]:
        return "the loss is not finite, though the network's outputs are"
    if names := bad("gradient"):
        return f"the loss is finite, but the gradient of {_first(names, order, backward=True)} is not"
    if names := bad("params"):
        return f"loss and gradient are finite, but the update makes {_first(names, order)} infinite"
    if names := bad("batch_stats"):
        return f"the running statistics {_first(names, order)} are not finite"
    return "the squares of its gradient overflow" if not jnp.isfinite(finite["norm"]) else "it is finite when repeated"


def _first(names: Iterable[str], order: dict[str, int], *, backward: bool = False) -> str:
    """The name that is computed first; of a module and one inside it, the inner one."""
    names = list(names)
    inner = [name for name in names if not any(other.startswith(f"{name}/") for other in names)]

    def place(name: str) -> int:
        layers = [number for path, number in order.items() if f"{layer_of(name)}/".startswith(f"{path}/")]
        last = max(layers, default=len(order))
        return -last if backward else last

    return min(inner, key=place)
