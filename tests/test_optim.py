import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.config import Adam, Schedule, Sgd
from jaxtrain.errors import RequestError
from jaxtrain.optim import (
    ema_update,
    fade,
    freeze,
    frozen_mask,
    init_ema,
    init_swa,
    kernel_mask,
    make_schedule,
    max_norm,
    optimizer,
    penalty,
    swa_update,
)
from jaxtrain.types import Hyper

COSINE = make_schedule(Schedule("cosine", unit="steps", warmup=10), 120, 10)
PLAIN = Hyper(learning_rate=0.01, weight_decay=0.1, momentum=0.8, beta2=0.99)
FULL = dataclasses.replace(PLAIN, clip_norm=3.0, max_norm=1.5)


def constant(step):
    return jnp.ones_like(step, jnp.float32)


def tree(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    conv = {"kernel": rng.normal(size=(3, 3, 2, 4)), "bias": rng.normal(size=4)}
    dense = {"kernel": rng.normal(size=(5, 3)), "bias": rng.normal(size=3)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), {"Conv_0": conv, "Dense_0": dense})


def as_arrays(hyper: Hyper) -> Hyper:
    return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), hyper)


def gradients(num_steps: int) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(100 + i) for i in range(num_steps)])


def train(make, hyper, params, grads) -> Any:
    """Parameters after one update for each gradient; `make(hyper)` is built inside the step."""

    def step(carry, gradient):
        params, opt_state = carry
        updates, opt_state = make(hyper).update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    # One compilation; op by op each of these tests would take a second.
    run = jax.jit(lambda hyper: jax.lax.scan(step, (params, make(hyper).init(params)), grads)[0][0])
    return run(hyper)


def close(left, right, rtol=1e-6, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


def neurons(kernel) -> np.ndarray:
    """Each neuron's incoming weights as a column."""
    return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])


def adamw_in_float64(theta, grads, hyper: Any, decay: str, decays: bool, epsilon: float = 1e-8):
    """Algorithm 2 of the AdamW paper, line by line, for one leaf."""
    b1, b2, alpha, decay_rate = (
        float(np.float32(x)) for x in (hyper.momentum, hyper.beta2, hyper.learning_rate, hyper.weight_decay)
    )
    theta, m, v = np.asarray(theta, np.float64), 0.0, 0.0
    for t, g in enumerate(np.asarray(grads, np.float64), start=1):
        step = t - 1
        eta = (step + 1) / 10 if step < 10 else (1 + np.cos(np.pi * (step - 10) / 110)) / 2
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        adam = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + epsilon)
        shrink = decay_rate * theta * decays * (alpha if decay == "lr" else 1)
        theta = theta - eta * (alpha * adam + shrink)
    return theta


@pytest.mark.parametrize("decay", ["lr", "paper"])
@pytest.mark.parametrize("num_steps", [1, 100])
def test_adamw_equals_float64_algorithm_2(decay, num_steps):
    params, grads = tree(0), gradients(num_steps)
    after = train(lambda h: optimizer(h, COSINE, Adam(decay=decay)), as_arrays(PLAIN), params, grads)
    decays = kernel_mask(params)
    want = jax.tree.map(lambda p, g, d: adamw_in_float64(p, g, PLAIN, decay, d), params, grads, decays)
    # 1 - b2^t of float32 is good to 6e-8 / (1 - b2), which a step of 0.01 carries into the parameters at about 1e-7.
    close(after, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (Adam(decay_mask="all"), optax.adamw(0.01, 0.8, 0.99, weight_decay=0.1)),
        (Adam(), optax.adamw(0.01, 0.8, 0.99, weight_decay=0.1, mask=kernel_mask)),
        (Adam(nesterov=True, epsilon=1e-4), optax.nadamw(0.01, 0.8, 0.99, 1e-4, weight_decay=0.1, mask=kernel_mask)),
        (Sgd(), optax.chain(optax.trace(0.8), optax.add_decayed_weights(0.1, kernel_mask), optax.scale(-0.01))),
    ],
)
def test_chain_equals_optax_where_optax_has_it(rule, theirs):
    params, grads = tree(0), gradients(20)
    ours = train(lambda h: optimizer(h, constant, rule), as_arrays(PLAIN), params, grads)
    close(ours, train(lambda _: theirs, None, params, grads))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_sgd_equals_optax_sgd(nesterov, momentum):
    hyper = as_arrays(Hyper(learning_rate=0.01, momentum=momentum))
    params, grads = tree(0), gradients(20)
    ours = train(lambda h: optimizer(h, constant, Sgd(nesterov=nesterov)), hyper, params, grads)
    close(ours, train(lambda _: optax.sgd(0.01, momentum, nesterov), None, params, grads))


def test_paper_decay_is_free_of_the_learning_rate():
    params, none = tree(0), jax.tree.map(jnp.zeros_like, gradients(1))
    for learning_rate in (1e-1, 1e-5):
        hyper = as_arrays(Hyper(learning_rate=learning_rate, weight_decay=0.1))
        after = train(lambda h: optimizer(h, constant, Adam(decay="paper")), hyper, params, none)
        close(after["Dense_0"]["kernel"], 0.9 * params["Dense_0"]["kernel"])
        close(after["Dense_0"]["bias"], params["Dense_0"]["bias"])


