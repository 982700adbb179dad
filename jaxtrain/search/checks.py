"""Can this be searched? Every combination of static choices, checked on shapes before anything is trained.

Imports data, the step and the checks of a run. The fact that surprises: the metric's name decides whether a study
maximises or minimises, and it is known only once the task has seen a batch; so that is done here, on shapes.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax

from jaxtrain.config import DataConfig
from jaxtrain.data import Data
from jaxtrain.errors import RequestError
from jaxtrain.program import watched
from jaxtrain.request import check_request
from jaxtrain.search.findings import Goal
from jaxtrain.space import Choice, Search, is_static, with_values
from jaxtrain.step import Setting, init_state, make_setting, predict_step
from jaxtrain.types import Batch, Hyper, Task

MOST_CHECKED = 32
"""Combinations of static choices: a check takes about 50 ms."""


def check_programs(search: Search, load: Callable[[DataConfig], Data], task: Task | None = None) -> Goal:
    """Check each combination of static choices as `fit` would, and say what trials are judged by.

    Args:
      search: as `check_search` returns it.
      load: the data of a DataConfig.
      task: by default that of the data.

    Raises:
      RequestError: for the first combination that cannot be trained.
    """
    goals = []
    axes = [_values(search, name) for name in search.space]
    for drawn in itertools.islice(itertools.product(*axes), MOST_CHECKED):
        experiment = with_values(search, dict(zip(search.space, drawn, strict=True)))
        data = load(experiment.data)
        setting = make_setting(experiment.model, data, experiment.config, task)
        try:
            check_request(setting, data, experiment.hyper)
        except RequestError as error:
            pairs = zip(search.space, drawn, strict=True)
            chosen = ", ".join(f"{name} {value}" for name, value in pairs if is_static(search, name))
            raise RequestError(f"with {chosen}: {error}" if chosen else str(error)) from error
        if not goals:
            goals.append(_goal(setting, data, experiment.hyper))
    return goals[0]


def _values(search: Search, name: str) -> list[Any]:
    """What of a name is checked: all choices, both ends of a range; one value where one program serves all."""
    member = search.space[name]
    if isinstance(member, Choice):
        values = member.labels()
    else:
        values = [int(end) if member.integer else end for end in (member.low, member.high)]
    return values if is_static(search, name) else values[:1]


def _goal(setting: Setting, data: Data, hyper: Hyper) -> Goal:
    """The watched metric, found on the shapes of one example."""
    state = jax.eval_shape(lambda key: init_state(setting, key, hyper), jax.random.key(0))

    def metrics(state: Any, batch: Batch) -> Any:
        outputs = predict_step(setting, state.params, state.batch_stats, state.hyper, batch.image)
        return setting.task.metrics(outputs, batch)

    image = jax.ShapeDtypeStruct((1, *setting.image_shape), "float32")
    label = jax.ShapeDtypeStruct((1, *data.label.shape[1:]), data.label.dtype)
    batch = Batch(image, label, jax.ShapeDtypeStruct((1,), "float32"))  # pyright: ignore[reportArgumentType]
    return Goal(*watched(setting.config.watch, jax.eval_shape(metrics, state, batch)), data.num_val)
