"""The compiled programs of a run: many steps, one evaluation, one recalibration, each a single call.

Imports the step and what lies below. The fact that surprises: chunks of any length are one program, for the number of
steps is an argument of a loop, not a shape. Programs are cached on the `Setting`; a second run with other
hyper-parameters traces and compiles nothing. A stack of members is the same functions under `vmap`, over
several devices under `shard_map`, where nothing is communicated.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex_core
from jax.sharding import Mesh, PartitionSpec

from jaxtrain.config import Config
from jaxtrain.data import Arrays, take
from jaxtrain.device import memory_maps
from jaxtrain.errors import RequestError
from jaxtrain.metrics import scores_alone
from jaxtrain.optim import keep_snapshot, swa_update, update_control
from jaxtrain.probe import Probe, probe
from jaxtrain.step import (
    MAX_BAD_STEPS,
    Setting,
    all_finite,
    batch_statistics,
    eval_step,
    init_state,
    learning_rate,
    predict_step,
    train_step,
)
from jaxtrain.types import Array, Batch, Hyper, Metrics, PyTree, TrainState

SIGNS = {"accuracy": 1, "loss": -1, "mse": -1, "mae": -1}
"""Whether a metric is to be maximised (1) or minimised (-1), for those of our own tasks."""

MEMBERS = "members"
"""The name of the mesh's axis over which a stack of members is spread."""

StepLoop = Callable[[TrainState, Metrics, Arrays, Array, int, int], tuple[TrainState, Metrics]]


@dataclass(frozen=True, eq=False)
class Program:
    """The compiled functions of one `Setting`; each is traced once for each shape of its arguments.

    Of a stack of members, every leaf of a state, of its parts, of Metrics, and the order has a first axis of length M;
    the examples and the counts are shared.

    init(key, hyper, image) -> state; `image` as from `step.first_images`.
    run_steps(state, sums, arrays, order, start, num_steps) -> (state, sums): donates state and sums; step i takes the
      examples order[(start + i) * B : (start + i + 1) * B].
    evaluate(params, batch_stats, hyper, arrays, start, stop) -> Metrics over the examples [start, stop).
    zeros(params, batch_stats, hyper, arrays) -> Metrics of no example, the start of every sum.
    predict(params, batch_stats, hyper, image) -> the network's outputs for images already normalised.
    recalibrate(params, batch_stats, hyper, arrays, order, start, num_batches) -> batch_stats (Algorithm 2).
    judge(state, val) -> state with `control` brought up to date by the Metrics of validation.
    average(state) -> state with its parameters taken into the running mean of SWA.
    snapshot(state) -> state with its weights kept in the place of the epoch that has just ended; donates state.
    retire(state, best) -> state of a member that has diverged: its best weights, nothing in it NaN, not alive.
    hold(mask, held, tree) -> tree, with the leaves of `held` for the members where mask is True; donates tree.
    probe(state, arrays, order, index) -> Probe of the step on order[index * B : (index + 1) * B].
    rate(state) -> f32[], the rate of the last update.
    finite(state) -> bool[], whether parameters and statistics hold neither NaN nor infinity, and few enough steps in a
      row were skipped.
    stepped(hyper): whether steps are called one at a time, as the network convolves in a way that a loop makes slow, or
      for `jax_debug_nans`.
    """

    setting: Setting
    init: Callable[[Array, Hyper, Array | None], TrainState]
    run_steps: StepLoop
    evaluate: Callable[..., Metrics]
    zeros: Callable[..., Metrics]
    predict: Callable[..., Array]
    recalibrate: Callable[..., PyTree]
    judge: Callable[[TrainState, Metrics], TrainState]
    average: Callable[[TrainState], TrainState]
    snapshot: Callable[[TrainState], TrainState]
    retire: Callable[[TrainState, PyTree], TrainState]
    hold: Callable[[Array, PyTree, PyTree], PyTree]
    probe: Callable[[TrainState, Arrays, Array, Array], Probe]
    rate: Callable[[TrainState], Array]
    stepped: Callable[[Hyper], bool]
    finite: Callable[[TrainState], Array]


def make_room() -> None:
    """Drop what is compiled where it takes half of the memory maps that Linux grants a process; nothing elsewhere.

    On a CPU what is compiled of a setting has some thousand maps on each device; beyond 65,530, the default limit, XLA
    ends the process without a word. What is still in use is compiled again when it is called next.
    """
    used, limit = memory_maps()
    if used > limit // 2:
        compile_program.cache_clear()
        jax.clear_caches()