def test_members_under_vmap_equal_each_alone():
    members = [
        dataclasses.replace(
            FULL, learning_rate=10.0**-i, weight_decay=0.1 * i, momentum=0.5 + 0.1 * i, clip_norm=0.5 * i, max_norm=i
        )
        for i in (1, 2, 3)
    ]
    params, grads = tree(0), gradients(10)
    run = jax.jit(lambda h: train(lambda h: optimizer(h, COSINE, Adam()), h, params, grads))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(as_arrays, members))
    together = jax.vmap(run)(stacked)
    for i, member in enumerate(members):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], together), run(as_arrays(member)))


def test_other_numbers_do_not_trace_again():
    traces = []

    @jax.jit
    def step(hyper, params, opt_state, gradient):
        traces.append(1)
        updates, opt_state = optimizer(hyper, COSINE, Adam()).update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = tree(0), optimizer(as_arrays(FULL), COSINE).init(tree(0))
    for rate in (1e-3, 1e-1, 0.0):
        params, opt_state = step(as_arrays(dataclasses.replace(FULL, learning_rate=rate)), params, opt_state, tree(1))
    assert len(traces) == 1


@pytest.mark.parametrize("rule", [Adam(), Adam(decay="paper"), Sgd(nesterov=True)])
def test_structure_of_the_state_depends_on_which_fields_are_none_only(rule):
    ones, params = jax.tree.map(lambda _: jnp.ones(()), FULL), tree(0)
    structures = [jax.tree.structure(optimizer(h, COSINE, rule).init(params)) for h in (FULL, ones, as_arrays(FULL))]
    assert structures[0] == structures[1] == structures[2]
    step = jax.eval_shape(lambda h: optimizer(h, COSINE, rule).init(params), as_arrays(FULL))
    assert jax.tree.structure(step) == structures[0]


def test_clipping_bounds_the_norm_over_all_parameters_and_leaves_short_gradients():
    params, gradient = tree(0), tree(1)
    norm = float(optax.tree.norm(gradient))
    for bound, length in [(0.25, 0.25), (1e3, norm)]:
        hyper = as_arrays(Hyper(learning_rate=1.0, momentum=None, clip_norm=bound))
        transformation = optimizer(hyper, constant, Sgd())
        updates = jax.jit(lambda state, t=transformation: t.update(gradient, state, params)[0])(
            transformation.init(params)
        )
        np.testing.assert_allclose(optax.tree.norm(updates), length, rtol=1e-6)
        close(updates, jax.tree.map(lambda g, scale=length / norm: -scale * g, gradient))


def test_max_norm_bounds_every_neuron_after_the_update_and_touches_no_other():
    params, update, bound = tree(0), tree(1), 3.2
    shortened: Any = max_norm(jnp.asarray(bound)).update(update, optax.EmptyState(), params)[0]
    for layer, num_bound in [("Conv_0", 4), ("Dense_0", 1)]:
        before = neurons(params[layer]["kernel"] + update[layer]["kernel"])
        after = neurons(params[layer]["kernel"] + shortened[layer]["kernel"])
        length = np.linalg.norm(before, axis=0)
        assert np.sum(length > bound) == num_bound
        np.testing.assert_allclose(after, before * np.minimum(1, bound / length), rtol=1e-5, atol=1e-6)
        given, made = neurons(update[layer]["kernel"]), neurons(shortened[layer]["kernel"])
        np.testing.assert_array_equal(made[:, length <= bound], given[:, length <= bound])
        np.testing.assert_array_equal(shortened[layer]["bias"], update[layer]["bias"])


def test_max_norm_of_zero_weights_is_finite():
    zero = jax.tree.map(jnp.zeros_like, tree(0))
    updates, _ = max_norm(1.0).update(zero, optax.EmptyState(), zero)
    close(updates, zero)


def test_max_norm_holds_in_the_chain():
    hyper = as_arrays(dataclasses.replace(FULL, learning_rate=0.5))
    after = train(lambda h: optimizer(h, constant, Adam()), hyper, tree(0), gradients(10))
    for layer in ("Conv_0", "Dense_0"):
        assert np.linalg.norm(neurons(after[layer]["kernel"]), axis=0).max() <= 1.5 * (1 + 1e-6)


def test_kernels_are_told_by_shape_and_name():
    names = {"kernel": (3, 2), "w": (3, 2), "embedding": (9, 4), "bias": (3, 2), "scale": (3, 2), "b": (3,)}
    mask = kernel_mask({"Layer_0": {name: jnp.zeros(shape) for name, shape in names.items()}})
    assert {name for name, is_kernel in mask["Layer_0"].items() if is_kernel} == {"kernel", "w", "embedding"}


