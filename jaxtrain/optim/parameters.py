"""Which parameters: those that are kernels, those that are frozen, and the penalties on kernels.

Imports `types` and `errors`. The fact that surprises: what is a kernel is told by shape and name, for in a user's own
module the name alone may be anything.
"""

import difflib

import jax
import jax.numpy as jnp

from jaxtrain.errors import RequestError
from jaxtrain.types import Array, Hyper, PyTree


def parameter_path(path: tuple) -> str:
    """The path of a leaf as it is written in configs and logs, for example "Block_1/Conv_0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def kernel_mask(params: PyTree) -> PyTree:
    """True for the leaves that decay, are penalised and are bound in norm: two axes or more, not a bias or a scale.

    So every matrix and filter counts, whatever a user's module calls it, embeddings too; Flax's attention has biases of
    two axes, which is why the name is asked at all.
    """

    def is_kernel(path: tuple, leaf: Array) -> bool:
        return jnp.ndim(leaf) >= 2 and parameter_path(path).rpartition("/")[2] not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def frozen_mask(params: PyTree, frozen: tuple[str, ...]) -> PyTree:
    """True for the leaves whose path begins with one of `frozen`, whole names: "Dense_1" is not "Dense_10".

    Raises:
      RequestError: an entry that is the beginning of no path, with the nearest one.
    """
    return named_mask(params, frozen, "config.frozen")


def named_mask(params: PyTree, named: tuple[str, ...], field: str) -> PyTree:
    """As `frozen_mask`, for a field of any name."""
    leaves = [parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    known = sorted({"/".join(leaf.split("/")[:n]) for leaf in leaves for n in range(1, leaf.count("/") + 2)})
    entries = [entry.strip("/") for entry in named]
    for entry in entries:
        if entry not in known:
            nearest = (difflib.get_close_matches(entry, known, 1, 0.0) or ["nothing: there are no parameters"])[0]
            raise RequestError(f"{field} has {entry!r}, which no parameter's path begins with; nearest: {nearest}")

    def is_named(path: tuple, _: Array) -> bool:
        return any(f"{parameter_path(path)}/".startswith(f"{entry}/") for entry in entries)

    return jax.tree_util.tree_map_with_path(is_named, params)


def check_frozen_after(params: PyTree, frozen: tuple[str, ...], frozen_after: tuple[tuple[str, float], ...]) -> None:
    """Raise RequestError for an entry that is the beginning of no path, or names what another one, or `frozen`, has."""
    taken = {"config.frozen": frozen_mask(params, frozen)}
    for path, epochs in frozen_after:
        own = named_mask(params, (path,), "config.frozen_after")
        for name, mask in taken.items():
            if any(jax.tree.leaves(jax.tree.map(lambda a, b: a and b, own, mask))):
                raise RequestError(
                    f"config.frozen_after has {path!r}, parameters that {name} names too; leave out one of the two"
                )
        taken[f"its entry {(path, epochs)}"] = own


def penalty(params: PyTree, hyper: Hyper) -> Array:
    """f32[], l1 * sum |w| + l2 / 2 * sum w^2 over the kernels, to be added to the mean loss.

    Its gradient is l1 * sign(w) + l2 * w. Keras and some papers leave out the one half: their l2 is half of this one.

    References:
      CS231n, https://cs231n.github.io/neural-networks-2/#reg
    """
    mask = jax.tree.leaves(kernel_mask(params))
    kernels = [leaf for leaf, is_kernel in zip(jax.tree.leaves(params), mask, strict=True) if is_kernel]
    total = jnp.zeros((), jnp.float32)
    if hyper.l1 is not None:
        total += hyper.l1 * sum(jnp.sum(jnp.abs(w)) for w in kernels)
    if hyper.l2 is not None:
        total += hyper.l2 / 2 * sum(jnp.sum(jnp.square(w)) for w in kernels)
    return total
