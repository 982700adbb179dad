"""Is the request right? Every check of a run that can be made before anything is compiled or written.

Imports data, networks and the step. The fact that surprises: the network is run here, on shapes alone, so a wrong image
shape or number of outputs costs milliseconds and leaves no folder behind.
"""

import jax

from jaxtrain.augment import check_augment
from jaxtrain.config import Config, check_config, check_hyper
from jaxtrain.data import Data
from jaxtrain.errors import RequestError
from jaxtrain.models import check_model
from jaxtrain.optim import frozen_mask
from jaxtrain.program import watched
from jaxtrain.step import Setting, check_recalibration, init_state
from jaxtrain.types import Batch, Hyper


def check_numbers(config: Config, hyper: Hyper) -> None:
    """What can be checked without data."""
    check_config(config)
    check_hyper(hyper)


def check_request(setting: Setting, data: Data, hyper: Hyper) -> None:
    """Raise RequestError for the first thing that keeps `setting` from being trained on `data`."""
    config = setting.config
    _check_batch(config, data.num_train)
    check_augment(config.augment, data.image_shape, data.info.num_classes is not None, hyper)
    micro_batch = config.batch_size // config.num_micro_batches
    check_model(setting.model, setting.image_shape, _num_outputs(data), micro_batch, hyper)
    state = jax.eval_shape(lambda key: init_state(setting, key, hyper), jax.random.key(0))
    frozen_mask(state.params, config.frozen)
    if config.final in ("ema", "swa") and state.batch_stats:
        check_recalibration(state.batch_stats)
    _check_watch(setting, data)
    _ = setting.schedule  # raises where its warm-up or its period does not fit the run


def _check_batch(config: Config, num_train: int) -> None:
    if config.batch_size > num_train:
        raise RequestError(
            f"config.batch_size is {config.batch_size}, but the training split holds {num_train} examples;"
            f" give at most {num_train}"
        )


def _check_watch(setting: Setting, data: Data) -> None:
    outputs = jax.ShapeDtypeStruct((1, _num_outputs(data)), "float32")
    label = jax.ShapeDtypeStruct((1, *data.label.shape[1:]), data.label.dtype)
    weight = jax.ShapeDtypeStruct((1,), "float32")
    names = jax.eval_shape(lambda *x: setting.task.metrics(x[0], Batch(x[0], x[1], x[2])), outputs, label, weight)
    if "loss" not in names:
        raise RequestError(f"the task's metrics are {', '.join(sorted(names))}; 'loss' must be among them")
    watched(setting.config.watch, names)


def _num_outputs(data: Data) -> int:
    return data.info.num_classes or data.info.num_targets or 0
