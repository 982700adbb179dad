"""Muon: momentum whose matrices are made nearly orthogonal, so that a step moves all directions of a layer alike.

Imports `types` and `parameters`. The fact that surprises: no decomposition is computed. Five matrix products of an odd
polynomial bring every singular value near 1, and near is enough.

References:
  Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, https://kellerjordan.github.io/posts/muon
  Bernstein & Newhouse, Old Optimizer, New Norm, 2024, https://arxiv.org/abs/2409.20325, appendix A (Newton and Schulz)
"""

import math

import jax
import jax.numpy as jnp
import optax

from jaxtrain.optim.parameters import named_mask, parameter_path
from jaxtrain.types import Array, PyTree

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5: Jordan's, as steep at 0 as may be. They do not converge to 1, but into [0.7, 1.2]."""


LAST = "outputs"
"""What the last layer of the shipped networks is called."""


def hidden_mask(params: PyTree, rest: tuple[str, ...]) -> PyTree:
    """True for the kernels that Muon updates: matrices and filters of at least two inputs, but for `rest`.

    Embeddings and other tables, which are no matrix products, are told by their name; kernels of three axes, which may
    be those of attention with its heads, are left out unless they are a convolution's.
    """
    entries = [entry.strip("/") for entry in rest]

    def is_hidden(path: tuple, leaf: Array) -> bool:
        module, _, name = parameter_path(path).rpartition("/")
        shape = jnp.shape(leaf)
        if name != "kernel" or len(shape) < 2 or math.prod(shape[:-1]) < 2:
            return False
        if any(f"{module}/".startswith(f"{entry}/") for entry in entries):
            return False
        return len(shape) != 3 or "conv" in module.lower()

    return jax.tree_util.tree_map_with_path(is_hidden, params)


def check_rest(params: PyTree, rest: tuple[str, ...]) -> None:
    """Raise RequestError for an entry that is the beginning of no path; the default may be that of no network."""
    named_mask(params, tuple(entry for entry in rest if entry != LAST), "config.optimizer.rest")


def orthogonalise(num_steps: int) -> optax.GradientTransformation:
    """Each leaf, as a matrix [all other axes, outputs], with singular values near 1, times sqrt(outputs / inputs) where
    there are more outputs than inputs.

    Args:
      num_steps: of the iteration; 5 bring singular values of a hundredth of the matrix's length near 1, 3 of a tenth.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        return jax.tree.map(lambda leaf: _orthogonal(leaf, num_steps), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def hold_norm(rest: tuple[str, ...]) -> optax.GradientTransformation:
    """Before each update bring each hidden kernel to the length of the square root of its outputs.

    With it the rate is the angle by which a layer turns, whatever its weights have grown to; where BatchNorm follows,
    their length means nothing. Speaks of the weights, so it comes last in a chain.

    Args:
      rest: as for `hidden_mask`.
    """

    def hold(update: Array, param: Array, is_held: bool) -> Array:
        if not is_held:
            return update
        length = jnp.sqrt(jnp.sum(jnp.square(param)))
        return update + param * (jnp.sqrt(float(param.shape[-1])) / jnp.maximum(length, 1e-12) - 1)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("hold_norm changes the parameters, but update() was called without them; pass params")
        return jax.tree.map(hold, updates, params, hidden_mask(params, rest)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _orthogonal(leaf: Array, num_steps: int) -> Array:
    matrix = leaf.reshape(-1, leaf.shape[-1])
    inputs, outputs = matrix.shape
    x = matrix.T if inputs > outputs else matrix  # the products are of the shorter side
    x = x / jnp.maximum(jnp.max(jnp.abs(x)), 1e-30)  # the squares of what is large would overflow
    x = x / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), 1e-12)
    a, b, c = COEFFICIENTS
    for _ in range(num_steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    x = x.T if inputs > outputs else x
    return (x * max(1.0, outputs / inputs) ** 0.5).reshape(leaf.shape)
