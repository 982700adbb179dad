"""Which nodes are drawn, and in which box those lie that no scope places well.

Imports its sibling `trace`. The fact that surprises: a training step computes in its forward pass much that only the
gradient needs; unless that is moved, a layer looks unlike itself in evaluation.
"""

from jaxtrain.graph.trace import BACKWARD, INPUTS, Node, Place

OPTIMIZER = "optimizer"


def tidy(nodes: list[Node], results: list[Node]) -> list[Node]:
    """The nodes that a result depends on, the parameters and the results, each in its final place.

    Args:
      nodes: each after those that it depends on.
      results: what is returned.
    """
    needed = {*results}
    for node in [*results, *reversed(nodes)]:
        if node in needed:
            needed.update(source[0] for source in node.inputs if source is not None)
    kept = [node for node in nodes if node in needed or node.op == "Parameter"] + results
    _move_residuals(kept)
    _move_updates(kept)
    return kept


def _move_residuals(nodes: list[Node]) -> None:
    """What only the backward pass needs lies in it."""
    elsewhere: set[Node] = set()  # needed outside of it
    for node in reversed(nodes):
        computed = node.op not in INPUTS and node.op != "Result"
        if computed and node not in elsewhere and node.place[:1] != (BACKWARD,):
            node.place = (BACKWARD, *node.place)
        if node.place[:1] != (BACKWARD,):
            elsewhere.update(source[0] for source in node.inputs if source is not None)


def _move_updates(nodes: list[Node]) -> None:
    """What only one parameter's update needs lies in a box of its own: else the optimizer is one large knot."""
    parameters = {(*node.place, node.label) for node in nodes if node.op == "Parameter"}
    owners: dict[Node, set[Place | None]] = {node: set() for node in nodes}
    for node in reversed(nodes):
        owner = None
        if node.op == "Result":
            path = (*node.place, node.label)
            owner = next((path[i:] for i in range(len(path)) if path[i:] in parameters), None)
        elif node.place[:1] == (OPTIMIZER,) and node.op not in INPUTS:
            owner = owners[node].pop() if len(owners[node]) == 1 else None
            node.place = (OPTIMIZER, *(owner or ()), *node.place[1:])
        for source in node.inputs:
            if source is not None:
                owners[source[0]].add(owner)
