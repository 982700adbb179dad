"""Laws of every graph, for networks, training steps and each way in which JAX puts a program into a program."""

import functools
import graphlib
import re
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxtrain.config import Augment, Config
from jaxtrain.graph import GraphError, graph_def, model_graph, root_of, step_graph, trace
from jaxtrain.graph.protobuf import to_proto
from jaxtrain.models import CNN, MLP, Dropout, Linear, ResNet, model_table
from jaxtrain.step import Setting, init_state, train_step
from jaxtrain.tasks import Classification
from jaxtrain.types import Batch, Hyper, Model

SHAPE = (8, 8, 1)


class Transformer(nn.Module):
    """Two blocks of attention over the rows of an image."""

    @nn.compact
    def __call__(self, image, *, train, hyper):
        x = nn.Dense(8, name="embed")(image.reshape(image.shape[0], 8, 8))
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
            x = x + Dropout()(nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x)))), hyper.dropout_rate, train=train)
        return nn.Dense(10)(x.mean(1))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.relu(nn.Dense(8)(x)), None


class Scanned(nn.Module):
    """A stack of three blocks whose parameters have a first axis, then one that is computed again for its gradient."""

    @nn.compact
    def __call__(self, image):
        x = nn.Dense(8)(image.reshape(image.shape[0], -1))
        stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = stack(name="stack")(x, None)
        x, _ = nn.remat(Block)(name="again")(x, None)
        return nn.Dense(10)(x)


class Residual(nn.Module):
    """A user's, of Flax's own layers, with a method and a parameter of the root."""

    def setup(self):
        self.convs = [nn.Conv(4, (3, 3)) for _ in range(3)]
        self.norm = nn.BatchNorm()
        self.gain = self.param("gain", nn.initializers.ones, ())
        self.head = nn.Dense(10)

    def __call__(self, image, *, train):
        x = self.convs[0](image)
        for conv in self.convs[1:]:
            x = x + nn.relu(conv(x)) * self.gain
        return self.decide(self.norm(x, use_running_average=not train))

    def decide(self, x):
        return self.head(x.mean((1, 2)))


NETWORKS = [
    Linear(),
    MLP(hidden=(8, 8)),
    CNN(features=(4, 4), hidden=8),
    ResNet(widths=(4, 8)),
    Transformer(),
    Scanned(),
    Residual(),
]
networks = pytest.mark.parametrize("module", NETWORKS, ids=lambda module: type(module).__name__)


