"""Kernel ridge regression as a floor: laws that hold for any data, and what it knows of digits."""

import json

import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.data import load_data
from jaxtrain.kernel_ridge import _pooled, kernel_ridge
from jaxtrain.tasks import Classification, Regression


def clouds(count=400, features=6, classes=3, seed=0):
    """Classes that are easy to tell, sorted by class as some files are."""
    rng = np.random.default_rng(seed)
    label = np.sort(rng.integers(0, classes, count)).astype(np.int32)
    return (5 * np.eye(classes, features)[label] + rng.standard_normal((count, features))).astype(np.float32), label


def arrays(image, label, **options):
    return jt.from_arrays(image, label, val_share=0.25, **options)


def test_digits_are_told_without_training():
    data = load_data(jt.DataConfig(name="digits", val_share=0.2))
    assert kernel_ridge(Classification(10), data)["accuracy"] > 0.97


def test_scale_and_offset_of_features_change_nothing():
    image, label = clouds()
    before = kernel_ridge(Classification(3), arrays(image, label))
    scales = np.float32(10.0) ** np.arange(-3, 3)
    assert kernel_ridge(Classification(3), arrays(image * scales + 7, label)) == before
    assert before["accuracy"] > 0.97


def test_preprocessing_plays_no_part():
    image, label = clouds()
    found = [
        kernel_ridge(Classification(3), arrays(image, label, preprocess=p)) for p in ("none", "standardize_features")
    ]
    assert found[0] == found[1]


def test_labels_that_belong_to_nothing_stay_at_chance():
    image, label = clouds(1200)
    label = np.random.default_rng(1).permutation(label)
    assert kernel_ridge(Classification(3), arrays(image, label))["accuracy"] < 0.42


def test_an_error_has_the_unit_of_the_targets():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (500, 2)).astype(np.float32)
    y = np.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1]], axis=1).astype(np.float32)
    one, ten = (kernel_ridge(Regression(2), arrays(x, factor * y + 3))["mse"] for factor in (1, 10))
    assert ten == pytest.approx(100 * one, rel=1e-3)
    assert one < 0.02 * y.var()


def test_of_numbers_it_is_said_what_the_mean_is_wrong_by_on_the_same_examples():
    rng = np.random.default_rng(0)
    data = arrays(rng.uniform(-1, 1, (400, 2)).astype(np.float32), rng.lognormal(0, 2, 400).astype(np.float32))
    target, held = data.label[: data.num_train], data.label[slice(*data.val)]
    expected = np.mean((held - target.mean(axis=0)) ** 2)
    assert kernel_ridge(Regression(1), data)["variance"] == pytest.approx(expected, rel=1e-4)


def test_of_many_features_some_are_drawn(monkeypatch):
    monkeypatch.setattr("jaxtrain.kernel_ridge.MOST_FEATURES", 12)
    image, label = clouds(features=24)
    data = arrays(np.repeat(image, 2, axis=1), label)  # so that those that matter are there twice
    assert kernel_ridge(Classification(3), data)["accuracy"] > 0.6


def test_large_images_are_never_in_memory_at_once():
    import tracemalloc

    rng = np.random.default_rng(0)
    data = arrays(rng.integers(0, 255, (300, 128, 128, 3), np.uint8), rng.integers(0, 3, 300).astype(np.int32))
    tracemalloc.start()
    kernel_ridge(Classification(3), data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 * data.image.nbytes  # all of them as floats would be four times as much, and their mean again


def test_labels_that_the_task_alone_understands_stop_nothing():
    image, label = clouds()
    assert kernel_ridge(Classification(2), arrays(image, label))["accuracy"] > 0.9

    class Other(Classification):
        def metrics(self, outputs, batch):
            return {}

    assert kernel_ridge(Other(3), arrays(image, label)) == {}  # whose accuracy is perhaps another


def test_more_examples_than_it_takes_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr("jaxtrain.kernel_ridge.NUM_TRAIN", 60)  # of a sorted file the first 60 are one class
    image, label = clouds()
    assert kernel_ridge(Classification(3), arrays(image, label))["accuracy"] > 0.9


def test_pooling_is_the_mean_of_squares():
    images = np.arange(2 * 33 * 64 * 3, dtype=np.float64).reshape(2, 33, 64, 3)
    pooled = _pooled(images)
    assert pooled.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(pooled[1, 2, 3, 1], images[1, 4:6, 12:16, 1].mean(), rtol=1e-6)


def test_where_there_is_nothing_to_say_nothing_is_said():
    image, label = clouds()
    assert kernel_ridge(Classification(3), arrays(image[:40], label[:40] * 0, num_classes=3)) == {}  # few
    assert kernel_ridge(object(), arrays(image, label)) == {}
    assert kernel_ridge(Regression(1), arrays(image, np.full(len(label), np.float32(3e38)))) != {}
    assert kernel_ridge(Classification(3), arrays(0 * image, label)) == {}
    assert kernel_ridge(Classification(3), arrays(np.float32(1e30) * image, label)) != {}


def test_a_failure_of_it_is_a_warning_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def fails(task, data):
        raise MemoryError("no room")

    monkeypatch.setattr("jaxtrain.run.kernel_ridge", fails)
    run = jt.fit(jt.MLP(3, hidden=(8,)), arrays(*clouds()), jt.Config(epochs=1), workdir=tmp_path / "run", report=False)
    assert (
        run.summary["status"] == "done" and "kernel ridge regression: MemoryError: no room" in capsys.readouterr().out
    )


def test_a_run_records_it_and_its_diagnosis_reads_it(tmp_path):
    from jaxtrain.diagnose import read_run

    image, label = clouds()
    data = arrays(image, label)
    jt.fit(jt.MLP(3, hidden=(8,)), data, jt.Config(epochs=1), workdir=tmp_path / "run", report=False, quiet=True)
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())["kernel_ridge"]
    assert told == kernel_ridge(Classification(3), data)
    assert read_run(tmp_path / "run").facts["kernel_accuracy"] == told["accuracy"]
