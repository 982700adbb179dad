"""A traced program (a jaxpr) as nodes, each with the place that is written on it.

Imports JAX only. The fact that surprises: parameters of an equation are left alone but for the programs among them. JAX
renames them at will; that a body's arguments are the equation's own, or its last ones, has stayed true.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

PyTree = Any

BACKWARD = "backward"
"""The box of what differentiation adds."""

HOMES = {
    "params": ("Parameter",),
    "batch_stats": ("Statistic",),
    "opt_state": ("State", "optimizer", "state"),
}
"""Field of an argument -> what its leaves are called, and the boxes around them; inside lie boxes of their paths."""

INPUTS = {"Input"} | {op for op, *_ in HOMES.values()}
"""What the leaves of arguments are called; other nodes are operations or results."""

LABELS = {
    "add_any": "add",
    "conv_general_dilated": "conv",
    "dot_general": "matmul",
    "integer_pow": "pow",
    "select_n": "select",
    **{f"reduce_{name}": name for name in ("sum", "max", "min", "prod", "and", "or")},
}
"""What an operation is called in the picture, where JAX's name says less or is cut off; the side panel has both."""

PLUMBING = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "optimization_barrier",
    "pvary",
    "random_unwrap",
    "sharding_constraint",
    "squeeze",
    "stop_gradient",
}
"""Operations that are drawn as a mere edge."""

SCOPES = {"rematted_computation": "recomputed"}
"""What a scope of JAX's own is called in the picture."""

METHOD = re.compile(r"(\w+)\.(\w+)")
"""How Linen names the scope of a method, other than `__call__`: module.method."""

LOOPS = {"scan", "while"}


@dataclass(eq=False, frozen=True)
class Box:
    """A call, a loop or a branch. Two calls of one name are two boxes: one alone would seem to feed itself."""

    name: str


Place = tuple[str | Box, ...]
"""Boxes from the outermost inwards: first scopes, whose names the parameters share, then others."""


@dataclass(eq=False)
class Node:
    place: Place
    label: str
    op: str
    avals: list[Any]  # of its outputs
    inputs: list["Source"] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)  # for the side panel


Source = tuple[Node, int] | None
"""A node and which of its outputs; None for a constant."""


def input_nodes(jaxpr: Any, args: PyTree, names: Sequence[str]) -> list[Node]:
    """A node for each leaf of the arguments."""
    nodes = []
    for var, (keys, _) in zip(jaxpr.invars, jax.tree.leaves_with_path(args), strict=True):
        position, *rest = _parts(keys)
        index = int(position)
        path = [clean(names[index]) if index < len(names) else f"argument_{index}", *rest]
        op = "Input"
        for depth in (1, 2):
            if len(path) > depth and path[depth - 1] in HOMES:
                op, *boxes = HOMES[path[depth - 1]]
                path = [*boxes, *path[depth:]]
                break
        nodes.append(Node(tuple(path[:-1]), path[-1], op, [var.aval]))
    return nodes


def result_nodes(jaxpr: Any, sources: list[Source], shapes: PyTree, results: Sequence[str]) -> list[Node]:
    """A node for each leaf that is returned and has been computed."""
    nodes = []
    for var, source, (keys, _) in zip(jaxpr.outvars, sources, jax.tree.leaves_with_path(shapes), strict=True):
        path = _parts(keys)
        path = [clean(results[int(path[0])]), *path[1:]] if results else ["result", *path]
        if source is not None and var not in jaxpr.invars:
            nodes.append(Node(tuple(path[:-1]), path[-1], "Result", [var.aval], [source]))
    return nodes


def read_program(jaxpr: Any, inputs: list[Node], root: str) -> tuple[list[Node], list[Source]]:
    """All nodes, each after those that it depends on, and where the results come from."""
    reader = _Reader(root, [*inputs])
    return reader.nodes, reader.read(jaxpr, [(node, 0) for node in inputs], (), outermost=True)


