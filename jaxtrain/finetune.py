"""Start from the weights of a finished run: those whose path and shape agree are taken, the others start afresh.

Imports results and the step. The fact that surprises: nothing but weights is taken. The optimizer, the schedule and the
random key are the new run's.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.errors import RequestError
from jaxtrain.result import Run, read_weights
from jaxtrain.types import PyTree, TrainState

Weights = dict[str, PyTree]


def given_weights(init_from: str | Path | Run) -> Weights:
    """{"params", "batch_stats"} of a finished run or its folder.

    Raises:
      RequestError: the folder holds no finished run.
      WorldError: its weights are damaged.
    """
    if isinstance(init_from, Run):
        return {"params": init_from.params, "batch_stats": init_from.batch_stats}
    return read_weights(init_from)[0]


def matches(state: TrainState, given: Weights) -> tuple[list[str], list[str]]:
    """Paths of the leaves that can be taken, and of those that start afresh; `state` may hold shapes only.

    Raises:
      RequestError: no kernel can be taken.
    """
    own, old = _leaves({"params": state.params, "batch_stats": state.batch_stats}), _leaves(given)
    taken = [path for path, leaf in own.items() if path in old and old[path].shape == leaf.shape]
    left = [path for path in own if path not in taken]
    if not any(own[path].ndim > 1 for path in taken):
        names = ", ".join(path.removeprefix("params/") for path in left[:3])
        raise RequestError(
            f"init_from: no kernel of that run has path and shape of one of this network's ({names});"
            " use a run of the same architecture"
        )
    return taken, left


def graft(state: TrainState, given: Weights) -> TrainState:
    """`state` with the leaves that `matches` names taken from `given`; averages start at the new parameters."""
    taken, old = set(matches(state, given)[0]), _leaves(given)

    def choose(kind: str) -> PyTree:
        def leaf(path: Any, fresh: jax.Array) -> jax.Array:
            name = f"{kind}/{_path(path)}"
            return jnp.array(old[name], fresh.dtype) if name in taken else fresh

        return jax.tree_util.tree_map_with_path(leaf, getattr(state, kind))

    params, batch_stats = choose("params"), choose("batch_stats")
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, batch_stats=batch_stats, ema=ema)


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
