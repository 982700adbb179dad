"""Preprocessing does what its name says, by its statistics on the training split."""

import jax
import numpy as np
import pytest

from jaxtrain.data.arrays import from_arrays
from jaxtrain.data.preprocess import PIXEL_FLOOR, fit_preprocess, normalise


def _images(dtype, shape=(2500, 4, 3, 2)):  # more than two chunks
    generator = np.random.default_rng(0)
    spread = generator.uniform(5, 20, shape[1:])
    image = 100 + spread * generator.normal(size=shape) + 15 * np.arange(shape[-1])
    return np.clip(image, 0, 255).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_standardize_gives_each_channel_mean_0_and_deviation_1(dtype):
    x = np.asarray(normalise(fit_preprocess("standardize", _images(dtype)), _images(dtype)), np.float64)
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["standardize", "standardize_features"])
def test_features_are_standardized_each_in_its_own_unit(kind):
    features = np.random.default_rng(0).normal(size=(2000, 3)) * [1e-6, 1, 1e6] + [0, 5, 1e6]
    features = features.astype(np.float32)
    x = np.asarray(normalise(fit_preprocess(kind, features), features), np.float64)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-5)


def test_statistics_keep_their_digits_far_from_zero():
    features = (1000 + 0.1 * np.random.default_rng(0).normal(size=(3000, 2))).astype(np.float32)
    x = np.asarray(normalise(fit_preprocess("standardize", features), features), np.float64)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_standardize_features_gives_each_pixel_mean_0_and_deviation_1(dtype):
    x = np.asarray(normalise(fit_preprocess("standardize_features", _images(dtype)), _images(dtype)), np.float64)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-4)


def test_a_pixel_that_hardly_varies_is_not_magnified_beyond_the_floor():
    image = _images(np.uint8)
    image[:, 0, 0, 0] = 7
    image[:, 1, 0, 0] = np.arange(len(image)) == 0
    preprocess = fit_preprocess("standardize_features", image)
    assert np.max(preprocess.scale) == pytest.approx(1 / (PIXEL_FLOOR * image.std()), rel=1e-5)
    assert np.all(np.asarray(normalise(preprocess, image))[:, 0, 0, 0] == 0)


@pytest.mark.parametrize("kind", ["unit", "standardize", "standardize_features", "pca", "whiten"])
def test_constant_images_stay_finite(kind):
    for image in (np.full((9, 3, 3, 1), 17, np.uint8), np.full((9, 4), 0.1, np.float32), np.zeros((9, 2), np.float32)):
        assert np.isfinite(np.asarray(normalise(fit_preprocess(kind, image), image))).all()


def test_unit_is_zero_to_one():
    levels = np.array([0, 51, 255], np.uint8)[:, None]
    np.testing.assert_allclose(normalise(fit_preprocess("unit", levels), levels)[:, 0], [0, 0.2, 1], rtol=1e-6)
    floats = np.array([-2, 0, 8], np.float32)[:, None]
    np.testing.assert_allclose(normalise(fit_preprocess("unit", floats), floats)[:, 0], [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_array_equal(normalise(fit_preprocess("none", floats), floats), floats)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_whitened_covariance_is_the_identity(dtype):
    image = _images(dtype)
    x = np.asarray(normalise(fit_preprocess("whiten", image), image), np.float64)
    assert x.shape == (2500, 24)
    expected = np.linalg.eigvalsh(np.cov(image.reshape(2500, -1).T.astype(np.float64), bias=True))[::-1]
    expected = expected / (255**2 if dtype == np.uint8 else 1)
    np.testing.assert_allclose(np.cov(x.T, bias=True), np.diag(expected / (expected + 1e-5)), atol=1e-3)


def test_pca_keeps_the_largest_directions_and_loses_nothing_when_it_keeps_all():
    image = _images(np.uint8)
    x = np.asarray(normalise(fit_preprocess("pca", image), image), np.float64)
    variance = x.var(0)
    assert (np.diff(variance) <= 1e-9).all()
    np.testing.assert_allclose(np.cov(x.T, bias=True), np.diag(variance), atol=1e-7)
    centred = (image - image.mean(0)).reshape(len(image), -1) / 255
    np.testing.assert_allclose((x**2).sum(1), (centred**2).sum(1), rtol=1e-4)
    few = normalise(fit_preprocess("pca", image, num_components=3), image)
    np.testing.assert_allclose(few, x[:, :3], atol=1e-5)


def test_statistics_are_of_the_training_split_only():
    image, label = _images(np.uint8), np.arange(2500) % 2
    data = from_arrays(image, label, val_share=0.3, test=(image[:100] // 2, label[:100]))
    train = data.image[: data.num_train].astype(np.float64)
    np.testing.assert_allclose(np.ravel(data.preprocess.shift), train.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(np.ravel(data.preprocess.scale), 1 / train.std((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("kind", ["none", "standardize", "standardize_features", "whiten"])
def test_normalise_is_the_same_bare_and_compiled(kind):
    image = _images(np.uint8, (50, 4, 3, 2))
    preprocess = fit_preprocess(kind, image)
    bare, compiled = normalise(preprocess, image), jax.jit(normalise)(preprocess, image)
    np.testing.assert_allclose(bare, compiled, rtol=1e-4, atol=1e-4)
