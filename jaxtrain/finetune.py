"""Start from the weights of a finished run: those whose path and shape agree are taken, the others start afresh.

Imports results and the step. The fact that surprises: nothing but weights is taken. The optimizer, the schedule and the
random key are the new run's.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.leaves import digest
from jaxtrain.result import Run, read_weights
from jaxtrain.types import PyTree, TrainState

Weights = dict[str, PyTree]


@dataclass(frozen=True)
class Origin:
    """The run whose weights another one begins with, as the latter's manifest names it."""

    folder: str | None  # None: it has none
    digest: str  # of the weights
    given: Weights | None = None  # None: of a run that is resumed, which may need them no more

    @property
    def described(self) -> dict[str, str | None]:
        """What the manifest says of it."""
        return {"folder": self.folder, "digest": self.digest}

    def weights(self) -> Weights:
        """{"params", "batch_stats"}, the same as when the run began.

        Raises:
          WorldError: they are gone, damaged or others by now.
        """
        if self.given is not None:
            return self.given
        if self.folder is None:
            raise WorldError("the run began with weights that were given in memory; repeat it with init_from")
        bring = "bring them back, for what has no checkpoint yet begins with them"
        try:
            found = _read(self.folder)
        except (RequestError, WorldError) as error:
            raise WorldError(f"the weights that the run began with cannot be read: {error}; {bring}") from None
        if digest(found) != self.digest:
            raise WorldError(f"{self.folder} no longer holds the weights that the run began with; {bring}")
        return found


def read_origin(init_from: str | Path | Run) -> Origin:
    """A finished run, or its folder, to begin with.

    Raises:
      RequestError: the folder holds no finished run.
      WorldError: its weights are damaged.
    """
    if isinstance(init_from, Run):
        given, folder = {"params": init_from.params, "batch_stats": init_from.batch_stats}, init_from.folder
    else:
        given, folder = _read(init_from), Path(init_from)
    # The run may be resumed from elsewhere, where a relative path leads to another folder or to none.
    return Origin(None if folder is None else str(folder.absolute()), digest(given), given)


def _read(folder: str | Path) -> Weights:
    kept = read_weights(folder)[0]
    return {name: kept[name] for name in ("params", "batch_stats")}


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
