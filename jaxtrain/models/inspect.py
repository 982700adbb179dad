"""A network's layers as a table, and whether it fits the data: by tracing shapes, with nothing computed or compiled.

Imports `types`, `errors`. The fact that surprises: this works for any Linen module, a user's own included.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from jaxtrain.errors import RequestError
from jaxtrain.types import Hyper, Model


class LayerRow(NamedTuple):
    """One line of the table: a module that has parameters of its own, or none inside it."""

    path: str  # names from the root down, as in ResidualBlock_1/Conv_0
    kind: str  # its class
    output_shape: tuple[int, ...]  # of the first call, with 1 example
    num_parameters: int  # its own, without those of modules inside it


def model_table(model: Model, image_shape: tuple[int, ...], hyper: Hyper | None = None) -> list[LayerRow]:
    """The layers in the order in which they are called; the sum of `num_parameters` is the network's.

    Args:
      model: any network.
      image_shape: of one image, [H, W, C] or [D].
      hyper: for a network that reads more of it than the default has.
    """
    calls: dict[tuple[str, ...], tuple[str, Any]] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs = call(*args, **kwargs)
        if context.method_name == "__call__":
            calls.setdefault(context.module.path, (type(context.module).__name__, outputs))
        return outputs

    with nn.intercept_methods(record):
        _, params, _ = _shapes(model, (1, *image_shape), hyper or Hyper(), train=False)
    rows = []
    for path, (kind, outputs) in calls.items():
        own = _own_parameters(params, path, calls.keys())
        if own or not any(other[: len(path)] == path for other in calls if other != path):
            rows.append(LayerRow("/".join(path), kind, getattr(outputs, "shape", ()), own))
    return rows


def check_model(
    model: Model, image_shape: tuple[int, ...], num_outputs: int | None, batch_size: int, hyper: Hyper | None = None
) -> None:
    """Raise RequestError if the network does not fit the data.

    Args:
      model: any network.
      image_shape: of one image as the network gets it, [H, W, C] or [D].
      num_outputs: classes or regression targets; None where a user's own task decides.
      batch_size: examples that BatchNorm averages over: the micro-batch.
      hyper: for a network that reads more of it than the default has.

    Raises:
      RequestError: if the network cannot be cached on, cannot take such images, gives other than
        [batch_size, num_outputs], or has one value per channel for BatchNorm to average.
    """
    name, shape = type(model.module).__name__, (batch_size, *image_shape)
    try:
        hash(model)
    except TypeError as error:
        raise RequestError(f"{name} cannot be hashed; make its fields tuples, not lists, dicts or arrays") from error
    for train in (False, True):
        try:
            outputs, _, _ = _shapes(model, shape, hyper or Hyper(), train)
        except RequestError as error:
            raise RequestError(
                f"{name}, images of shape {list(image_shape)}, batch of {batch_size}: {error}"
            ) from error
        except (FlaxError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            first_line = next(iter(str(error).splitlines()), type(error).__name__)
            raise RequestError(
                f"{name} cannot take images of shape {list(image_shape)} in a batch of {batch_size}: {first_line};"
                " change the network's fields, or the shape by data.preprocess or data.image_size"
            ) from error
        if num_outputs is not None and getattr(outputs, "shape", None) != (batch_size, num_outputs):
            given = list(outputs.shape) if hasattr(outputs, "shape") else type(outputs).__name__
            raise RequestError(
                f"{name} gives outputs of shape {given} for images of shape {list(shape)}; expected"
                f" [{batch_size}, {num_outputs}]: set its number of outputs to {num_outputs}"
            )


def _shapes(model: Model, shape: tuple[int, ...], hyper: Hyper, train: bool) -> tuple[Any, Any, Any]:
    """Outputs, parameters and statistics as shapes, from one forward pass on float32 images."""

    def forward(image: jax.Array) -> tuple[Any, Any, Any]:
        key = jax.random.key(0)
        params, batch_stats = model.init(key, image, hyper)
        applied = model.apply(params, batch_stats, image, train=train, key=key, hyper=hyper)
        return applied.outputs, params, batch_stats

    return jax.eval_shape(forward, jax.ShapeDtypeStruct(shape, jnp.float32))


def _own_parameters(params: Any, path: tuple[str, ...], modules: Any) -> int:
    """Elements of the arrays under `path` that lie in no module below it."""
    total = 0
    for keys, leaf in jax.tree.leaves_with_path(params):
        names = tuple(str(key.key) for key in keys)
        owners = [module for module in modules if names[: len(module)] == module]
        if max(owners, key=len, default=()) == path:
            total += math.prod(leaf.shape)
    return total
