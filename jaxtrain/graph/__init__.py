"""A JAX function as a picture for TensorBoard's GRAPHS tab: layers are boxes, shapes stand on the edges.

Imports `types`. Reading order: draw (what is offered), trace (a program to nodes), boxes (where they are best put),
protobuf (names, and the message). The fact that surprises: nothing needs to be said about the layers. Linen writes each
module's name on the operations that it traces, gradients included, and the parameters' paths are the same names.
"""

from jaxtrain.graph.draw import GraphError, graph_def, model_graph, root_of, step_graph

__all__ = ["GraphError", "graph_def", "model_graph", "root_of", "step_graph"]
