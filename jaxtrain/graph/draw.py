"""The graph of any function, of a network and of a training step.

Imports `types` and its sibling files. The fact that surprises: no tool of JAX's draws what a user wrote. A program is
read here equation by equation, which JAX promises nobody, so what goes wrong is one exception that a run can survive.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from jaxtrain.graph.boxes import tidy
from jaxtrain.graph.protobuf import to_proto
from jaxtrain.graph.trace import input_nodes, read_program, result_nodes
from jaxtrain.types import Batch, Hyper, Metrics, Model, PyTree, TrainState


class GraphError(RuntimeError):
    """A function could be traced, but this version of JAX writes it in a way that is not understood here."""


def graph_def(
    function: Callable[..., Any],
    *args: PyTree,
    names: Sequence[str] = (),
    results: Sequence[str] = (),
    root: str = "",
) -> Any:
    """The operations of `function` on arguments of these shapes, from one trace; nothing is computed.

    Each scope (a Linen module, a `jax.named_scope`) is a box, and so is each call of a jitted function that holds more
    than one operation outside scopes. What differentiation adds lies in the box "backward". Parameters and statistics
    lie in the box of their layer: the leaves of an argument, or of its direct field, called `params` or `batch_stats`.

    Left out are operations that no result depends on; constants, casts, broadcasts and the derivation of random keys;
    a result that is an argument unchanged; and a loop's condition. Its body is drawn once, with the shapes of one turn.

    Args:
      function: traceable by JAX. One already traced under `jax.jit` for these shapes is not traced again.
      args: arrays or `jax.ShapeDtypeStruct`, in pytrees.
      names: of the arguments, in order.
      results: of the elements of the tuple that is returned; no name of a scope, which then would seem to feed itself.
      root: a scope to be left out, the outermost module's class: else the first view is one closed box.

    Returns:
      A GraphDef of tensorboardX, for `EventWriter.graph`. Equal functions give equal graphs.

    Raises:
      GraphError: if the trace is not understood. What `function` itself raises is passed on.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    try:
        inputs = input_nodes(closed.jaxpr, args, names)
        nodes, sources = read_program(closed.jaxpr, inputs, root)
        return to_proto(tidy(nodes, result_nodes(closed.jaxpr, sources, shapes, results)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise GraphError(f"jax {jax.__version__} traced a program that cannot be drawn: {error!r}") from error


def model_graph(model: Model, params: PyTree, batch_stats: PyTree, image: Any, hyper: Hyper | None) -> Any:
    """The forward pass in evaluation, as `graph_def` draws it; each row of `model_table` is a box.

    Args:
      model: any network.
      params: arrays or their shapes, as `model.init` gives them.
      batch_stats: likewise.
      image: f32[B, ...] or its shape.
      hyper: numbers or their shapes.
    """

    def forward(params: PyTree, batch_stats: PyTree, image: Any, hyper: Hyper | None) -> Any:
        with nn.intercept_methods(_mark_identity):
            return model.apply(params, batch_stats, image, train=False, hyper=hyper).outputs

    names = ("params", "batch_stats", "image", "hyper")
    return graph_def(forward, params, batch_stats, image, hyper, names=names, root=root_of(model))


def step_graph(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]], state: TrainState, batch: Batch, root: str = ""
) -> Any:
    """A training step, as `graph_def` draws it: batch, layers, loss, backward, optimizer.

    Args:
      step: (state, batch) -> (state, metrics), as `make_train_step` gives it.
      state: arrays or their shapes.
      batch: likewise.
      root: `root_of` the network.
    """
    return graph_def(step, state, batch, names=("state", "batch"), results=("updated_state", "metric_sums"), root=root)


def root_of(model: Model) -> str:
    """The scope that all operations of a network lie in."""
    return model.module.name or type(model.module).__name__


def _mark_identity(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Dropout in evaluation gives its argument back, and would leave no operation to be drawn."""
    outputs = call(*args, **kwargs)
    unchanged = context.method_name == "__call__" and args and outputs is args[0]
    return checkpoint_name(outputs, "identity") if unchanged else outputs
