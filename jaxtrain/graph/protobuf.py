"""Nodes as the message that TensorBoard reads.

Imports its sibling `trace`; tensorboardX inside the function that needs it. The fact that surprises: the hierarchy is
nothing but the slashes in the names.
"""

import importlib
import string
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jaxtrain.graph.trace import Box, Node, Place

LONGEST = 120
"""Characters of an attribute: longer ones are lists of numbers, of no use in a side panel."""


def to_proto(nodes: list[Node]) -> Any:
    """A GraphDef of tensorboardX; inputs, shapes and attributes as TensorFlow writes them."""
    graph = importlib.import_module("tensorboardX.proto.graph_pb2").GraphDef()  # generated: type checkers see no names
    names = dict(zip(nodes, unique_names(nodes), strict=True))
    for node in nodes:
        drawn = graph.node.add(name=names[node], op=node.op)
        for source, index in filter(None, node.inputs):
            drawn.input.append(f"{names[source]}:{index}" if index else names[source])
        shapes = drawn.attr["_output_shapes"].list.shape
        for aval in node.avals:
            shape = shapes.add()
            for length in getattr(aval, "shape", ()):
                shape.dim.add(size=length if isinstance(length, int) else -1)
        dtype = ", ".join(str(getattr(aval, "dtype", "")) for aval in node.avals)
        for name, value in {"dtype": dtype, **node.attributes}.items():
            text = str(value)
            if value is not None and len(text) <= LONGEST and " at 0x" not in text:  # an address differs each time
                drawn.attr[name].s = text.encode()
    return graph


def unique_names(nodes: list[Node]) -> Iterator[str]:
    """A name for each node. A call of a single operation is no box: the operation has the call's name, as in relu."""
    places = [node.place[:depth] for node in nodes for depth in range(1, len(node.place) + 1)]
    population = Counter(places)
    # Scopes keep their names, which the parameters share; boxes and operations give way.
    named: dict[Place, str] = {(): ""}
    named |= {place: f"{'/'.join(map(str, place))}/" for place in places if not isinstance(place[-1], Box)}
    taken = Counter(name[:-1] for name in named.values())
    for node in nodes:
        place, label = (), node.label
        for part in node.place:
            inside = (*place, part)
            if isinstance(part, Box) and population[inside] == 1:
                label = part.name
                break
            if isinstance(part, Box) and inside not in named:
                named[inside] = f"{_unique(named[place] + part.name, taken)}/"
            place = inside
        yield _unique(named[place] + label, taken)


def _unique(name: str, taken: Counter[str]) -> str:
    """The name, or name.b, name.c, ...: TensorBoard stacks six operations or more whose names end in a number."""
    number = taken[name]
    while number and taken[f"{name}.{_letters(number)}"]:
        number += 1
    taken[name] = number + 1
    unique = f"{name}.{_letters(number)}" if number else name
    taken[unique] = taken[unique] or 1
    return unique


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    more, last = divmod(number, 26)
    return (_letters(more - 1) if more else "") + string.ascii_lowercase[last]
