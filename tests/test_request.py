"""Requests are checked whole before anything is compiled, the user's own functions among them."""

import dataclasses

import flax.linen as nn
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.errors import RequestError
from jaxtrain.request import check_request, check_seed, check_values
from jaxtrain.step import make_setting

CONFIG = jt.Config(epochs=2, batch_size=8)


class Broken(nn.Module):
    """Fails in a way that Flax does not know of."""

    def __call__(self, image):
        return {}["nothing"]


@pytest.fixture(scope="module")
def data():
    image, label = np.zeros((40, 4, 4, 1), np.uint8), np.arange(40) % 4
    return jt.from_arrays(image, label)


NUMBERS = {
    "config.schedule.period is inf; it must be a finite": jt.Config(schedule=jt.Schedule(period=float("inf"))),
    "config.optimizer.epsilon is nan; it must be a finite": jt.Config(optimizer=jt.Adam(epsilon=float("nan"))),
    "config.max_chunk_seconds is inf": jt.Config(max_chunk_seconds=float("inf")),
    "config.eval_batch_size is 2147483648; it must be at most 2147483647": jt.Config(eval_batch_size=2**31),
}


@pytest.mark.parametrize("message", NUMBERS)
def test_a_number_that_no_program_can_hold_is_named(message):
    with pytest.raises(RequestError, match=message):
        check_values(NUMBERS[message], jt.Hyper())


def _bad_schedule(step):
    return step.nothing


OWN = {
    "the network Broken raised KeyError: 'nothing'": (Broken(), CONFIG),
    "config.optimizer <lambda> raised TypeError": (jt.MLP(4), dataclasses.replace(CONFIG, optimizer=lambda: None)),
    "config.schedule _bad_schedule raised AttributeError": (
        jt.MLP(4),
        dataclasses.replace(CONFIG, schedule=_bad_schedule),
    ),
}


@pytest.mark.parametrize("message", OWN)
def test_what_a_function_of_the_users_raises_is_one_sentence(data, message):
    model, config = OWN[message]
    with pytest.raises(RequestError) as raised:
        check_request(make_setting(model, data, config), data, jt.Hyper())
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert raised.value.__cause__ is not None
    if "lambda" not in message:  # which is called wrongly, and never reached
        assert str(raised.value).startswith(f"{__file__}:")


def test_what_a_part_of_ours_raises_stays_what_it_is(data, monkeypatch):
    monkeypatch.setattr(jt.MLP, "__call__", Broken.__call__)
    with pytest.raises(KeyError):
        check_request(make_setting(jt.MLP(4), data, CONFIG), data, jt.Hyper())


def test_steps_are_counted_in_int32(data):
    setting = make_setting(jt.MLP(4), data, dataclasses.replace(CONFIG, epochs=2**30))
    with pytest.raises(RequestError, match="give epochs of at most 2147483647 steps in all"):
        check_request(setting, data, jt.Hyper())


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70, 1.5, "1", True, None])
def test_a_seed_that_would_be_another_is_refused(seed):
    with pytest.raises(RequestError, match="seed is"):
        check_seed(seed)


def test_seeds_of_any_integer_type_are_taken():
    assert check_seed(np.uint32(7)) == 7 and check_seed(2**32 - 1) == 2**32 - 1
