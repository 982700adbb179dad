"""One member's training step, evaluation step and initial state: pure functions, to be jitted by who calls them.

Imports levels 0 and 1 only. The fact that surprises: nothing random is carried. `state.key` never changes; the key of a
step is folded from it, so a step can be repeated alone and a resumed run draws what the uninterrupted one drew.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.interpreters.partial_eval import dce_jaxpr

from jaxtrain.augment import Turn, augment, views
from jaxtrain.config import Config, UnitSchedule
from jaxtrain.data import Data, normalise
from jaxtrain.errors import RequestError
from jaxtrain.metrics import EVIDENCE, from_examples
from jaxtrain.models import is_own_batch_stats, reset_batch_stats
from jaxtrain.optim import (
    ema_update,
    fade,
    freeze,
    frozen_mask,
    init_ema,
    init_snapshots,
    init_swa,
    make_schedule,
    optimizer,
    penalty,
)
from jaxtrain.tasks import Classification, default_task
from jaxtrain.types import (
    FLIP_KEY,
    INIT_KEY,
    STEP_KEY,
    Array,
    Batch,
    Hyper,
    Metrics,
    Model,
    PyTree,
    Task,
    TrainState,
    init_control,
)

NUM_PROBES = 10
"""Probes of a short run."""

NUM_INIT_IMAGES, INIT_BYTES = 5000, 1 << 28
"""Images that a network is initialised with, and the memory that they may take."""

MAX_BAD_STEPS = 10
"""Steps in a row that may be skipped; after them nothing is taken any more, and the run ends."""


@dataclass(frozen=True)
class Setting:
    """All that a compiled program is keyed on. Two runs with equal settings share their programs."""

    model: Model
    task: Task
    config: Config
    image_shape: tuple[int, ...]  # of one image, as the network gets it
    num_train: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split."""
        return self.num_train // self.config.batch_size

    @property
    def num_steps(self) -> int:
        """Updates in the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def num_snapshots(self) -> int:
        """Snapshots that the whole run keeps."""
        return self.config.epochs // self.config.snapshot_every_epochs if self.config.snapshot_every_epochs else 0

    @property
    def probe_every_steps(self) -> int | None:
        """Steps between two probes: as configured, but about ten in a run that is short."""
        most = self.config.probe_every_steps
        return None if most is None else max(1, min(most, -(-self.num_steps // NUM_PROBES)))

    @functools.cached_property
    def schedule(self) -> UnitSchedule:
        """The one definition of the schedule, for the optimizer and for the log."""
        return make_schedule(self.config.schedule, self.num_steps, self.steps_per_epoch)


def as_model(model: Any) -> Model:
    """A `Model` from a Linen module, a Model, or a frozen dataclass with make() -> Model."""
    if isinstance(model, Model):
        return model
    if isinstance(model, nn.Module):
        return Model(model)
    if hasattr(model, "make"):
        return as_model(model.make())
    raise RequestError(
        f"the model is a {type(model).__name__}; give a flax.linen Module, or a frozen dataclass with make() -> Model"
    )


def make_setting(model: Any, data: Data, config: Config, task: Task | None = None) -> Setting:
    """What the `make_*` functions and the compiled programs are built from."""
    task = default_task(data.info) if task is None else task
    return Setting(as_model(model), task, config, tuple(data.image_shape), data.num_train)


def init_state(setting: Setting, key: Array, hyper: Hyper, image: Array | None = None) -> TrainState:
    """The state before the first step.

    The hyper-parameters are cast to float32 here and nowhere else: a Python float would trace the step again.

    Args:
      image: training images f32[N, ...], `init_images`, for a network that is initialised from them; None: one of
        zeros.
    """
    hyper = jax.tree.map(lambda x: jnp.array(x, jnp.float32), hyper)
    image = jnp.zeros((1, *setting.image_shape), jnp.float32) if image is None else image
    params, batch_stats = setting.model.init(jax.random.fold_in(key, INIT_KEY), image, hyper)
    control = init_control()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=_transformation(setting, hyper, control.rate_scale, params).init(params),
        key=jax.random.clone(key),  # the caller's key outlives a donated state
        hyper=hyper,
        control=control,
        ema=None if setting.config.ema_decay is None else init_ema(params),
        swa=None if setting.config.swa_start is None else init_swa(params),
        snapshots=init_snapshots({"params": params, "batch_stats": batch_stats}, setting.num_snapshots)
        if setting.num_snapshots
        else None,
    )


def init_images(setting: Setting, data: Data, hyper: Hyper) -> np.ndarray | None:
    """What the network is initialised with: training images, evenly spaced and normalised, f32[N, ...] on the host.

    None for a network whose initial parameters do not depend on images, which is told from its program: all but those
    with a layer like `PatchWhitening`.
    """
    structure = jax.tree.structure(hyper)
    try:
        reads = _reads_images(setting.model, setting.image_shape, structure)
    except TypeError:  # a network that cannot be hashed, as with an array for a field; a loop of one's own may have it
        reads = _reads_images.__wrapped__(setting.model, setting.image_shape, structure)
    if not reads:
        return None
    count = max(1, min(data.num_train, NUM_INIT_IMAGES, INIT_BYTES // (4 * math.prod(setting.image_shape))))
    rows = np.linspace(0, data.num_train, count, endpoint=False).astype(int)
    with jax.ensure_compile_time_eval():  # the caller may be tracing the initialisation
        return np.asarray(normalise(data.preprocess, data.image[rows]))


@functools.lru_cache(maxsize=64)
def _reads_images(model: Model, image_shape: tuple[int, ...], structure: Any) -> bool:
    """Whether the initial parameters are computed from the images; `structure` is that of the hyper-parameters."""

    def init(image: Array, *numbers: Array) -> PyTree:
        return model.init(jax.random.key(0), image, jax.tree.unflatten(structure, numbers))

    numbers = [jax.ShapeDtypeStruct((), jnp.float32)] * structure.num_leaves
    jaxpr = jax.make_jaxpr(init)(jax.ShapeDtypeStruct((1, *image_shape), jnp.float32), *numbers).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return used[0]


def train_step(setting: Setting, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Augment, forward, loss, backward, update: one step of one member.

    The metrics are those of the training pass (dropout on, batch statistics) and cost nothing beyond it.
    """
    with jax.default_matmul_precision(setting.config.matmul_precision):
        augment_key, dropout_key = step_keys(state)
        with jax.named_scope("augment"):
            batch = augment_batch(setting, state, augment_key, batch)
        gradient, batch_stats, metrics = step_gradient(setting, state, batch, dropout_key)
        with jax.named_scope("optimizer"):
            after = updated(setting, state, gradient, batch_stats)
        if setting.config.nonfinite != "skip":
            return after, metrics
        with jax.named_scope("guard"):
            return _guarded(state, after, gradient, metrics)


