import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import EarlyStopping, Plateau
from jaxtrain.optim import should_stop, update_control
from jaxtrain.types import init_control

NAN, INF = float("nan"), float("inf")


def follow(metrics, plateau=None, early=None):
    """The controls after each evaluation; evaluation i is at step 10 * (i + 1)."""

    def evaluate(control, value):
        metric, step = value
        control = update_control(control, metric, step, plateau=plateau, early=early)
        return control, control

    steps = 10 * jnp.arange(1, len(metrics) + 1)
    return jax.lax.scan(evaluate, init_control(), (jnp.asarray(metrics, jnp.float32), steps))[1]


@pytest.mark.parametrize(
    ("metrics", "best", "best_step", "since"),
    [
        ([0.1, 0.3, 0.2], 0.3, 20, 1),
        ([0.3, 0.3, 0.3], 0.3, 10, 2),
        ([NAN, -5.0, NAN], -5.0, 20, 1),
        ([NAN, NAN], -INF, 0, 2),
        ([-INF, INF, -1.0], -1.0, 30, 0),
    ],
)
def test_best_is_the_first_largest_finite_value(metrics, best, best_step, since):
    control = jax.tree.map(lambda leaf: leaf[-1], follow(metrics))
    assert (control.best_metric, control.best_step) == (jnp.float32(best), best_step)
    assert control.evals_since_best == since


def test_patience_ignores_gains_below_min_delta_but_best_does_not():
    early = EarlyStopping(patience=2, min_delta=0.1)
    controls = follow([0.5, 0.55, 0.6, 0.8], early=early)
    np.testing.assert_allclose(controls.best_metric, [0.5, 0.55, 0.6, 0.8])
    assert list(controls.evals_since_best) == [0, 1, 2, 0]
    assert list(jax.vmap(lambda c: should_stop(c, early))(controls)) == [False, False, True, False]
    assert not should_stop(init_control(), None)


def test_rate_is_reduced_after_patience_evaluations_and_the_count_begins_again():
    plateau = Plateau(factor=0.5, patience=2)
    metrics = [0.9, 0.5, 0.5, 0.6, 0.6, 0.6, NAN, NAN]
    #          best  1    cut  up   1    cut  1   cut
    scale = follow(metrics, plateau).rate_scale
    np.testing.assert_array_equal(scale, [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125])
    np.testing.assert_array_equal(follow(metrics).rate_scale, 1)


def test_small_gains_add_up_on_plateau():
    plateau = Plateau(factor=0.5, patience=3, min_delta=0.1)
    assert follow([0.1 * 0.7 * i for i in range(12)], plateau).rate_scale[-1] == 1
    assert follow([0.1 * 0.3 * i for i in range(12)], plateau).rate_scale[-1] < 1


def test_members_permuted_give_results_permuted():
    metrics = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    metrics[2, 3], metrics[4, :] = NAN, NAN
    run = jax.vmap(lambda m: follow(m, Plateau(patience=2), EarlyStopping(min_delta=0.1)))
    order = np.array([3, 0, 4, 2, 1])
    left, right = run(metrics[order]), jax.tree.map(lambda leaf: leaf[order], run(metrics))
    for field in dataclasses.fields(left):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


def test_types_do_not_change():
    before = init_control()
    after = update_control(before, jnp.float32(0.5), jnp.int32(3), plateau=Plateau(), early=EarlyStopping())
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