@functools.lru_cache(maxsize=24)
def compile_program(setting: Setting, mesh: Mesh | None = None) -> Program:
    """The programs of `setting`, made once in a process.

    Args:
      setting: what is compiled.
      mesh: None for a single member; for a stack of members, the devices over which it is spread, along the axis
        "members" (its length divides that of the stack).
    """
    config = setting.config
    batch_size, eval_batch_size = config.batch_size, config.eval_batch_size

    def batch_at(arrays: Arrays, order: Array, index: Array) -> Batch:
        return take(arrays, lax.dynamic_slice_in_dim(order, index * batch_size, batch_size))

    def one_step(
        state: TrainState, sums: Metrics, arrays: Arrays, order: Array, index: Array
    ) -> tuple[TrainState, Metrics]:
        state, metrics = train_step(setting, state, batch_at(arrays, order, index))
        return state, sums + metrics

    def one_probe(state: TrainState, arrays: Arrays, order: Array, index: Array) -> Probe:
        return probe(setting, state, batch_at(arrays, order, index))

    # One trace serves both ways of calling it: the loop, and one call a step.
    traced_once = jax.jit(one_step, inline=True)
    single = jax.jit(_of_members(mesh, traced_once, 0, 0, None, 0, None), donate_argnums=(0, 1))

    def loop(
        state: TrainState, sums: Metrics, arrays: Arrays, order: Array, start: Array, num_steps: Array
    ) -> tuple[TrainState, Metrics]:
        def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            return traced_once(*carry, arrays, order, start + i)

        return lax.fori_loop(0, num_steps, body, (state, sums))

    looped = jax.jit(_of_members(mesh, loop, 0, 0, None, 0, None, None), donate_argnums=(0, 1))
    decided: dict[Any, bool] = {}

    def stepped(hyper: Hyper) -> bool:
        structure = jax.tree.structure(hyper)  # which numbers there are decides what the network may read
        if structure not in decided:
            decided[structure] = jax.default_backend() == "cpu" and _convolves(setting, hyper)
        # With --debug-nans JAX names the operation only of a program that is no loop.
        return decided[structure] or jax.config.jax_debug_nans  # pyright: ignore[reportAttributeAccessIssue]

    def run_steps(
        state: TrainState, sums: Metrics, arrays: Arrays, order: Array, start: int, num_steps: int
    ) -> tuple[TrainState, Metrics]:
        if not stepped(state.hyper):
            return looped(state, sums, arrays, order, jnp.int32(start), jnp.int32(num_steps))
        for i in range(start, start + num_steps):
            state, sums = single(state, sums, arrays, order, jnp.int32(i))
        return state, sums

    def one_evaluation(
        params: PyTree, batch_stats: PyTree, hyper: Hyper, arrays: Arrays, start: Array, stop: Array
    ) -> Metrics:
        index = start + jnp.arange(eval_batch_size)
        batch = take(arrays, jnp.minimum(index, stop - 1), (index < stop).astype(jnp.float32))
        return eval_step(setting, params, batch_stats, hyper, batch)

    single_evaluation = jax.jit(_of_members(mesh, one_evaluation, 0, 0, 0, None, None, None))

    def no_evaluation(params: PyTree, batch_stats: PyTree, hyper: Hyper, arrays: Arrays) -> Metrics:
        shapes = jax.eval_shape(one_evaluation, params, batch_stats, hyper, arrays, jnp.int32(0), jnp.int32(1))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def zeros(params: PyTree, batch_stats: PyTree, hyper: Hyper, arrays: Arrays) -> Metrics:
        return scores_alone(no_evaluation(params, batch_stats, hyper, arrays))

    def evaluation_loop(
        params: PyTree, batch_stats: PyTree, hyper: Hyper, arrays: Arrays, start: Array, stop: Array
    ) -> Metrics:
        def body(i: Array, sums: Metrics) -> Metrics:
            return sums + one_evaluation(params, batch_stats, hyper, arrays, start + i * eval_batch_size, stop)

        num_batches = (stop - start + eval_batch_size - 1) // eval_batch_size
        return lax.fori_loop(0, num_batches, body, no_evaluation(params, batch_stats, hyper, arrays))

    looped_evaluation = jax.jit(_of_members(mesh, evaluation_loop, 0, 0, 0, None, None, None))

    def evaluate(params: PyTree, batch_stats: PyTree, hyper: Hyper, arrays: Arrays, start: int, stop: int) -> Metrics:
        if not stepped(hyper):
            return looped_evaluation(params, batch_stats, hyper, arrays, jnp.int32(start), jnp.int32(stop))
        parts = [
            single_evaluation(params, batch_stats, hyper, arrays, jnp.int32(first), jnp.int32(stop))
            for first in range(start, stop, eval_batch_size)
        ]
        return functools.reduce(operator.add, parts)

    def recalibrate(
        params: PyTree,
        batch_stats: PyTree,
        hyper: Hyper,
        arrays: Arrays,
        order: Array,
        start: Array,
        num_batches: Array,
    ) -> PyTree:
        def body(i: Array, total: PyTree) -> PyTree:
            batch = batch_at(arrays, order, start + i)
            terms = batch_statistics(setting.model, params, batch_stats, batch.image, hyper)
            return jax.tree.map(jnp.add, total, terms)

        total = lax.fori_loop(0, num_batches, body, jax.tree.map(jnp.zeros_like, batch_stats))
        return jax.tree.map(lambda x: x / num_batches, total)

    def predict(params: PyTree, batch_stats: PyTree, hyper: Hyper, image: Array) -> Array:
        with jax.default_matmul_precision(config.matmul_precision):
            return predict_step(setting, params, batch_stats, hyper, image)

    def compiled(function: Callable[..., Any], *axes: int | None, donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        return jax.jit(_of_members(mesh, function, *axes), donate_argnums=donate)

    return Program(
        setting=setting,
        init=compiled(functools.partial(init_state, setting), 0, 0, None),
        run_steps=run_steps,
        evaluate=evaluate,
        zeros=compiled(zeros, 0, 0, 0, None),
        predict=compiled(predict, 0, 0, 0, None),
        recalibrate=compiled(recalibrate, 0, 0, 0, None, 0, None, None),
        judge=compiled(functools.partial(_judge, config), 0, 0),
        average=compiled(_average, 0),
        snapshot=compiled(functools.partial(_snapshot, setting), 0, donate=(0,)),
        retire=compiled(_retire, 0, 0),
        hold=compiled(_hold, 0, 0, 0, donate=(2,)),
        probe=compiled(one_probe, 0, None, 0, None),
        rate=compiled(functools.partial(learning_rate, setting), 0),
        stepped=stepped,
        finite=compiled(_finite, 0),
    )


def _of_members(mesh: Mesh | None, function: Callable[..., Any], *axes: int | None) -> Callable[..., Any]:
    """`function` of one member as it is, or, given a mesh, of a stack of members.

    `axes` says of each argument whether it has a member axis (0) or is shared (None); every result has one.
    """
    if mesh is None:
        return function
    stacked = jax.vmap(function, in_axes=axes)
    if mesh.size == 1:
        return stacked
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(MEMBERS) for axis in axes)
    return jax.shard_map(stacked, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(MEMBERS), check_vma=False)


