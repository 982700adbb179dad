"""Test-time augmentation: the same in every place that scores or answers, and the weighted mean over views in each."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.augment import views
from jaxtrain.errors import RequestError
from jaxtrain.step import make_setting, predict_step

NET = jt.CNN(3, (4,), hidden=8)
CONFIG = jt.Config(epochs=2, batch_size=16, tta="mirror_translate", probe_every_steps=None)
HYPER = jt.Hyper(learning_rate=1e-2)


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (90, 6, 7, 2), dtype=np.uint8)
    return jt.from_arrays(image[:70], np.arange(70) % 3, val_share=0.2, test=(image[70:], np.arange(20) % 3))


@pytest.fixture(scope="module")
def run(data):
    return jt.fit(NET, data, CONFIG, HYPER, quiet=True)


def by_hand(run, image, tta):
    """The mean of the outputs of a run without views, each view given to it as an image."""
    plain = run.with_tta("none")
    seen, weights = views(jnp.asarray(image, jnp.float32), tta)
    return sum(
        weight * plain.outputs(np.asarray(view, np.uint8))
        for view, weight in zip(np.split(np.asarray(seen), len(weights)), weights, strict=True)
    )


@pytest.mark.parametrize("tta", ["none", "mirror", "mirror_translate"])
def test_outputs_are_the_weighted_mean_over_views(data, run, tta):
    image = data.image[-20:]
    np.testing.assert_allclose(run.with_tta(tta).outputs(image), by_hand(run, image, tta), rtol=1e-4, atol=1e-5)


def test_without_views_it_is_the_one_pass_bit_for_bit(data, run):
    image = jax.random.normal(jax.random.key(0), (5, 6, 7, 2))
    setting = make_setting(NET, data, dataclasses.replace(CONFIG, tta="none"))
    wanted = setting.model.apply(run.params, run.batch_stats, image, train=False, hyper=run.hyper).outputs
    np.testing.assert_array_equal(predict_step(setting, run.params, run.batch_stats, run.hyper, image), wanted)


def test_an_image_and_its_mirror_image_get_one_answer(data, run):
    image, seen = data.image[-20:], run.with_tta("mirror")
    np.testing.assert_allclose(seen.outputs(image), seen.outputs(image[:, :, ::-1]), rtol=1e-4, atol=1e-5)
    plain = run.with_tta("none")
    assert np.abs(plain.outputs(image) - plain.outputs(image[:, :, ::-1])).max() > 1e-3


def test_the_run_was_scored_with_its_views(data, run):
    start, stop = data.test
    found = run.evaluate(data.image[start:stop], data.label[start:stop])
    assert found.loss == pytest.approx(run.test.loss, rel=1e-5)
    assert found.loss != pytest.approx(
        run.with_tta("none").evaluate(data.image[start:stop], data.label[start:stop]).loss
    )
    assert run.history[-1]["val/loss"] == pytest.approx(run.val.loss, rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_size_of_an_evaluation_batch_does_not_matter(data, run, size):
    config = dataclasses.replace(CONFIG, eval_batch_size=size)
    other = jt.fit(NET, data, config, HYPER, quiet=True)
    assert other.test.loss == pytest.approx(run.test.loss, rel=1e-5)
    assert other.test.accuracy == run.test.accuracy


def test_training_does_not_see_them(data, run):
    plain = jt.fit(NET, data, dataclasses.replace(CONFIG, tta="none"), HYPER, quiet=True)
    assert plain.summary["digest"] == run.summary["digest"]


def test_the_checks_before_training_do_not_take_views_for_augmentation(data):
    views, plain = (jt.check(NET, data, dataclasses.replace(CONFIG, tta=tta), HYPER) for tta in (CONFIG.tta, "none"))
    assert [each.verdict for each in views.checks] == [each.verdict for each in plain.checks]
    assert views["plain evaluation"].verdict == "pass"


class TwoHeads(nn.Module):
    """Whose outputs are a tree, for a task of its own."""

    @nn.compact
    def __call__(self, image):
        x = image.reshape(image.shape[0], -1)
        return {"class": nn.Dense(3)(x), "size": nn.Dense(1)(x)}


@dataclasses.dataclass(frozen=True)
class Both:
    """Cross-entropy of one head, and a penalty of the other."""

    def loss(self, outputs, batch, hyper):
        return self.metrics(outputs, batch)["loss"]

    def metrics(self, outputs, batch):
        likely = jax.nn.log_softmax(outputs["class"])
        chosen = jnp.take_along_axis(likely, batch.label[:, None], axis=1)[:, 0]
        return {"loss": jnp.square(outputs["size"][:, 0]) - chosen}

    def predict(self, outputs):
        return outputs


def test_outputs_may_be_a_tree(data):
    run = jt.fit(TwoHeads(), data, CONFIG, HYPER, task=Both(), quiet=True)
    assert np.isfinite(run.test.loss)


def test_an_ensemble_takes_them_member_by_member(data):
    pair = jt.fit(NET, data, dataclasses.replace(CONFIG, tta="none"), HYPER, seeds=(0, 1), quiet=True)
    image = data.image[-20:]
    wanted = np.stack([by_hand(member, image, "mirror") for member in pair.members])
    np.testing.assert_allclose(pair.with_tta("mirror").outputs(image), wanted, rtol=1e-4, atol=1e-5)


def test_vectors_have_no_views():
    random = np.random.default_rng(0)
    data = jt.from_arrays(random.normal(size=(40, 5)).astype(np.float32), np.arange(40) % 3)
    with pytest.raises(RequestError, match=r"tta is 'mirror_translate' and an example has shape \[5\]"):
        jt.fit(jt.MLP(3, (4,)), data, CONFIG, HYPER, quiet=True)
    run = jt.fit(jt.MLP(3, (4,)), data, dataclasses.replace(CONFIG, tta="none"), HYPER, quiet=True)
    with pytest.raises(RequestError, match="tta is 'mirror'"):
        run.with_tta("mirror")