def step_keys(state: TrainState) -> tuple[Array, Array]:
    """The keys of the next step: of augmentation and of dropout."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, STEP_KEY), state.step))
    return augment_key, dropout_key


def augment_batch(setting: Setting, state: TrainState, key: Array, batch: Batch) -> Batch:
    """The batch as the network gets it in training, at the state's next step."""
    num_classes = getattr(setting.task, "num_classes", None)
    turn = Turn(jax.random.fold_in(state.key, FLIP_KEY), state.step // setting.steps_per_epoch)
    return augment(key, batch, setting.config.augment, state.hyper, num_classes, turn)


def eval_step(setting: Setting, params: PyTree, batch_stats: PyTree, hyper: Hyper, batch: Batch) -> Metrics:
    """Scores of a batch, and what else the task tells for a diagnosis: no dropout, running statistics, no padding."""
    task = setting.task
    with jax.default_matmul_precision(setting.config.matmul_precision):
        outputs = predict_step(setting, params, batch_stats, hyper, batch.image)
        told = task.evidence(outputs, batch) if isinstance(task, Classification) else {}
        named = {f"{EVIDENCE}{name}": value for name, value in told.items()}
        return from_examples({**task.metrics(outputs, batch), **named}, batch.weight)


def predict_step(setting: Setting, params: PyTree, batch_stats: PyTree, hyper: Hyper, image: Array) -> Array:
    """The network's outputs for images as it gets them: of one pass, or with `config.tta` the weighted mean over views.

    The mean is that of the outputs, of a classifier's logits.

    References:
      Jordan, 2024, https://arxiv.org/abs/2404.00498, section 3.5 (six views and their weights)
    """
    seen, weights = views(image, setting.config.tta)
    outputs = setting.model.apply(params, batch_stats, seen, train=False, hyper=hyper).outputs
    if len(weights) == 1:
        return outputs

    def mean(leaf: Array) -> Array:
        each = leaf.reshape(len(weights), image.shape[0], *leaf.shape[1:])
        return jnp.tensordot(jnp.asarray(weights), each, 1, precision="highest")

    return jax.tree.map(mean, outputs)  # of a task of one's own they may be a tree


def make_init(model: Any, data: Data, config: Config, task: Task | None = None) -> Callable[[Array, Hyper], TrainState]:
    """`init(key, hyper) -> TrainState`; `jax.vmap(init, (0, None))` gives many members. See `init_state`.

    A network that is initialised from images gets some thousand of the training split.
    """
    setting = make_setting(model, data, config, task)

    def init(key: Array, hyper: Hyper) -> TrainState:
        image = init_images(setting, data, hyper)
        # Of the forward pass on those only the parameters are wanted: compiled, the rest of it is left out.
        return init_state(setting, key, hyper) if image is None else _compiled_init(setting, key, hyper, image)

    return init


_compiled_init = jax.jit(init_state, static_argnums=0)


def make_train_step(
    model: Any, data: Data, config: Config, task: Task | None = None
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`step(state, batch) -> (state, metrics)`, pure and not jitted. See `train_step`.

    Args:
      model: a Linen module, a Model, or a frozen dataclass with make() -> Model.
      data: what it is trained on; only shapes and counts are used.
      config: the static choices.
      task: Classification or Regression as the labels tell, unless given.

    Returns:
      A function of one member; `jax.vmap(step, (0, None))` is the step of many members on one batch.
    """
    return functools.partial(train_step, make_setting(model, data, config, task))


def make_eval_step(
    model: Any, data: Data, config: Config, task: Task | None = None
) -> Callable[[PyTree, PyTree, Hyper, Batch], Metrics]:
    """`eval_step(params, batch_stats, hyper, batch) -> Metrics`, pure and not jitted. See `eval_step`."""
    return functools.partial(eval_step, make_setting(model, data, config, task))


def batch_statistics(model: Model, params: PyTree, batch_stats: PyTree, image: Array, hyper: Hyper | None) -> PyTree:
    """BatchNorm's mean and unbiased variance over one batch alone, dropout off: a term of Algorithm 2's average."""
    fresh = reset_batch_stats(batch_stats)
    hyper = hyper and dataclasses.replace(hyper, dropout_rate=None, input_dropout_rate=None)
    # A network with a Dropout of its own draws a mask from this key; ours draws none for a rate that is None.
    return model.apply(params, fresh, image, train=True, key=jax.random.key(0), hyper=hyper).batch_stats


def recalibrate(
    model: Any,
    params: PyTree,
    batch_stats: PyTree,
    batches: Iterable[Batch],
    *,
    hyper: Hyper | None = None,
    num_batches: int = 200,
) -> PyTree:
    """BatchNorm's population statistics for these parameters: Algorithm 2, from a pass over training batches.

    Needed wherever the parameters are not those that the running averages followed (EMA, SWA, averages of members).

    Args:
      model: as for `fit`.
      params: the parameters to be used for inference.
      batch_stats: statistics of the same network; only their structure is used.
      batches: training batches, shuffled, of the size used in training.
      hyper: as the network needs it; its dropout rates are left out.
      num_batches: how many batches are read at most.

    Returns:
      A new batch_stats.

    Raises:
      RequestError: for `flax.linen.BatchNorm`, whose running averages cannot be taken apart into batches.

    References:
      Ioffe & Szegedy, Batch Normalization, 2015, Algorithm 2, https://arxiv.org/abs/1502.03167
    """
    model = as_model(model)
    if not batch_stats:
        return batch_stats
    check_recalibration(batch_stats)
    one = jax.jit(functools.partial(batch_statistics, model))
    terms = [one(params, batch_stats, batch.image, hyper) for batch in itertools.islice(batches, num_batches)]
    if not terms:
        raise RequestError("recalibrate was given no batches; give an iterable of training batches")
    return jax.tree.map(lambda *x: sum(x[1:], x[0]) / len(x), *terms)


def check_recalibration(batch_stats: PyTree) -> None:
    """Raise RequestError where the statistics are not those of this package's BatchNorm."""
    if not is_own_batch_stats(batch_stats):
        raise RequestError(
            "the network keeps statistics that are not jaxtrain.BatchNorm's (flax.linen.BatchNorm, perhaps), which"
            " cannot be recalibrated for averaged weights; use jaxtrain.BatchNorm, or set final to 'last' or 'best'"
        )


def all_finite(tree: PyTree) -> Array:
    """bool[], whether no number in `tree` is NaN or infinite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.ones((), bool)


def learning_rate(setting: Setting, state: TrainState) -> Array:
    """f32[], the rate of the last update; a skipped step is none."""
    factor = setting.schedule(jnp.maximum(state.step - state.control.skipped - 1, 0))
    return state.hyper.learning_rate * factor * state.control.rate_scale


def _transformation(
    setting: Setting, hyper: Hyper, rate_scale: Array, params: PyTree, steps_back: int = 0
) -> optax.GradientTransformation:
    """The optax chain, built from traced numbers at each trace; the reduction on plateau enters as a schedule."""
    choice = setting.config.optimizer

    def schedule(step: Array) -> Array:
        return setting.schedule(jnp.maximum(step - steps_back, 0) if steps_back else step) * rate_scale

    own = choice(hyper, schedule) if callable(choice) else optimizer(hyper, schedule, choice)
    if setting.config.frozen_after:
        lengths = {path: round(epochs * setting.steps_per_epoch) for path, epochs in setting.config.frozen_after}
        own = optax.chain(own, *(fade(path, max(length, 1), steps_back) for path, length in lengths.items()))
    return freeze(own, frozen_mask(params, setting.config.frozen)) if setting.config.frozen else own


def step_gradient(setting: Setting, state: TrainState, batch: Batch, key: Array) -> tuple[PyTree, PyTree, Metrics]:
    """Gradient of the mean loss and the penalties, over all micro-batches in turn."""

    def objective(params: PyTree, batch_stats: PyTree, part: Batch, key: Array) -> tuple[Array, tuple[PyTree, Metrics]]:
        applied = setting.model.apply(params, batch_stats, part.image, train=True, key=key, hyper=state.hyper)
        with jax.named_scope("loss"):
            losses = setting.task.loss(applied.outputs, part, state.hyper)
            total = jnp.mean(losses) + penalty(params, state.hyper)
        with jax.named_scope("metrics"):
            values = {**setting.task.metrics(applied.outputs, part), "loss": losses}
            sums = from_examples(values, part.weight)
        return total, (applied.batch_stats, sums)

    differentiate = jax.grad(objective, has_aux=True)
    count = setting.config.num_micro_batches
    if count == 1:
        gradient, (batch_stats, metrics) = differentiate(state.params, state.batch_stats, batch, key)
        return gradient, batch_stats, metrics

    def body(carry: tuple[PyTree, PyTree], inputs: tuple[Batch, Array]) -> tuple[tuple[PyTree, PyTree], Metrics]:
        (total, batch_stats), (part, index) = carry, inputs
        gradient, (batch_stats, metrics) = differentiate(
            state.params, batch_stats, part, jax.random.fold_in(key, index)
        )
        return (jax.tree.map(jnp.add, total, gradient), batch_stats), metrics

    parts = jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
    start = jax.tree.map(jnp.zeros_like, state.params), state.batch_stats
    (total, batch_stats), metrics = lax.scan(body, start, (parts, jnp.arange(count)))
    with jax.named_scope("backward"):
        gradient = jax.tree.map(lambda x: x / count, total)
    with jax.named_scope("metrics"):
        return gradient, batch_stats, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)


def updated(
    setting: Setting, state: TrainState, gradient: PyTree, batch_stats: PyTree, *, steps_back: int = 0
) -> TrainState:
    """The state after an update by `gradient`, at the rate of so many steps before."""
    transform = _transformation(setting, state.hyper, state.control.rate_scale, state.params, steps_back)
    updates, opt_state = transform.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if setting.config.ema_decay is not None:
        ema = ema_update(state.ema, params, setting.config.ema_decay, state.step)
    batch_stats = _hold_frozen(setting.config.frozen, state.batch_stats, batch_stats)
    return dataclasses.replace(
        state, step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema
    )


def _guarded(state: TrainState, after: TrainState, gradient: PyTree, metrics: Metrics) -> tuple[TrainState, Metrics]:
    """`after`, or where the step was not finite the whole of `state` but for its step number, and no metrics.

    The statistics of BatchNorm too, which `optax.apply_if_finite` lets go NaN. The schedule, which counts with the
    optimizer, stands still.
    """
    # The norm as well: finite gradients whose squares overflow would leave Adam's second moment infinite for ever.
    seen = metrics.sums["loss"], optax.tree.norm(gradient), after.params, after.batch_stats
    good = all_finite(seen) & (state.control.bad_steps < MAX_BAD_STEPS)

    def choose(name: str) -> PyTree:
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), getattr(after, name), getattr(state, name))

    control = dataclasses.replace(
        state.control,
        bad_steps=jnp.where(good, 0, state.control.bad_steps + 1),
        skipped=state.control.skipped + jnp.where(good, 0, 1),
    )
    kept = {name: choose(name) for name in ("params", "batch_stats", "opt_state", "ema")}
    sums = jax.tree.map(lambda x: jnp.where(good, x, jnp.zeros_like(x)), metrics)
    return dataclasses.replace(after, control=control, **kept), sums


def _hold_frozen(frozen: tuple[str, ...], old: PyTree, new: PyTree) -> PyTree:
    """Running statistics of frozen parts stay as they are, too."""

    def hold(path: Any, old: Array, new: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return old if any(f"{name}/".startswith(f"{entry.strip('/')}/") for entry in frozen) else new

    return jax.tree_util.tree_map_with_path(hold, old, new)