def watched(watch: str, names: Collection[str]) -> tuple[str, int]:
    """The metric by which the best weights are chosen, and 1 where larger is better, -1 where smaller is.

    A sign before the name says which ("-rmse"); of the metrics of our own tasks it is known.

    Raises:
      RequestError: if the task has no metric of this name, or its sign is neither given nor known.
    """
    if watch == "auto":
        watch = "accuracy" if "accuracy" in names else "loss"
    name = watch.lstrip("+-")
    if name not in names:
        raise RequestError(f"config.watch is {watch!r}; the task's metrics are {', '.join(sorted(names))}")
    if name != watch:
        return name, 1 if watch[0] == "+" else -1
    if name not in SIGNS:
        raise RequestError(f"config.watch is {watch!r}; say '+{name}' if larger is better, '-{name}' if smaller is")
    return name, SIGNS[name]


def _convolves(setting: Setting, hyper: Hyper) -> bool:
    """Whether the forward pass holds a convolution primitive, which XLA:CPU runs 7 to 15 times slower inside a loop.

    Reported as https://github.com/jax-ml/jax/issues/12868. This package's own Conv is a matrix product on a CPU.
    """
    one = jax.tree.map(lambda _: 0.0, hyper)  # which numbers there are matters, not of how many members
    state = jax.eval_shape(functools.partial(init_state, setting), jax.random.key(0), one)

    def forward(params: PyTree, batch_stats: PyTree, hyper: Hyper, image: Array) -> Array:
        return setting.model.apply(params, batch_stats, image, train=False, hyper=hyper).outputs

    image = jax.ShapeDtypeStruct((1, *setting.image_shape), jnp.float32)
    closed = jax.make_jaxpr(forward)(state.params, state.batch_stats, state.hyper, image)
    return any(e.primitive.name == "conv_general_dilated" for e in _equations(closed.jaxpr))


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jex_core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _judge(config: Config, state: TrainState, val: Metrics) -> TrainState:
    name, sign = watched(config.watch, val.sums)
    metric = sign * val.sums[name] / val.count
    control = update_control(state.control, metric, state.step, plateau=config.plateau, early=config.early_stopping)
    return dataclasses.replace(state, control=control)


def _finite(state: TrainState) -> Array:
    return all_finite((state.params, state.batch_stats)) & (state.control.bad_steps < MAX_BAD_STEPS)


def _average(state: TrainState) -> TrainState:
    return dataclasses.replace(state, swa=swa_update(state.swa, state.params))


def _snapshot(setting: Setting, state: TrainState) -> TrainState:
    index = state.step // (setting.steps_per_epoch * (setting.config.snapshot_every_epochs or 1)) - 1
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    return dataclasses.replace(state, snapshots=keep_snapshot(state.snapshots, weights, index))


def _retire(state: TrainState, best: PyTree) -> TrainState:
    def finite(leaf: Array) -> Array:
        return jnp.where(jnp.isfinite(leaf), leaf, 0) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    rest = {name: jax.tree.map(finite, getattr(state, name)) for name in ("opt_state", "ema", "swa", "snapshots")}
    control = dataclasses.replace(state.control, alive=jnp.zeros((), bool))
    return dataclasses.replace(state, params=best["params"], batch_stats=best["batch_stats"], control=control, **rest)


def _hold(mask: Array, held: PyTree, state: PyTree) -> PyTree:
    return jax.tree.map(lambda old, new: jnp.where(mask, old, new), held, state)
