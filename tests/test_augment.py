"""Augmentations do what they are named for, bare and compiled, and nothing else."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.augment import (
    Turn,
    alternating_flip,
    augment,
    check_augment,
    check_tta,
    cutout,
    mixup,
    random_crop,
    random_flip,
    sample_share,
    views,
)
from jaxtrain.config import Augment
from jaxtrain.errors import RequestError
from jaxtrain.types import Batch, Hyper

KEYS = jax.random.split(jax.random.key(0), 200)
IMAGE = jax.random.normal(jax.random.key(1), (7, 6, 2)) + 3.0  # all pixels differ, none is 0


def _many(function):
    return np.asarray(jax.jit(jax.vmap(function, (0, None)))(KEYS, IMAGE))


def _batch(num=16):
    image = jax.random.normal(jax.random.key(2), (num, 7, 6, 2))
    return Batch(image, jnp.arange(num) % 3, jnp.ones(num))


def test_a_flip_flips_about_half_and_only_flips():
    flipped = [np.array_equal(x, np.asarray(IMAGE)[:, ::-1]) for x in _many(random_flip)]
    same = [np.array_equal(x, IMAGE) for x in _many(random_flip)]
    assert sum(flipped) + sum(same) == 200 and 70 < sum(flipped) < 130


def mirrored(epoch, key=0, index=None):
    """Which of 200 examples are mirrored in an epoch; that each is whole is seen to."""
    index = jnp.arange(200) if index is None else index
    flip = jax.jit(jax.vmap(alternating_flip, (None, None, 0, None)))
    seen = np.asarray(flip(jax.random.key(key), IMAGE, index, jnp.int32(epoch)))
    turned = np.array([np.array_equal(x, np.asarray(IMAGE)[:, ::-1]) for x in seen])
    assert all(np.array_equal(x, IMAGE) for x in seen[~turned])
    return turned


def test_an_alternating_flip_shows_both_forms_in_any_two_epochs():
    first = mirrored(0)
    assert 70 < first.sum() < 130
    for epoch in range(1, 5):
        np.testing.assert_array_equal(mirrored(epoch), first ^ (epoch % 2 == 1))


def test_which_form_comes_first_belongs_to_the_example_and_the_key():
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(mirrored(3, index=jnp.asarray(order)), mirrored(3)[order])
    assert 60 < (mirrored(0, key=1) != mirrored(0)).sum() < 140


def test_alternating_within_a_batch_is_that_of_each_example():
    batch, config = _batch()._replace(index=jnp.arange(16) + 5), Augment(flip=True, alternate=True)
    turn = Turn(jax.random.key(7), jnp.int32(1))
    found = compiled_augment(jax.random.key(0), batch, config, Hyper(), turn=turn)
    wanted = [alternating_flip(turn.key, x, i, 1) for x, i in zip(batch.image, batch.index, strict=True)]
    np.testing.assert_array_equal(found.image, jnp.stack(wanted))
    other = compiled_augment(jax.random.key(1), batch, config, Hyper(), turn=turn)
    np.testing.assert_array_equal(found.image, other.image)  # nothing of it is drawn anew


@pytest.mark.parametrize("turn", [None, Turn(jax.random.key(0), jnp.int32(0))])
def test_an_alternating_flip_of_unknown_examples_is_refused(turn):
    with pytest.raises(RequestError, match="alternate.*index"):
        augment(jax.random.key(0), _batch(), Augment(flip=True, alternate=True), Hyper(), turn=turn)


@pytest.mark.parametrize("tta", ["none", "mirror", "mirror_translate"])
def test_views_are_weighted_to_one_and_begin_with_the_image(tta):
    image = _batch().image
    seen, weights = views(image, tta)
    assert sum(weights) == 1 and len(seen) == 16 * len(weights)
    np.testing.assert_array_equal(seen[:16], image)


def test_the_six_views_are_mirrored_and_moved_by_a_pixel():
    image = _batch().image
    seen, weights = views(image, "mirror_translate")
    padded = np.pad(np.asarray(image), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    plain = [padded[:, at : at + 7, at : at + 6] for at in (1, 0, 2)]
    wanted = [view for window in plain for view in (window, window[:, :, ::-1])]
    np.testing.assert_array_equal(seen, np.concatenate(wanted))
    assert weights == [1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8]


@pytest.mark.parametrize(
    "tta, shape, message",
    [
        ("mirror", (9,), "images"),
        ("mirror_translate", (1, 9, 3), "side"),
        ("five", (9, 9, 3), "none, mirror, mirror_translate"),
    ],
)
def test_views_that_there_are_not_are_refused(tta, shape, message):
    with pytest.raises(RequestError, match=message):
        check_tta(tta, shape)
    check_tta("none", shape)


@pytest.mark.parametrize("pad", [1, 4])  # 5, the most, gives some windows twice
def test_a_crop_is_a_window_of_the_reflected_padding(pad):
    padded = np.pad(np.asarray(IMAGE), ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    windows = {padded[r : r + 7, c : c + 6].tobytes(): (r, c) for r in range(2 * pad + 1) for c in range(2 * pad + 1)}
    places = [windows[x.tobytes()] for x in _many(partial(random_crop, pad=pad))]
    assert {r for r, _ in places} == {c for _, c in places} == set(range(2 * pad + 1))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_cutout_clears_one_square_and_leaves_the_rest(size):
    for x in _many(partial(cutout, size=size)):
        rows, columns, _ = np.nonzero(x == 0)
        assert 1 <= np.ptp(rows) + 1 <= size and 1 <= np.ptp(columns) + 1 <= size
        hole = np.zeros((7, 6, 1), bool)
        hole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        np.testing.assert_array_equal(x, np.where(hole, 0, IMAGE))


def test_cutouts_reach_every_pixel():
    assert (_many(partial(cutout, size=2)) == 0).any(0).all()


compiled_augment = jax.jit(augment, static_argnames=("config", "num_classes"))
compiled_mixup = jax.jit(mixup, static_argnames="num_classes")


def test_mixup_mixes_images_and_labels_by_the_same_share():
    batch = _batch()._replace(label=jnp.arange(16))  # so that the labels tell who was mixed with whom
    for seed in range(3):
        mixed = compiled_mixup(jax.random.key(seed), batch, 1.0, num_classes=16)
        assert mixed.label.dtype == jnp.float32 and mixed.label.shape == (16, 16)
        np.testing.assert_allclose(mixed.label.sum(-1), 1, rtol=1e-6)
        np.testing.assert_allclose(mixed.label.sum(0), 1, rtol=1e-6)  # everyone is somebody's partner once
        np.testing.assert_allclose(mixed.image, np.einsum("ij,jhwc->ihwc", mixed.label, batch.image), atol=1e-5)
        assert len(np.unique(np.round(mixed.label, 5))) <= 4  # 0, 1, and one share with its rest
        np.testing.assert_array_equal(mixed.weight, batch.weight)


def _below(sample, levels):
    return (sample[:, None] < levels).mean(0)


@pytest.fixture(scope="module")
def shares():
    sample = jax.jit(jax.vmap(sample_share, (0, None)))
    keys = jax.random.split(jax.random.key(0), 4000)
    return lambda alpha: np.asarray(sample(keys, jnp.float32(alpha)))


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 8.0])
def test_the_share_is_beta_distributed_with_a_traced_alpha(shares, alpha):
    share = shares(alpha)
    assert np.isfinite(share).all() and share.min() >= 0 and share.max() <= 1
    np.testing.assert_allclose(share.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(share.var(), 0.25 / (2 * alpha + 1), atol=0.01)
    oracle, levels = np.random.default_rng(0).beta(alpha, alpha, 100_000), np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(_below(share, levels), _below(oracle, levels), atol=0.03)  # 4 deviations of 4,000


ALL = Augment(crop=2, flip=True, cutout=2)


@pytest.mark.parametrize("config", [Augment(), Augment(crop=2), Augment(flip=True), Augment(cutout=3), ALL])
def test_augment_is_a_function_of_its_key_and_keeps_labels_and_shapes(config):
    batch = _batch()
    first, again, other = (compiled_augment(jax.random.key(k), batch, config, Hyper()) for k in (0, 0, 1))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.image.shape == batch.image.shape and first.label is not None
    np.testing.assert_array_equal(first.label, batch.label)
    assert np.array_equal(first.image, other.image) == (config == Augment())
    assert np.array_equal(first.image, batch.image) == (config == Augment())


def test_each_image_gets_its_own_change():
    same = Batch(jnp.stack([IMAGE] * 32), jnp.zeros(32, jnp.int32), jnp.ones(32))
    changed = compiled_augment(jax.random.key(0), same, Augment(crop=3), Hyper()).image
    assert len({x.tobytes() for x in np.asarray(changed)}) > 10


def test_augment_under_vmap_is_each_members_own():
    batch, keys = _batch(), jax.random.split(jax.random.key(0), 2)
    alphas = jnp.array([0.3, 2.0])
    rows = jax.jit(jax.vmap(lambda k, a: augment(k, batch, Augment(crop=1), Hyper(mixup=a), 3)))(keys, alphas)
    for i in range(2):
        single = compiled_augment(keys[i], batch, Augment(crop=1), Hyper(mixup=alphas[i]), 3)
        np.testing.assert_allclose(rows.image[i], single.image, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rows.label[i], single.label, rtol=1e-5, atol=1e-6)


REFUSED = [
    (Augment(crop=6), (7, 6, 2), Hyper(), "augment.crop is 6 and images have a side of 6; give at most 5"),
    (Augment(cutout=7), (7, 6, 2), Hyper(), "augment.cutout is 7"),
    (Augment(crop=-1), (7, 6, 2), Hyper(), "augment.crop is -1"),
    (Augment(flip=True), (20,), Hyper(), r"augment.flip is set and an example has shape \[20\].*not pca or whiten"),
    (Augment(), (7, 6, 2), Hyper(mixup=0.2), "not classification"),
]


@pytest.mark.parametrize(("config", "shape", "hyper", "message"), REFUSED)
def test_what_cannot_be_done_is_refused_before_tracing(config, shape, hyper, message):
    with pytest.raises(RequestError, match=message):
        check_augment(config, shape, classification=False, hyper=hyper)


@pytest.mark.parametrize(("config", "shape"), [(Augment(5, True, 6), (7, 6, 2)), (Augment(), (20,))])
def test_what_can_be_done_is_let_through(config, shape):
    check_augment(config, shape, classification=True, hyper=Hyper(mixup=0.2))


def test_mixup_needs_the_number_of_classes():
    with pytest.raises(RequestError, match="num_classes"):
        augment(jax.random.key(0), _batch(), Augment(), Hyper(mixup=0.2))
