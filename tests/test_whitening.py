"""The whitening layer against float64 NumPy, and where its kernel comes from: the training images, once and for all."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.errors import RequestError
from jaxtrain.members import make_group
from jaxtrain.models.whitening import whitening_kernel
from jaxtrain.step import augment_batch, init_images, make_setting

NET = jt.Airbench(3, (4, 8))
HYPER = jt.Hyper(learning_rate=0.05, momentum=0.6)
CONFIG = jt.Config(
    epochs=4,
    batch_size=20,
    optimizer=jt.Muon(steps=3, hold_norm=True),
    augment=jt.Augment(crop=1, flip=True, alternate=True),
    frozen=("whitening/kernel",),
    frozen_after=(("whitening/bias", 2.0),),
    probe_every_steps=None,
)


def images(count=80, side=9, channels=3, seed=0):
    """Bytes whose neighbouring pixels and channels are alike, as in photographs."""
    random = np.random.default_rng(seed)
    rough = random.normal(size=(count, side, side, channels))
    smooth = rough + np.roll(rough, 1, 1) + np.roll(rough, 1, 2) + 2 * rough.mean(3, keepdims=True)
    return np.clip(128 + 30 * smooth, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data():
    return jt.from_arrays(images(), np.arange(80) % 3, val_share=0.25, test=(images(12, seed=1), np.arange(12) % 3))


def patches(image, size):
    """f64[P, size * size * C], row by row, then channel by channel."""
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (size, size), (1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * image.shape[-1])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("epsilon", [1e-6, 5e-4, 0.1])
def test_what_comes_out_is_uncorrelated_and_of_variance_one_but_for_epsilon(size, epsilon):
    image = np.asarray(images(60), np.float32) / 64 - 2
    kernel = np.asarray(whitening_kernel(jnp.asarray(image), (size, size), epsilon), np.float64)
    given = patches(image, size)
    variance = np.linalg.eigvalsh(given.T @ given / len(given))[::-1]
    half = kernel.shape[-1] // 2
    out = given @ kernel.reshape(-1, 2 * half)
    moments = out[:, :half].T @ out[:, :half] / len(out)
    np.testing.assert_allclose(moments, np.diag(variance / (variance + epsilon)), atol=2e-3)
    np.testing.assert_array_equal(kernel[..., half:], -kernel[..., :half])


def test_the_layer_is_that_convolution_and_its_bias():
    image = jnp.asarray(images(6), jnp.float32) / 64 - 2
    layer = jt.PatchWhitening()
    variables = layer.init(jax.random.key(0), image)
    kernel, bias = variables["params"]["kernel"], jnp.arange(24.0)
    np.testing.assert_array_equal(kernel, whitening_kernel(image, (2, 2), 5e-4))
    found = layer.apply({"params": {"kernel": kernel, "bias": bias}}, image)
    wanted = patches(np.asarray(image), 2) @ np.asarray(kernel, np.float64).reshape(12, 24) + np.arange(24)
    np.testing.assert_allclose(found, wanted.reshape(6, 8, 8, 24), atol=1e-4)


def test_the_sign_and_the_order_of_directions_do_not_depend_on_the_library():
    kernel = np.asarray(whitening_kernel(jnp.asarray(images(), jnp.float32) / 64 - 2, (2, 2), 5e-4)).reshape(12, 24)
    first = kernel[:, :12]
    assert all(first[np.abs(first[:, i]).argmax(), i] > 0 for i in range(12))
    assert (np.diff(np.linalg.norm(first, axis=0)) > 0).all()  # the largest variance, so the shortest filter, first


def test_constant_images_give_a_finite_kernel():
    assert np.isfinite(whitening_kernel(jnp.zeros((4, 9, 9, 3)), (2, 2), 5e-4)).all()


@pytest.mark.parametrize("shape", [(2, 9, 9), (2, 1, 9, 3)])
def test_an_input_that_has_no_patches_is_refused(shape):
    with pytest.raises(RequestError, match="whitening|PatchWhitening"):
        jt.PatchWhitening().init(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    "network, reads",
    [
        (NET, True),
        (jt.MLP(3, (4,)), False),
        (jt.CNN(3, (4,), hidden=4), False),
        (jt.ResNet(3, (4, 8)), False),
        (jt.Linear(3), False),
    ],
)
def test_only_a_network_that_needs_images_is_given_them(data, network, reads):
    given = init_images(make_setting(network, data, CONFIG), data, HYPER)
    assert (given is not None) == reads


class OfItsOwn(nn.Module):
    """Whose first bias is the mean image: data-dependent initialisation without a layer of ours."""

    @nn.compact
    def __call__(self, image):
        mean = self.param("mean", lambda _: image.mean(0))
        return nn.Dense(3)((image - mean[None]).reshape(image.shape[0], -1))


class Wrapped(nn.Module):
    """A layer that is lifted, as transformations of Flax do, and reads no image for its parameters."""

    lift: str

    @nn.compact
    def __call__(self, image, *, hyper):
        x = image.reshape(image.shape[0], -1) / hyper.extra["temperature"]
        if self.lift == "scan":
            cell = nn.scan(nn.SimpleCell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1)(4)
            return nn.Dense(3)(cell(jnp.zeros((x.shape[0], 4)), x.reshape(x.shape[0], 9, -1))[0])
        return {"remat": nn.remat, "jit": nn.jit}[self.lift](nn.Dense)(3)(x)


@pytest.mark.parametrize("lift", ["remat", "jit", "scan"])
def test_a_lifted_network_that_divides_by_a_hyper_parameter_needs_none(data, lift):
    hyper = dataclasses.replace(HYPER, extra={"temperature": 2.0})
    assert init_images(make_setting(Wrapped(lift), data, CONFIG), data, hyper) is None


@pytest.mark.parametrize("way", ["jit", "vmap", "jit of vmap", "shapes"])
def test_the_initialisation_can_be_traced(data, way):
    init = jt.make_init(NET, data, CONFIG)
    keys = jax.random.split(jax.random.key(0), 2)
    if way == "shapes":
        assert jax.eval_shape(init, keys[0], HYPER).params["whitening"]["kernel"].shape == (2, 2, 3, 24)
        return
    many = jax.vmap(init, (0, None))
    given = {"jit": lambda: jax.jit(init)(keys[0], HYPER), "vmap": lambda: many(keys, HYPER)}
    found = (given.get(way) or (lambda: jax.jit(many)(keys, HYPER)))()
    for kernel in np.asarray(found.params["whitening"]["kernel"]).reshape(-1, 2, 2, 3, 24):
        np.testing.assert_allclose(kernel, kernel_of(data), rtol=2e-3, atol=2e-3)


def test_a_layer_of_ones_own_gets_them_too(data):
    free = dataclasses.replace(CONFIG, frozen=(), frozen_after=())
    state = jt.make_init(OfItsOwn(), data, free)(jax.random.key(0), HYPER)
    assert data.num_train == 60  # fewer than are taken at most: all of them
    wanted = jt.epoch(data, jax.random.key(0), 0, 60)
    np.testing.assert_allclose(state.params["mean"], next(iter(wanted)).image.mean(0), atol=1e-5)


def kernel_of(data):
    normal = next(iter(jt.epoch(data, jax.random.key(0), 0, data.num_train))).image
    return np.asarray(whitening_kernel(normal, (2, 2), 5e-4))


@pytest.mark.parametrize("parallel", ["loop", "vmap"])
def test_members_begin_with_the_kernel_of_the_training_split(data, parallel):
    group = make_group(make_setting(NET, data, CONFIG), data, [3, 4], HYPER, parallel)
    one, other = (jax.device_get(group.weights(index)["params"]) for index in (0, 1))
    group.close()
    for params in (one, other):
        np.testing.assert_allclose(params["whitening"]["kernel"], kernel_of(data), rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(one["whitening"]["kernel"], other["whitening"]["kernel"])
    assert np.any(one["outputs"]["kernel"] != other["outputs"]["kernel"])
    alone = jt.make_init(NET, data, CONFIG)(jax.random.key(3), HYPER)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), alone.params, one)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whitened") / "run"
    return jt.fit(NET, data, CONFIG, HYPER, seed=3, workdir=folder, quiet=True)


def test_a_frozen_kernel_stays_what_it_was(data, run):
    start = jt.make_init(NET, data, CONFIG)(jax.random.key(3), HYPER)
    np.testing.assert_allclose(run.params["whitening"]["kernel"], start.params["whitening"]["kernel"], rtol=1e-5)
    assert np.any(run.params["Conv_0"]["kernel"] != start.params["Conv_0"]["kernel"])


def test_a_bias_that_is_frozen_after_two_epochs_moves_in_two(data):
    state = jt.make_init(NET, data, CONFIG)(jax.random.key(3), HYPER)
    step = jax.jit(jt.make_train_step(NET, data, CONFIG))
    moved = {"whitening": [], "BatchNorm_0": []}
    for epoch in range(3):
        for batch in jt.epoch(data, jax.random.key(3), epoch, CONFIG.batch_size):
            after, _ = step(state, batch)
            for layer, seen in moved.items():
                seen.append(bool(np.any(after.params[layer]["bias"] != state.params[layer]["bias"])))
            state = after
    assert moved == {"whitening": [True] * 6 + [False] * 3, "BatchNorm_0": [True] * 9}


def flipped(data, config, step):
    """Which of the examples a step mirrors, with nothing else done to them."""
    config = dataclasses.replace(config, augment=jt.Augment(flip=True, alternate=True))
    setting = make_setting(NET, data, config)
    state = dataclasses.replace(jt.make_init(NET, data, config)(jax.random.key(3), HYPER), step=jnp.int32(step))
    batch = next(iter(jt.epoch(data, jax.random.key(0), 0, 60)))
    seen = augment_batch(setting, state, jax.random.key(step), batch)
    return np.any(np.asarray(seen.image != batch.image), axis=(1, 2, 3))


def test_an_epoch_shows_each_image_in_one_form_and_the_next_in_the_other(data):
    first = flipped(data, CONFIG, 0)
    assert 15 < first.sum() < 45
    for step, turned in [(1, False), (2, False), (3, True), (5, True), (6, False), (9, True)]:  # three steps an epoch
        np.testing.assert_array_equal(flipped(data, CONFIG, step), first ^ turned)


def test_micro_batches_and_a_loop_of_ones_own_alternate_too(data):
    config = dataclasses.replace(CONFIG, num_micro_batches=2)
    state, step = jt.make_init(NET, data, config)(jax.random.key(3), HYPER), jt.make_train_step(NET, data, config)
    batch = next(iter(jt.epoch(data, jax.random.key(3), 0, 20)))
    assert np.isfinite(jax.jit(step)(state, batch)[1].sums["loss"])
    with pytest.raises(RequestError, match="Batch.*index"):
        step(state, batch._replace(index=None))


def test_a_resumed_run_is_the_uninterrupted_one(data, run, tmp_path):
    folder = tmp_path / "run"
    jt.fit(NET, data, CONFIG, HYPER, seed=3, workdir=folder, quiet=True, stop=lambda: True)
    resumed = jt.fit(NET, data, CONFIG, HYPER, seed=3, workdir=folder, quiet=True, resume=True)
    assert resumed.summary["digest"] == run.summary["digest"]


@pytest.mark.parametrize("parallel", ["loop", "vmap"])
def test_a_member_is_the_single_run(data, run, parallel):
    pair = jt.fit(NET, data, CONFIG, HYPER, seeds=(2, 3), parallel=parallel, quiet=True)
    if parallel == "loop":
        assert pair.members[1].summary["digest"] == run.summary["digest"]
    image = data.image[-12:]
    np.testing.assert_allclose(pair.members[1].outputs(image), run.outputs(image), atol=2e-3)


def test_a_streamed_run_is_the_resident_one(data, run):
    streamed = jt.fit(NET, data, dataclasses.replace(CONFIG, stream="always"), HYPER, seed=3, quiet=True)
    assert streamed.summary["digest"] == run.summary["digest"]


def test_a_run_read_back_answers_the_same(data, run):
    image = data.image[-12:]
    np.testing.assert_array_equal(jt.load_run(run.folder).outputs(image), run.outputs(image))