def of_shape(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@functools.cache
def step_of(module, batch_size=4, **config):
    """A training step, and the shapes of a state and a batch."""
    setting = Setting(Model(module), Classification(10), Config(batch_size=batch_size, **config), SHAPE, 100)
    state = jax.eval_shape(
        functools.partial(init_state, setting), jax.random.key(0), Hyper(dropout_rate=0.1, weight_decay=0.1)
    )
    batch = Batch(of_shape(batch_size, *SHAPE), of_shape(batch_size, dtype=jnp.int32), of_shape(batch_size))
    return functools.partial(train_step, setting), state, batch


@functools.cache
def forward_graph(module):
    _, state, _ = step_of(module)
    return model_graph(Model(module), state.params, state.batch_stats, of_shape(1, *SHAPE), state.hyper)


@functools.cache
def training_graph(module, **config):
    step, state, batch = step_of(module, **config)
    return step_graph(step, state, batch, root_of(Model(module)))


def by_name(graph):
    return {node.name: node for node in graph.node}


def ops(graph):
    return Counter(node.op for node in graph.node)


def scopes(graph):
    """Every box: a/b and a of a node a/b/c."""
    paths = [node.name.split("/") for node in graph.node]
    return {"/".join(path[:depth]) for path in paths for depth in range(1, len(path))}


def shapes(node):
    return [tuple(dim.size for dim in shape.dim) for shape in node.attr["_output_shapes"].list.shape]


def assert_sound(graph, boxes=True):
    """Names are unique, legal and no box's; inputs exist; there is no cycle, nor one of what is seen inside a box."""
    nodes = by_name(graph)
    assert nodes and len(nodes) == len(graph.node)
    assert not nodes.keys() & scopes(graph)
    assert all(re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.\-]*(/[A-Za-z0-9.][A-Za-z0-9_.\-]*)*", name) for name in nodes)
    seen = {}
    for node in graph.node:
        for name, _, output in (given.partition(":") for given in node.input):
            assert int(output or 0) < len(shapes(nodes[name]))
            above, below = name.split("/"), node.name.split("/")
            level = next(i for i, (a, b) in enumerate(zip(above, below, strict=False)) if a != b) if boxes else 99
            seen.setdefault("/".join(below[: level + 1]), set()).add("/".join(above[: level + 1]))
    graphlib.TopologicalSorter(seen).prepare()


def assert_parameters_lie_in_their_layers(graph, params):
    drawn = {node.name: shapes(node) for node in graph.node if node.op == "Parameter"}
    leaves = jax.tree.leaves_with_path(params)
    assert drawn == {jax.tree_util.keystr(path, simple=True, separator="/"): [leaf.shape] for path, leaf in leaves}


@networks
def test_a_network_is_drawn_with_its_layers_as_boxes(module):
    graph = forward_graph(module)
    assert_sound(graph)
    assert_parameters_lie_in_their_layers(graph, step_of(module)[1].params)
    layers = {row.path for row in model_table(Model(module), SHAPE, Hyper(dropout_rate=0.1)) if row.path}
    assert layers <= scopes(graph)
    assert root_of(Model(module)) not in scopes(graph)


@networks
def test_shapes_are_those_of_the_table(module):
    nodes = by_name(forward_graph(module))
    for path, _, output_shape, _ in model_table(Model(module), SHAPE):
        inside = [node for name, node in nodes.items() if name.startswith(f"{path}/") or not path]
        assert output_shape == () or output_shape in [shape for node in inside for shape in shapes(node)], path
    assert shapes(nodes["result"]) == [(1, 10)] and shapes(nodes["image"]) == [(1, *SHAPE)]


@networks
@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_a_training_step_is_drawn_with_loss_backward_and_optimizer(module, num_micro_batches):
    graph = training_graph(module, num_micro_batches=num_micro_batches)
    assert_sound(graph)
    assert_parameters_lie_in_their_layers(graph, step_of(module)[1].params)
    boxes = scopes(graph)
    assert {"batch", "state", "loss", "backward", "backward/loss", "optimizer", "metric_sums", "updated_state"} <= boxes
    layers = {"/".join(node.name.split("/")[:-1]) for node in graph.node if node.op == "Parameter"} - {""}
    for place in ("", "backward/", "optimizer/"):
        assert {place + layer for layer in layers} <= boxes


def test_results_have_the_shapes_of_the_function():
    step, state, batch = step_of(MLP(hidden=(8,)))
    results = jax.tree.leaves_with_path(jax.eval_shape(step, state, batch))
    drawn = [node for node in step_graph(step, state, batch, "MLP").node if node.op == "Result"]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in results}
    names = {node.name.replace("updated_state", "0").replace("metric_sums", "1"): shapes(node) for node in drawn}
    assert names.items() <= {name: [shape] for name, shape in named.items()}.items()
    assert not {"0/key", "0/hyper/learning_rate"} & names.keys()  # as they were
    assert {"0/params/Dense_0/kernel", "0/step", "1/sums/loss"} <= names.keys()


def test_the_backward_pass_keeps_what_it_alone_needs():
    graph = training_graph(MLP(hidden=(8,), batch_norm=False))
    assert not [node.name for node in graph.node if node.op == "gt" and not node.name.startswith("backward/")]
    needed = {name for node in graph.node if not node.name.startswith("backward/") for name in node.input}
    for node in graph.node:
        if node.op not in trace.INPUTS and not node.name.startswith("backward/"):
            assert node.op == "Result" or needed & {node.name, *(f"{node.name}:{i}" for i in range(9))}, node.name


