"""Is the request right? Every check of a run that can be made before anything is compiled or written.

Imports data, networks and the step. The fact that surprises: the network is run here, on shapes alone, so a wrong image
shape or number of outputs costs milliseconds and leaves no folder behind.
"""

from typing import Any

import jax

from jaxtrain.augment import check_augment
from jaxtrain.config import Config, check_config, check_hyper
from jaxtrain.data import Data
from jaxtrain.errors import RequestError
from jaxtrain.fields import check_types
from jaxtrain.models import check_model
from jaxtrain.optim import frozen_mask
from jaxtrain.program import watched
from jaxtrain.step import Setting, check_recalibration, init_state
from jaxtrain.tasks import Classification, Regression
from jaxtrain.types import Batch, Hyper, TrainState


def check_values(config: Config, hyper: Hyper) -> None:
    """What can be checked without data: types and ranges."""
    check_types(config, "config")
    check_types(hyper, "hyper")
    check_config(config)
    check_hyper(hyper)


def check_request(setting: Setting, data: Data, hyper: Hyper) -> None:
    """Raise RequestError for the first thing that keeps `setting` from being trained on `data`."""
    config = setting.config
    if config.batch_size > data.num_train:
        raise RequestError(
            f"config.batch_size is {config.batch_size}, but the training split holds {data.num_train} examples;"
            f" give at most {data.num_train}"
        )
    check_augment(config.augment, data.image_shape, data.info.num_classes is not None, hyper)
    micro_batch = config.batch_size // config.num_micro_batches
    ours = isinstance(setting.task, Classification | Regression)
    num_outputs = data.info.num_classes or data.info.num_targets if ours else None
    check_model(setting.model, setting.image_shape, num_outputs, micro_batch, hyper)
    _ = setting.schedule  # raises where its warm-up or its period does not fit the run
    state = jax.eval_shape(lambda key: init_state(setting, key, hyper), jax.random.key(0))
    frozen_mask(state.params, config.frozen)
    if config.final in ("ema", "swa") and state.batch_stats:
        check_recalibration(state.batch_stats)
    _check_task(setting, data, state, micro_batch)


def _check_task(setting: Setting, data: Data, state: TrainState, size: int) -> None:
    """The task on the shapes of a batch: numbers per example, "loss" among the metrics, and the watched one."""
    task = setting.task

    def run(state: TrainState, batch: Batch) -> tuple[Any, Any]:
        applied = setting.model.apply(state.params, state.batch_stats, batch.image, train=False, hyper=state.hyper)
        return task.loss(applied.outputs, batch, state.hyper), task.metrics(applied.outputs, batch)

    image = jax.ShapeDtypeStruct((size, *setting.image_shape), "float32")
    label = jax.ShapeDtypeStruct((size, *data.label.shape[1:]), data.label.dtype)
    batch = Batch(image, label, jax.ShapeDtypeStruct((size,), "float32"))  # pyright: ignore[reportArgumentType]
    name = type(task).__name__
    try:
        loss, metrics = jax.eval_shape(run, state, batch)
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise RequestError(f"the task {name} cannot take a batch of {size}: {first_line}") from error
    for what, value in {"loss": loss, **{f"metric {metric!r}": value for metric, value in metrics.items()}}.items():
        if getattr(value, "shape", None) != (size,):
            raise RequestError(
                f"{name}'s {what} has shape {getattr(value, 'shape', None)}; expected one number per example"
            )
    if "loss" not in metrics:
        raise RequestError(f"{name}'s metrics are {', '.join(sorted(metrics))}; 'loss' must be among them")
    watched(setting.config.watch, metrics)
