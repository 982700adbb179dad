"""The compiled programs of a run: many steps, one evaluation, one recalibration, each a single call.

Imports the step and what lies below. The fact that surprises: chunks of any length are one program, for the number of
steps is an argument of a loop, not a shape. Programs are cached on the `Setting`; a second run with other
hyper-parameters traces and compiles nothing.
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

from jaxtrain.config import Config
from jaxtrain.data import Arrays, take
from jaxtrain.errors import RequestError
from jaxtrain.optim import swa_update, update_control
from jaxtrain.step import Setting, batch_statistics, eval_step, init_state, learning_rate, train_step
from jaxtrain.types import Array, Hyper, Metrics, PyTree, TrainState

SIGNS = {"accuracy": 1, "loss": -1, "mse": -1, "mae": -1}
"""Whether a metric is to be maximised (1) or minimised (-1), for those of our own tasks."""

StepLoop = Callable[[TrainState, Metrics, Arrays, Array, int, int], tuple[TrainState, Metrics]]


@dataclass(frozen=True, eq=False)
class Program:
    """The compiled functions of one `Setting`; each is traced once for each shape of its arguments.

    init(key, hyper) -> state.
    run_steps(state, sums, arrays, order, start, num_steps) -> (state, sums): donates state and sums; step i takes the
      examples order[(start + i) * B : (start + i + 1) * B].
    evaluate(params, batch_stats, hyper, arrays, start, stop) -> Metrics over the examples [start, stop).
    zeros(params, batch_stats, hyper, arrays) -> Metrics of no example, the start of every sum.
    predict(params, batch_stats, hyper, image) -> the network's outputs for images already normalised.
    recalibrate(params, batch_stats, hyper, arrays, order, start, num_batches) -> batch_stats (Algorithm 2).
    judge(state, val) -> state with `control` brought up to date by the Metrics of validation.
    average(state) -> state with its parameters taken into the running mean of SWA.
    rate(state) -> f32[], the rate of the last update.
    finite(state) -> bool[], whether parameters and statistics hold neither NaN nor infinity.
    stepped(hyper): whether steps are called one at a time, as the network convolves in a way that a loop makes slow.
    """

    setting: Setting
    init: Callable[[Array, Hyper], TrainState]
    run_steps: StepLoop
    evaluate: Callable[..., Metrics]
    zeros: Callable[..., Metrics]
    predict: Callable[..., Array]
    recalibrate: Callable[..., PyTree]
    judge: Callable[[TrainState, Metrics], TrainState]
    average: Callable[[TrainState], TrainState]
    rate: Callable[[TrainState], Array]
    stepped: Callable[[Hyper], bool]
    finite: Callable[[TrainState], Array]


@functools.lru_cache(maxsize=32)
def compile_program(setting: Setting) -> Program:
    """The programs of `setting`, made once in a process."""
    config = setting.config
    batch_size, eval_batch_size = config.batch_size, config.eval_batch_size

    def one_step(
        state: TrainState, sums: Metrics, arrays: Arrays, order: Array, index: Array
    ) -> tuple[TrainState, Metrics]:
        indices = lax.dynamic_slice_in_dim(order, index * batch_size, batch_size)
        state, metrics = train_step(setting, state, take(arrays, indices))
        return state, sums + metrics

    # One trace serves both ways of calling it: the loop, and one call a step.
    traced_once = jax.jit(one_step, inline=True)
    single = jax.jit(traced_once, donate_argnums=(0, 1))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def looped(
        state: TrainState, sums: Metrics, arrays: Arrays, order: Array, start: Array, num_steps: Array
    ) -> tuple[TrainState, Metrics]:
        def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            return traced_once(*carry, arrays, order, start + i)

        return lax.fori_loop(0, num_steps, body, (state, sums))

    decided: dict[Any, bool] = {}

    def stepped(hyper: Hyper) -> bool:
        structure = jax.tree.structure(hyper)  # which numbers there are decides what the network may read
        if structure not in decided:
            decided[structure] = jax.default_backend() == "cpu" and _convolves(setting, hyper)
        return decided[structure]

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

    single_evaluation = jax.jit(one_evaluation)

    def zeros(params: PyTree, batch_stats: PyTree, hyper: Hyper, arrays: Arrays) -> Metrics:
        shapes = jax.eval_shape(one_evaluation, params, batch_stats, hyper, arrays, jnp.int32(0), jnp.int32(1))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    @jax.jit
    def looped_evaluation(
        params: PyTree, batch_stats: PyTree, hyper: Hyper, arrays: Arrays, start: Array, stop: Array
    ) -> Metrics:
        def body(i: Array, sums: Metrics) -> Metrics:
            return sums + one_evaluation(params, batch_stats, hyper, arrays, start + i * eval_batch_size, stop)

        num_batches = (stop - start + eval_batch_size - 1) // eval_batch_size
        return lax.fori_loop(0, num_batches, body, zeros(params, batch_stats, hyper, arrays))

    def evaluate(params: PyTree, batch_stats: PyTree, hyper: Hyper, arrays: Arrays, start: int, stop: int) -> Metrics:
        if not stepped(hyper):
            return looped_evaluation(params, batch_stats, hyper, arrays, jnp.int32(start), jnp.int32(stop))
        parts = [
            single_evaluation(params, batch_stats, hyper, arrays, jnp.int32(first), jnp.int32(stop))
            for first in range(start, stop, eval_batch_size)
        ]
        return functools.reduce(operator.add, parts)

    @jax.jit
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
            batch = take(arrays, lax.dynamic_slice_in_dim(order, (start + i) * batch_size, batch_size))
            terms = batch_statistics(setting.model, params, batch_stats, batch.image, hyper)
            return jax.tree.map(jnp.add, total, terms)

        total = lax.fori_loop(0, num_batches, body, jax.tree.map(jnp.zeros_like, batch_stats))
        return jax.tree.map(lambda x: x / num_batches, total)

    @jax.jit
    def predict(params: PyTree, batch_stats: PyTree, hyper: Hyper, image: Array) -> Array:
        with jax.default_matmul_precision(config.matmul_precision):
            return setting.model.apply(params, batch_stats, image, train=False, hyper=hyper).outputs

    return Program(
        setting=setting,
        init=jax.jit(functools.partial(init_state, setting)),
        run_steps=run_steps,
        evaluate=evaluate,
        zeros=zeros,
        predict=predict,
        recalibrate=recalibrate,
        judge=jax.jit(functools.partial(_judge, config)),
        average=jax.jit(_average),
        rate=jax.jit(functools.partial(learning_rate, setting)),
        stepped=stepped,
        finite=jax.jit(_finite),
    )


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
    state = jax.eval_shape(functools.partial(init_state, setting), jax.random.key(0), hyper)

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
    leaves = jax.tree.leaves((state.params, state.batch_stats))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _average(state: TrainState) -> TrainState:
    return dataclasses.replace(state, swa=swa_update(state.swa, state.params))
