"""The table of layers and the check that a network fits the data, for shipped networks and a user's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxtrain.errors import RequestError
from jaxtrain.models import CNN, MLP, BatchNorm, Dropout, Linear, ResNet, check_model, model_table
from jaxtrain.types import Hyper, Model


class Own(nn.Module):
    """A user's: Flax layers, one of them called twice, a parameter in the root, hyper without a default."""

    width: int = 6
    num_outputs: int = 3

    @nn.compact
    def __call__(self, image, *, train, hyper):
        x = image.reshape(image.shape[0], 36)
        shared = nn.Dense(36, use_bias=False)
        x = shared(shared(x)) * self.param("gain", nn.initializers.ones, ())
        x = nn.relu(BatchNorm()(nn.Dense(self.width)(x), train=train))
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(self.num_outputs)(Dropout()(x, hyper.dropout_rate, train=train))


class Plain(nn.Module):
    """A user's without train or hyper."""

    @nn.compact
    def __call__(self, image):
        return nn.Dense(3)(image.reshape(image.shape[0], -1))


class Pair(nn.Module):
    """Gives two arrays."""

    @nn.compact
    def __call__(self, image):
        return image, image


MODELS = [
    (Linear(3), (6, 6, 1)),
    (MLP(3, (8,)), (6, 6, 1)),
    (CNN(3, (4, 4), hidden=8), (6, 6, 1)),
    (ResNet(3, (4, 8)), (6, 6, 1)),
    (Own(), (6, 6, 1)),
    (Plain(), (36,)),
]


def name(value):
    return type(value).__name__ if isinstance(value, nn.Module) else ""


@pytest.mark.parametrize("module, shape", MODELS, ids=name)
def test_rows_sum_to_the_number_of_parameters(module, shape):
    model = Model(module)
    params, _ = jax.eval_shape(lambda key: model.init(key, jnp.ones((1, *shape)), Hyper()), jax.random.key(0))
    rows = model_table(model, shape)
    assert sum(row.num_parameters for row in rows) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert rows[-1].output_shape == (1, 3)
    assert len({row.path for row in rows}) == len(rows)


def test_rows_are_in_the_order_of_the_calls_with_shapes():
    rows = model_table(Model(CNN(10, (4, 8), hidden=16)), (8, 8, 1))
    assert [(row.path, row.output_shape, row.num_parameters) for row in rows if row.num_parameters] == [
        ("Conv_0", (1, 8, 8, 4), 36),
        ("BatchNorm_0", (1, 8, 8, 4), 8),
        ("Conv_1", (1, 4, 4, 8), 288),
        ("BatchNorm_1", (1, 4, 4, 8), 16),
        ("Dense_0", (1, 16), 512),
        ("BatchNorm_2", (1, 16), 32),
        ("outputs", (1, 10), 170),
    ]
    paths = [row.path for row in model_table(Model(ResNet(blocks_per_stage=4)), (8, 8, 3))]
    assert paths.index("ResidualBlock_2/Conv_0") < paths.index("ResidualBlock_10/Conv_0")


@pytest.mark.parametrize("module, shape", MODELS, ids=name)
def test_networks_that_fit_pass(module, shape):
    check_model(Model(module), shape, 3, 4)
    check_model(Model(module), shape, 3, 4, Hyper(dropout_rate=0.5, input_dropout_rate=0.1))


# network, image shape, outputs, batch, the sentence
MISFITS = [
    (
        MLP(4, (8,)),
        (6, 6, 1),
        3,
        4,
        r"MLP gives outputs of shape \[4, 4\].*expected \[4, 3\].*set its number of outputs",
    ),
    (Own(), (5, 5, 1), 3, 4, r"Own cannot take images of shape \[5, 5, 1\]"),
    (CNN(3), (36,), 3, 4, r"CNN, images of shape \[36\].*\[B, H, W, C\]; it got \(4, 36\)"),
    (CNN(3, (4, 4, 4)), (6, 6, 1), 3, 4, r"leaves nothing of 1 x 1 positions"),
    (MLP(3, (8,)), (6, 6, 1), 3, 1, r"batch of 1: BatchNorm_0 got 1 value per channel"),
    (Own(), (6, 6, 1), 3, 1, r"batch of 1: BatchNorm_0 got 1 value per channel"),
    (MLP(3, [8]), (6, 6, 1), 3, 4, r"MLP cannot be hashed; make its fields tuples"),
    (MLP(3, kernel_init="hee"), (6, 6, 1), 3, 4, r"unknown initialisation 'hee'; choose one of he"),
    (Pair(), (6,), 3, 4, r"Pair gives outputs of shape tuple"),
]


@pytest.mark.parametrize("module, shape, num_outputs, batch_size, sentence", MISFITS)
def test_networks_that_do_not_fit_are_told_why(module, shape, num_outputs, batch_size, sentence):
    with pytest.raises(RequestError, match=sentence) as error:
        check_model(Model(module), shape, num_outputs, batch_size)
    assert "\n" not in str(error.value)


def test_one_image_is_enough_where_positions_are_averaged():
    check_model(Model(CNN(3, (4,), hidden=0)), (6, 6, 1), 3, 1)


def test_a_dropout_rate_out_of_range_is_refused_before_anything_is_compiled():
    with pytest.raises(RequestError, match="dropout rate is 1.5"):
        check_model(Model(MLP(3)), (6, 6, 1), 3, 4, Hyper(dropout_rate=1.5))


def test_a_mistake_in_a_users_code_keeps_its_own_error():
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, image):
            return image.no_such_name

    with pytest.raises(AttributeError, match="no_such_name"):
        check_model(Model(Broken()), (6, 6, 1), 3, 4)


def test_nothing_is_computed(monkeypatch):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    check_model(Model(MLP(3, (7,))), (5, 5, 1), 3, 4)
    model_table(Model(MLP(3, (7,))), (5, 5, 1))
    assert not [event for event in compiled if "backend_compile" in event]
