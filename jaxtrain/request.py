"""Is the request right? Every check of a run that can be made before anything is compiled or written.

Imports data, networks and the step. The fact that surprises: the network is run here, on shapes alone, so a wrong image
shape or number of outputs costs milliseconds and leaves no folder behind.
"""

import contextlib
import math
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.augment import check_augment, check_tta
from jaxtrain.config import Config, Muon, check_config, check_hyper
from jaxtrain.data import Data
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.fields import check_types, fields_of, is_instance_of_dataclass
from jaxtrain.models import check_model
from jaxtrain.optim import check_frozen_after, check_rest, frozen_mask
from jaxtrain.program import watched
from jaxtrain.step import Setting, check_recalibration, init_state, predict_step
from jaxtrain.tasks import Classification, Regression
from jaxtrain.types import Batch, Hyper, TrainState

LARGEST = 2**31 - 1
"""Steps and sizes are int32 in every program."""


def check_values(config: Config, hyper: Hyper) -> None:
    """What can be checked without data: types and ranges."""
    check_types(config, "config")
    check_types(hyper, "hyper")
    _check_numbers(config, "config")
    check_config(config)
    check_hyper(hyper)


def check_seed(seed: Any) -> int:
    """`seed` as an int, or RequestError. A key has 32 bits of it: 2^32 would be 0 again."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise RequestError(f"seed is {seed!r:.60}; expected a whole number")
    if not 0 <= seed < 2**32:
        raise RequestError(f"seed is {seed}; give a number from 0 to 4294967295")
    return int(seed)


def check_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """The seeds of several members, at least one and each once, or RequestError."""
    chosen = tuple(map(check_seed, seeds))
    if not chosen:
        raise RequestError("seeds is empty: 0 members were asked for; give at least one seed")
    if len(set(chosen)) < len(chosen):
        twice = next(seed for seed in chosen if chosen.count(seed) > 1)
        raise RequestError(f"seed {twice} was given twice; members of one seed are one and the same, give each once")
    return chosen


def check_request(setting: Setting, data: Data, hyper: Hyper) -> None:
    """Raise RequestError for the first thing that keeps `setting` from being trained on `data`."""
    config = setting.config
    if config.batch_size > data.num_train:
        raise RequestError(
            f"config.batch_size is {config.batch_size}, but the training split holds {data.num_train} examples;"
            f" give at most {data.num_train}"
        )
    if setting.num_steps > LARGEST:
        raise RequestError(
            f"config.epochs is {config.epochs}, which would be {setting.num_steps} steps; give epochs of at most"
            f" {LARGEST} steps in all"
        )
    check_augment(config.augment, data.image_shape, data.info.num_classes is not None, hyper)
    check_tta(config.tta, data.image_shape)
    micro_batch = config.batch_size // config.num_micro_batches
    ours = isinstance(setting.task, Classification | Regression)
    num_outputs = data.info.num_classes or data.info.num_targets if ours else None
    with _told("the network", setting.model.module):
        check_model(setting.model, setting.image_shape, num_outputs, micro_batch, hyper)
    with _told("config.schedule", config.schedule):
        _ = setting.schedule  # raises where its warm-up or its period does not fit the run
    if config.frozen_after:
        image = jax.ShapeDtypeStruct((1, *setting.image_shape), "float32")
        params, _ = jax.eval_shape(setting.model.init, jax.random.key(0), image, jax.tree.map(jnp.float32, hyper))
        check_frozen_after(params, config.frozen, config.frozen_after)
    with _told("config.optimizer", config.optimizer):
        state = jax.eval_shape(lambda key: init_state(setting, key, hyper), jax.random.key(0))
    frozen_mask(state.params, config.frozen)
    if isinstance(config.optimizer, Muon):
        check_rest(state.params, config.optimizer.rest)
    if config.final in ("ema", "swa") and state.batch_stats:
        check_recalibration(state.batch_stats)
    _check_task(setting, data, state, micro_batch)


def _check_numbers(value: Any, path: str) -> None:
    """Raise RequestError for the first number in `value` that no program could hold."""
    for field in fields_of(value):
        where = f"{path}.{field.name}"
        if is_instance_of_dataclass(field.value):
            _check_numbers(field.value, where)
        elif isinstance(field.value, float) and not math.isfinite(field.value):
            raise RequestError(f"{where} is {field.value}; it must be a finite number")
        elif isinstance(field.value, int) and abs(field.value) > LARGEST:
            raise RequestError(f"{where} is {field.value}; it must be at most {LARGEST}")


@contextlib.contextmanager
def _told(what: str, part: Any) -> Iterator[None]:
    """What code of the user's raises, as one sentence with its line. An error in a part of ours stays a traceback."""
    try:
        yield
    except (RequestError, WorldError, NonFiniteError):
        raise
    except Exception as error:  # the user's code may raise anything
        if type(part).__module__.partition(".")[0] == __name__.partition(".")[0]:
            raise
        name = getattr(part, "__name__", type(part).__name__)
        text = next(iter(str(error).splitlines()), "")
        raise RequestError(f"{_line_of(error)}{what} {name} raised {type(error).__name__}: {text}") from error


def _line_of(error: Exception) -> str:
    """FILE:LINE of the user's code, in which `error` was raised or which called what raised it; or nothing."""
    others = (str(Path(__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(others)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _check_task(setting: Setting, data: Data, state: TrainState, size: int) -> None:
    """The task on the shapes of a batch: numbers per example, "loss" among the metrics, and the watched one."""
    task = setting.task

    def run(state: TrainState, batch: Batch) -> tuple[Any, Any]:
        outputs = predict_step(setting, state.params, state.batch_stats, state.hyper, batch.image)
        return task.loss(outputs, batch, state.hyper), task.metrics(outputs, batch)

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
