"""A function computed in float64 although its code says float32: its jaxpr, read with every float widened.

Imports only `types`. The fact that surprises: casting the parameters is not enough. Networks cast back (BatchNorm
and the loss to float32, a layer to bfloat16), and a difference quotient with h = 1e-5 would see nothing but rounding.
So the traced program is followed operation by operation, and its casts become casts to float64. What the code does is
unchanged; derivatives of the user's own are part of the traced gradient, and thus are what is checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex_core

from jaxtrain.types import PyTree

Array = jax.Array

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Primitives that call a jaxpr once, and the parameter that holds it."""

SCATTERS: dict[str, Callable[..., Array]] = {
    "scatter": lax.scatter,
    "scatter_add": lax.scatter_add,
    "scatter_mul": lax.scatter_mul,
    "scatter_min": lax.scatter_min,
    "scatter_max": lax.scatter_max,
}


class NotTranslatedError(Exception):
    """The function holds an operation that cannot be followed in float64."""


@dataclass(frozen=True)
class Derivative:
    """A function of a pytree and its gradient by it, compiled, both as on paper: in float64 where that is possible."""

    value: Callable[[PyTree], float]
    gradient: Callable[[PyTree], PyTree]  # of NumPy arrays
    is_double: bool
    reason: str = ""  # for which it is not


def differentiate(function: Callable[[PyTree], Array], x: PyTree) -> Derivative:
    """`function`, of a pytree to one number, with its gradient. Neither follows a change of what it closes over."""
    tree = jax.tree.structure(x)
    value, gradient = in_double(function, x), in_double(jax.grad(function), x)

    def wide(run: Callable[..., list[Array]], x: PyTree) -> list[Array]:
        with jax.enable_x64(True):
            return jax.device_get(run(*(np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x))))

    try:
        wide(value, x)
        wide(gradient, x)
    except (NotTranslatedError, TypeError, KeyError, AttributeError, ValueError, NotImplementedError) as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:60]}"
        plain, plain_gradient = jax.jit(function), jax.jit(jax.grad(function))
        return Derivative(
            lambda x: float(plain(x)),
            lambda x: jax.device_get(plain_gradient(x)),
            False,
            reason,
        )
    return Derivative(
        lambda x: float(wide(value, x)[0]),
        lambda x: jax.tree.unflatten(tree, wide(gradient, x)),
        True,
    )


def in_double(function: Callable[..., Any], *args: Any) -> Callable[..., list[Array]]:
    """`function` in float64, jitted: takes `args` flattened, as float64, and gives its results flattened.

    Call it under `jax.enable_x64(True)`.

    Args:
      function: of arrays to a pytree of arrays, traced here on `args`, in the precision that it is written for.

    Raises:
      NotTranslatedError: when called, for an operation that cannot be followed.
    """
    closed = jax.make_jaxpr(function)(*args)
    # With all of XLA's optimisations: without, on a CPU, the maximum of a pooling window is computed twice and differs
    # from itself in the last bit, and its gradient is lost.
    return jax.jit(lambda *flat: _evaluate(closed.jaxpr, [_widen(x) for x in closed.consts], flat))


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(var: Any) -> Any:
        if isinstance(var, jex_core.Literal):  # with its own dtype: under x64 a Python int would be an int64
            return jnp.asarray(var.val, _wide_dtype(_dtype_of(var)))
        return known[var]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(var) for var in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _apply(equation: Any, values: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        return _call(params[CALLS[name]], values)
    if name in LOOPS:
        return LOOPS[name](params, values)
    if name.replace("-", "_") in SCATTERS:
        kept = ("indices_are_sorted", "unique_indices", "mode")
        scatter = SCATTERS[name.replace("-", "_")]
        return [scatter(*values, params["dimension_numbers"], **{k: params[k] for k in kept})]
    if name == "reduce_precision":
        return values
    if name == "bitcast_convert_type":  # speaks of bits, as where random bits become a uniform number
        values = [value.astype(_dtype_of(var)) for value, var in zip(values, equation.invars, strict=True)]
        return [_widen(equation.primitive.bind(*values, **params))]
    # What is called with shapes and dtypes of its own (a callback, a foreign kernel), or by a jaxpr not known here.
    if any(key.endswith("avals") for key in params) or any(True for _ in jex_core.jaxprs_in_params(params)):
        raise NotTranslatedError(name)
    wide = {key: _wide_dtype(value) for key, value in params.items()}
    results = equation.primitive.bind(*values, **wide)
    return [_widen(x) for x in results] if equation.primitive.multiple_results else [_widen(results)]


def _call(inner: Any, values: Sequence[Any]) -> list[Any]:
    """A jaxpr, closed or open, on values."""
    consts = [_widen(x) for x in getattr(inner, "consts", ())]
    return _evaluate(getattr(inner, "jaxpr", inner), consts, values)


def _scan(params: Any, values: list[Any]) -> list[Any]:
    if "num_consts" in params:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    else:  # jax 0.12 has (constants, carry, inputs) instead
        num_consts, num_carry, _ = map(len, params["ft_in"].unpack())
    consts, start, xs = (
        values[:num_consts],
        values[num_consts : num_consts + num_carry],
        values[num_consts + num_carry :],
    )

    def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _call(params["jaxpr"], [*consts, *carry, *x])
        return results[:num_carry], results[num_carry:]

    carry, ys = lax.scan(body, start, xs, length=params["length"], reverse=params["reverse"])
    return [*carry, *ys]


def _while(params: Any, values: list[Any]) -> list[Any]:
    first, second = (
        params["cond_nconsts"],
        params["cond_nconsts"] + params["body_nconsts"],
    )
    cond_consts, body_consts, start = (
        values[:first],
        values[first:second],
        values[second:],
    )
    return lax.while_loop(
        lambda carry: _call(params["cond_jaxpr"], [*cond_consts, *carry])[0],
        lambda carry: _call(params["body_jaxpr"], [*body_consts, *carry]),
        start,
    )


def _cond(params: Any, values: list[Any]) -> list[Any]:
    branches = [lambda *x, branch=branch: _call(branch, x) for branch in params["branches"]]
    return lax.switch(values[0], branches, *values[1:])


LOOPS: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


def _widen(x: Any) -> Any:
    """Floats as float64; integers, bools and keys as they are."""
    return jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _dtype_of(var: Any) -> np.dtype:
    return np.dtype(var.aval.dtype)


def _wide_dtype(value: Any) -> Any:
    """A parameter of a primitive: where it is a floating dtype, float64."""
    is_dtype = isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))
    return np.dtype(np.float64) if is_dtype and jnp.issubdtype(value, jnp.floating) else value