def test_penalty_has_the_factors_of_cs231n():
    params = tree(0)
    value, gradient = jax.jit(jax.value_and_grad(penalty))(params, as_arrays(Hyper(l1=0.1, l2=0.3)))
    kernels = [np.float64(params[layer]["kernel"]) for layer in params]
    np.testing.assert_allclose(value, sum(0.1 * np.abs(w).sum() + 0.15 * (w**2).sum() for w in kernels), rtol=1e-6)
    for layer in params:
        w = params[layer]["kernel"]
        close(gradient[layer]["kernel"], 0.1 * jnp.sign(w) + 0.3 * w)
        assert not gradient[layer]["bias"].any()
    assert penalty(params, Hyper()) == 0


def test_frozen_parameters_stay_bit_for_bit_and_the_rest_learns_as_if_alone():
    params, grads = tree(0), gradients(10)
    mask = frozen_mask(params, ("Conv_0",))
    hyper = as_arrays(FULL)
    after = train(lambda h: freeze(optimizer(h, COSINE, Adam()), mask), hyper, params, grads)
    jax.tree.map(np.testing.assert_array_equal, after["Conv_0"], params["Conv_0"])
    rest = {"Dense_0": params["Dense_0"]}, {"Dense_0": grads["Dense_0"]}
    close(after["Dense_0"], train(lambda h: optimizer(h, COSINE, Adam()), hyper, *rest)["Dense_0"])


def test_frozen_means_whole_names_at_the_beginning_of_a_path():
    leaf = jnp.zeros((2, 2))
    params = {"Dense_1": {"kernel": leaf}, "Dense_10": {"kernel": leaf}, "Block_1": {"Dense_1": {"kernel": leaf}}}
    mask = frozen_mask(params, ("Dense_1", "Block_1/Dense_1/"))
    assert mask == {
        "Dense_1": {"kernel": True},
        "Dense_10": {"kernel": False},
        "Block_1": {"Dense_1": {"kernel": True}},
    }
    assert not any(jax.tree.leaves(frozen_mask(params, ())))


@pytest.mark.parametrize(("entry", "nearest"), [("Dens_0", "Dense_0"), ("Conv_0/kernal", "Conv_0/kernel"), ("", "")])
def test_a_frozen_path_that_is_nowhere_is_refused(entry, nearest):
    with pytest.raises(RequestError, match=f"nearest: .*{nearest}"):
        frozen_mask(tree(0), ("Dense_0", entry))


@pytest.mark.parametrize("steps_back", [0, 1])
def test_a_fade_falls_linearly_to_zero_and_touches_nothing_else(steps_back):
    gradient, state = tree(0), fade("Dense_0/bias", 4).init(tree(0))
    shares = []
    for _ in range(6):
        updates, state = jax.jit(fade("Dense_0/bias", 4, steps_back).update)(gradient, state)
        close(updates["Conv_0"], gradient["Conv_0"])
        close(updates["Dense_0"]["kernel"], gradient["Dense_0"]["kernel"])
        shares.append(float(updates["Dense_0"]["bias"][0] / gradient["Dense_0"]["bias"][0]))
    wanted = [max(0.0, 1 - max(step - steps_back, 0) / 4) for step in range(6)]
    np.testing.assert_allclose(shares, wanted, atol=1e-6)


def test_a_fade_is_of_a_chain_that_freezes_other_parts():
    params, hyper = tree(0), as_arrays(FULL)
    mask = frozen_mask(params, ("Dense_0/kernel",))
    after = train(
        lambda h: freeze(optax.chain(optimizer(h, COSINE, Adam()), fade("Dense_0", 3)), mask),
        hyper,
        params,
        gradients(10),
    )
    short = jax.tree.map(lambda leaf: leaf[:3], gradients(10))
    stopped = train(
        lambda h: freeze(optax.chain(optimizer(h, COSINE, Adam()), fade("Dense_0", 3)), mask), hyper, params, short
    )
    np.testing.assert_array_equal(after["Dense_0"]["kernel"], params["Dense_0"]["kernel"])
    np.testing.assert_array_equal(after["Dense_0"]["bias"], stopped["Dense_0"]["bias"])
    assert np.any(after["Conv_0"]["kernel"] != stopped["Conv_0"]["kernel"])


def test_ema_follows_its_warmup_and_then_its_decay():
    ema, want = init_ema(tree(0)), jax.tree.map(np.float64, tree(0))
    update = jax.jit(ema_update)
    for step in range(100):
        params = tree(step)
        ema = update(ema, params, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        want = jax.tree.map(lambda w, p, d=decay: d * w + (1 - d) * np.float64(p), want, params)
    close(ema, want)


def test_swa_is_the_mean_of_what_it_was_given():
    swa = init_swa(tree(0))
    first = swa_update(swa, tree(1))
    jax.tree.map(np.testing.assert_array_equal, first["params"], tree(1))
    for seed in range(1, 8):
        swa = jax.jit(swa_update)(swa, tree(seed))
    assert swa["count"] == 7
    close(swa["params"], jax.tree.map(lambda *x: np.mean(np.asarray(x), axis=0), *[tree(i) for i in range(1, 8)]))