def clean(name: str) -> str:
    """The name in TensorFlow's alphabet, in which "/" separates boxes."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name).lstrip("_-") or "unnamed"


def place_of(outside: Place, stack: str, root: str) -> Place:
    """Where an operation lies: in the scopes written on it, or else, where its caller lies.

    Args:
      outside: place of the call or loop that it stands in.
      stack: as JAX writes it, as in transpose(jvp(CNN))/Conv_0.
      root: a scope to be left out.
    """
    backward = "transpose(" in stack or outside[:1] == (BACKWARD,)
    place = [part for part in outside if part != BACKWARD]
    # Without the transformations around the names, and the formulas that einsum writes among them.
    own = [part for part in re.sub(r"\w+\(|\)", "", stack).split("/") if part and "->" not in part]
    if own:
        place = [part for part in place if isinstance(part, str)]
    for part in own:
        method = METHOD.fullmatch(part)
        module = clean(method[1] if method else part)
        if not (method and place[-1:] == [module]):  # a module that calls a method of its own stays where it is
            place.append(SCOPES.get(module, module))
    if root in place:  # its last: what is computed again for the gradient has the scopes twice
        place = place[len(place) - place[::-1].index(root) :]
    return (BACKWARD, *place) if backward else tuple(place)


@dataclass
class _Reader:
    root: str
    nodes: list[Node]

    def read(self, jaxpr: Any, inputs: list[Source], place: Place, outermost: bool = False) -> list[Source]:
        """Where the outputs of a program come from, once its nodes have been added."""
        outermost = outermost and len(jaxpr.eqns) == 1  # a call that is all there is: no box around the whole picture
        known = dict(zip(jaxpr.invars, inputs, strict=True))

        def source(atom: Any) -> Source:
            return None if isinstance(atom, jex_core.Literal) else known.get(atom)

        for equation in jaxpr.eqns:
            inside = place_of(place, str(equation.source_info.name_stack), self.root)
            sources = [source(atom) for atom in equation.invars]
            outputs = self._read_equation(equation, sources, inside, outermost)
            known.update(zip(equation.outvars, outputs, strict=True))
        return [source(atom) for atom in jaxpr.outvars]

    def _read_equation(self, equation: Any, inputs: list[Source], place: Place, outermost: bool) -> list[Source]:
        name, params = equation.primitive.name, equation.params
        if _is_plumbing(equation):
            origin = next(filter(None, inputs), None)
            return inputs if len(inputs) == len(equation.outvars) else [origin] * len(equation.outvars)
        if (body := _body(equation)) is not None:
            inside = _inside(equation, place, outermost)
            return self.read(body, inputs[len(inputs) - len(body.invars) :], inside, outermost)
        if name == "cond":
            place = (*place, Box(name))
            inputs = self._read_branches(equation, inputs, place)
        label = clean(params["name"] if name == "name" else LABELS.get(name, name))
        node = Node(place, label, name, [var.aval for var in equation.outvars], inputs, _attributes(equation))
        self.nodes.append(node)
        return [(node, index) for index in range(len(equation.outvars))]

    def _read_branches(self, equation: Any, inputs: list[Source], place: Place) -> list[Source]:
        """What the node that chooses depends on: the number of a branch, and the outputs of each."""
        choice, *arguments = inputs
        outputs = [choice]
        for number, branch in enumerate(_programs(equation.params)):
            outputs += self.read(branch, arguments, (*place, Box(f"branch_{number}")))
        return outputs


def _inside(equation: Any, place: Place, outermost: bool) -> Place:
    """Where the body of a call or loop lies."""
    if equation.primitive.name in LOOPS:
        return (*place, Box(equation.primitive.name))
    name = equation.params.get("name", "<lambda>")
    return place if name == "<lambda>" or outermost else (*place, Box(clean(name)))


def _body(equation: Any) -> Any:
    """The program that an operation runs on its own arguments, or None. JAX has many that do, under changing names."""
    if equation.primitive.name == "while":
        return _program(equation.params["body_jaxpr"])  # its arguments are the last ones of the loop's
    programs = _programs(equation.params)
    if len(programs) != 1 or len(programs[0].outvars) != len(equation.outvars):
        return None
    outer, inner = ([atom.aval.shape for atom in atoms] for atoms in (equation.invars, programs[0].invars))
    # A turn of a scan sees slices of its arguments, a device of a shard_map its share; a reduction's program, numbers.
    fits = len(outer) == len(inner) if equation.primitive.name in ("scan", "shard_map") else outer == inner
    return programs[0] if fits else None


def _programs(params: dict[str, Any]) -> list[Any]:
    return [_program(program) for program in jex_core.jaxprs_in_params(params)]


def _program(program: Any) -> Any:
    return getattr(program, "jaxpr", program)  # closed over its constants, or not


def _is_plumbing(equation: Any) -> bool:
    """Whether an operation gives its argument on in another guise; of a random key, a key derived from it."""
    if equation.primitive.name == "reshape":
        before, after = ([n for n in atom.aval.shape if n != 1] for atom in (equation.invars[0], equation.outvars[0]))
        return before == after
    keys = all(jnp.issubdtype(var.aval.dtype, jax.dtypes.prng_key) for var in equation.outvars)
    return keys or equation.primitive.name in PLUMBING


def _attributes(equation: Any) -> dict[str, Any]:
    atoms = enumerate(equation.invars)
    constants = {f"argument_{i}": atom.val for i, atom in atoms if isinstance(atom, jex_core.Literal)}
    return {**constants, **{name: value for name, value in equation.params.items() if "jaxpr" not in name}}


def _parts(keys: Any) -> list[str]:
    """Names from the path of a leaf."""
    return [clean(part) for part in jax.tree_util.keystr(keys, simple=True, separator="/").split("/") if part]