def test_random_keys_are_mere_edges():
    graph = training_graph(MLP(hidden=(8,)), augment=Augment(crop=1))
    drawn = {op for op in ops(graph) if op.startswith("random_")}
    assert drawn == {"random_bits"}
    assert "augment" in scopes(graph)
    consumers = [node.name for node in graph.node if "state/key" in node.input]
    assert "Dropout_0/random_bits" in consumers and all("random_bits" in name for name in consumers)


def test_calls_of_one_name_are_drawn_apart():
    graph = graph_def(lambda x: jax.nn.relu(jnp.sin(jax.nn.relu(x))), of_shape(3))
    assert [node.name for node in graph.node] == ["argument_0", "relu", "sin", "relu.b", "result"]

    graph = graph_def(lambda x: jax.nn.silu(jnp.sin(jax.nn.silu(x))), of_shape(3))
    assert {"silu", "silu.b"} == scopes(graph)
    assert_sound(graph)


def test_no_names_are_alike_but_for_a_number():
    graph = graph_def(lambda x: functools.reduce(lambda x, _: jnp.sin(x), range(30), x), of_shape(3), names="x")
    names = list(by_name(graph))
    assert names[:4] == ["x", "sin", "sin.b", "sin.c"] and names[26:29] == ["sin.z", "sin.aa", "sin.ab"]


def scan(x):
    def body(carry, row):
        with jax.named_scope("cell"):
            return carry * row + x.sum(), carry

    return lax.scan(body, x[0], x)


@jax.custom_vjp
def custom(x):
    return jnp.sin(x) * x


custom.defvjp(lambda x: (jnp.sin(x) * x, x), lambda x, g: (g * jnp.cos(x),))


def scoped(x):
    with jax.named_scope("outer"):
        return jax.jit(lambda y: jax.nn.silu(y) + 1)(x)


CONTROL = {
    "cond": lambda x: lax.cond(x.sum() > 0, lambda x: jnp.sin(x) + 1, lambda x: x, x),
    "switch": lambda x: lax.switch(x[0, 0].astype(int), [jnp.sin, jnp.cos, lambda x: x * x + 1], x),
    "while": lambda x: lax.while_loop(lambda c: c.sum() < x.sum(), lambda c: jnp.sin(c) * x + c, x),
    "fori": lambda x: lax.fori_loop(0, x[0, 0].astype(int), lambda i, c: c * x + i, x),
    "scan": scan,
    "associative": lambda x: lax.associative_scan(jnp.multiply, x),
    "custom_jvp": lambda x: jax.nn.relu(x) + jax.nn.silu(x),
    "custom_vjp": custom,
    "remat": jax.checkpoint(lambda x: jnp.sin(jnp.cos(x))),
    "jit": jax.jit(lambda x: jax.jit(jnp.sin)(x) * 2),
    "inline": jax.jit(lambda x: jnp.sin(x) * 2, inline=True),
    "scoped": scoped,
    "vmap": jax.vmap(scoped),
    "solve": lambda x: jnp.linalg.solve(x @ x.T + jnp.eye(4), x),
    "reduce": lambda x: lax.reduce(x, 0.0, lambda a, b: a + b * b, (0,)),
    "sort": lambda x: jnp.sort(x) * jnp.argsort(x) * x,
}


WITHOUT_GRADIENT = {"while", "fori", "reduce"}
CASES = [
    (name, how)
    for name in CONTROL
    for how in ("none", "grad", "twice")
    if how == "none" or name not in WITHOUT_GRADIENT
]


@pytest.mark.parametrize("name, transform", CASES)
def test_programs_in_programs_are_drawn(name, transform):
    def total(x):
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(CONTROL[name](x)))

    function = {"none": CONTROL[name], "grad": jax.grad(total), "twice": jax.grad(lambda x: jax.grad(total)(x).sum())}
    graph = graph_def(function[transform], of_shape(4, 4))
    assert_sound(graph, boxes=transform != "twice")  # a gradient's gradient returns to the boxes of the gradient
    assert shapes(graph.node[0]) == [(4, 4)] and graph.node[-1].op == "Result"


def test_a_loop_is_its_body_once():
    def function(x, limit):
        return lax.while_loop(lambda c: c.sum() < limit, lambda c: jnp.sin(c) * x, jnp.cos(x))

    nodes = by_name(graph_def(function, of_shape(3), of_shape(), names=("x", "limit")))
    assert list(nodes) == ["x", "cos", "while/sin", "while/mul", "result"]
    assert list(nodes["while/mul"].input) == ["while/sin", "x"]
    assert "cell" in scopes(graph_def(scan, of_shape(4, 4)))


def test_a_choice_is_its_branches():
    nodes = by_name(graph_def(CONTROL["switch"], of_shape(4, 4), names="x"))
    branches = ["cond/branch_0", "cond/branch_1", "cond/branch_2/add"]
    assert list(nodes["cond/cond"].input)[1:] == branches
    assert list(nodes["cond/branch_2/mul"].input) == ["x", "x"]


def test_what_is_computed_again_lies_apart():
    assert {"again/Dense_0", "backward/again/Dense_0", "backward/recomputed/again/Dense_0"} <= scopes(
        training_graph(Scanned())
    )


def test_a_call_that_is_all_a_formula_and_a_reduction_of_ones_own_are_no_boxes():
    def everything(x):
        return jnp.einsum("ij,jk->ik", x, x) + lax.reduce(x, 0.0, lambda a, b: a + b * b, (0,))[None]

    graph = graph_def(jax.jit(everything), of_shape(3, 3), names="x")
    assert list(by_name(graph)) == ["x", "matmul", "reduce", "add", "result"]


def test_what_no_result_needs_is_left_out():
    def function(x, y):
        jnp.sin(x)
        return {"same": y, "fixed": jnp.ones(3), "sum": x + x}

    assert [node.name for node in graph_def(function, of_shape(3), of_shape(3), names="xy").node] == [
        "x",
        "add",
        "result/sum",
    ]


def test_devices_shares_and_typed_and_raw_keys_are_no_obstacle():
    mesh = Mesh(np.array(jax.devices()[:1]), ("axis",))
    spec = PartitionSpec("axis")
    shares = jax.shard_map(lambda x: jnp.sin(x) + 1, mesh=mesh, in_specs=spec, out_specs=spec)
    assert_sound(graph_def(shares, of_shape(4)))

    def draw(key):
        return jax.random.split(key), jax.random.normal(jax.random.fold_in(key, 3), (2,))

    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        assert_sound(graph_def(draw, key))


def test_equal_functions_give_equal_bytes():
    first = training_graph(CNN(features=(4,), hidden=8)).SerializeToString(deterministic=True)
    jax.clear_caches()
    training_graph.cache_clear()
    assert training_graph(CNN(features=(4,), hidden=8)).SerializeToString(deterministic=True) == first


def test_attributes_that_differ_each_time_or_fill_the_panel_are_not_written():
    attributes = {"axis": 1, "none": None, "object": object(), "long": "x" * 1000}
    (node,) = to_proto([trace.Node((), "sum", "reduce_sum", [of_shape(3)], [], attributes)]).node
    assert set(node.attr) == {"axis", "dtype", "_output_shapes"} and node.attr["axis"].s == b"1"


def test_what_is_traced_already_is_not_traced_again():
    traces = []

    def function(x):
        traces.append(x)
        return jnp.sin(x) * 2

    traced = jax.jit(function, inline=True)
    jax.jit(lambda x: traced(x) + 1).trace(of_shape(3))
    assert list(by_name(graph_def(traced, of_shape(3), names="x"))) == ["x", "sin", "mul", "result"]
    assert len(traces) == 1


def test_a_program_that_is_not_understood_is_told_apart_from_a_mistake_in_the_function(monkeypatch):
    def mistaken(x):
        raise KeyError("a user's own")

    with pytest.raises(KeyError, match="a user's own"):
        graph_def(mistaken, of_shape(3))
    monkeypatch.delattr(trace.jex_core, "jaxprs_in_params")
    with pytest.raises(GraphError, match=f"jax {jax.__version__} traced a program that cannot be drawn"):
        graph_def(jnp.sin, of_shape(3))
