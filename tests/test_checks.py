"""Checks before training: healthy networks pass, and each fault is seen by the check that looks for it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.checks import Checkup, check, forward, gradient, learning, modes, neighbours
from jaxtrain.checks import data as of_data
from jaxtrain.checks.checkup import grade
from jaxtrain.checks.double import differentiate
from jaxtrain.checks.passes import limit_of_average
from jaxtrain.checks.subject import Subject
from jaxtrain.checks.table import CHECKS
from jaxtrain.errors import RequestError
from jaxtrain.losses import cross_entropy
from jaxtrain.step import make_setting
from jaxtrain.types import Hyper

ROOT = Path(__file__).resolve().parents[1]
CONFIG = jt.Config(epochs=2, batch_size=32)
RATE = 3e-3


def blobs(count=600, seed=0, side=8):
    """Images u8 of four classes, each a bright quarter with noise, and one channel."""
    random = np.random.default_rng(seed)
    label = random.permutation(np.arange(count) % 4)
    image = random.integers(0, 100, (count, side, side, 1), dtype=np.uint8)
    half = side // 2
    for row, k in enumerate(label):
        image[row, half * (k // 2) : half * (k // 2) + half, half * (k % 2) : half * (k % 2) + half] += 60
    return image, label


@pytest.fixture(scope="module")
def data():
    images, labels = blobs()
    return jt.from_arrays(images[:500], labels[:500], val_share=0.3, test=(images[500:], labels[500:]))


def subject_of(model, data, config=CONFIG, task=None, **hyper):
    return Subject(make_setting(model, data, config, task), data, Hyper(**{"learning_rate": RATE, **hyper}), 0)


# Healthy networks


class Transformer(nn.Module):
    """A block of attention over the rows of an image."""

    @nn.compact
    def __call__(self, image, *, train: bool, hyper: Hyper):
        x = nn.Dense(16)(image.reshape(*image.shape[:2], -1))
        place = self.param("place", nn.initializers.normal(0.02), (1, x.shape[1], 16))
        x = x + jnp.broadcast_to(place, x.shape)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        x = x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))
        x = jt.Dropout()(nn.LayerNorm()(x).mean(1), hyper.dropout_rate, train=train)
        return nn.Dense(4)(x)


class PlainFlax(nn.Module):
    """Flax's own layers throughout, the rate of its Dropout fixed."""

    @nn.compact
    def __call__(self, image, *, train: bool):
        x = nn.Conv(8, (3, 3))(image)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x)))
        return nn.Dense(4)(nn.Dropout(0.2, deterministic=not train)(x))


def assert_healthy(found):
    assert [(c.name, c.value) for c in found.checks if c.verdict in ("fail", "warn")] == []


@pytest.mark.slow
def test_a_transformer_block_is_healthy(data):
    hyper = jt.Hyper(learning_rate=RATE, dropout_rate=0.1, weight_decay=1e-2)
    assert_healthy(check(Transformer(), data, CONFIG, hyper))


def test_plain_flax_layers_are_healthy(data):
    found = check(PlainFlax(), data, CONFIG, jt.Hyper(learning_rate=RATE))
    assert_healthy(found)
    assert found["batch norm"].verdict == found["dropout"].verdict == "pass"


def test_a_regression_is_healthy_and_skips_what_needs_classes():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 10)).astype(np.float32)
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1:3].sum(1) + 0.05 * random.normal(size=500)
    regression = jt.from_arrays(x, (y / y.std()).astype(np.float32), val_share=0.3)
    found = check(
        jt.MLP(num_outputs=1, hidden=(64,), batch_norm=False), regression, CONFIG, jt.Hyper(learning_rate=1e-2)
    )
    assert_healthy(found)
    assert {c.name for c in found.checks if c.verdict == "skip"} >= {"conflicting labels", "label in a feature"}
    assert found["generalisation"].value.startswith("R2")


@pytest.mark.slow
def test_a_shipped_network_is_healthy_with_all_that_regularises():
    digits = jt.load_data(jt.DataConfig(name="digits"))
    config = dataclasses.replace(CONFIG, augment=jt.Augment(crop=1), num_micro_batches=2, frozen=("Conv_0",))
    hyper = jt.Hyper(
        learning_rate=RATE, dropout_rate=0.2, label_smoothing=0.05, mixup=0.2, l2=1e-4, max_norm=4.0, clip_norm=1.0
    )
    model = jt.CNN(features=(8,), hidden=32, dtype="bfloat16")
    assert_healthy(check(model, digits, config, hyper))


# Faults of the data


def arrays(images, labels, **fields):
    return jt.from_arrays(images[:500], labels[:500], val_share=0.3, test=(images[500:], labels[500:]), **fields)


def raw_pixels(images, labels):
    return arrays(images, labels, preprocess="none")


def zeros(images, labels):
    return arrays(np.zeros_like(images), labels)


def bright_test(images, labels):
    images = images.astype(np.float32)
    images[500:] *= 255
    return arrays(images, labels)


def far_apart(images, labels):
    return arrays(images.swapaxes(1, 2).reshape(len(images), 8, 4, 2, 1).swapaxes(2, 3).reshape(images.shape), labels)


def rare_class(images, labels):
    kept = (labels != 3) | (np.random.default_rng(0).random(len(labels)) < 0.05)
    return jt.from_arrays(images[kept], labels[kept])


def absent_class(images, labels):
    first = labels[:500] != 3
    return jt.from_arrays(images[:500][first], labels[:500][first], test=(images[500:], labels[500:]), num_classes=4)


def leak(images, labels):
    images, labels = images.copy(), labels.copy()
    images[500:510], labels[500:510] = images[:10], labels[:10]
    return arrays(images, labels)


def repeated(images, labels):
    images, labels = images.copy(), labels.copy()
    images[:40], labels[:40] = images[0], labels[0]
    return arrays(images, labels)


def conflict(images, labels):
    images, labels = images.copy(), labels.copy()
    images[:50], labels[:50] = images[50:100], (labels[50:100] + 1) % 4
    return arrays(images, labels)


def marked(images, labels):
    images = images.copy()
    images[:, 0, 0, 0] = labels
    return arrays(images, labels)


BAD_DATA = {
    "pixels of 0 to 255": (raw_pixels, of_data.input_scale, "fail"),
    "constant images": (zeros, of_data.input_scale, "fail"),
    "another unit in the test split": (bright_test, of_data.splits_alike, "fail"),
    "axes confused": (far_apart, of_data.pixels_in_place, "warn"),
    "a rare class": (rare_class, of_data.label_balance, "warn"),
    "a class that training lacks": (absent_class, of_data.label_balance, "fail"),
    "test images in training": (leak, of_data.duplicates, "fail"),
    "copies in training": (repeated, of_data.duplicates, "fail"),
    "labels that conflict": (conflict, of_data.conflicting_labels, "fail"),
    "the label in a pixel": (marked, of_data.label_in_a_feature, "fail"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_a_fault_of_the_data_is_seen(name):
    spoil, function, verdict = BAD_DATA[name]
    assert function(subject_of(jt.Linear(4), spoil(*blobs()))).verdict == verdict


def test_targets_that_do_not_vary_or_lie_far_away_are_seen():
    x = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    for target, verdict in ((np.full(100, 2.0), "fail"), (1000 + x[:, 0], "warn"), (x[:, 0], "pass")):
        regression = jt.from_arrays(x, target.astype(np.float32))
        assert of_data.label_balance(subject_of(jt.Linear(1), regression)).verdict == verdict


# Faults of the network, the task or the hyper-parameters


class Net(nn.Module):
    """A small network with one fault."""

    fault: str = ""

    @nn.compact
    def __call__(self, image, *, train: bool, hyper: Any):
        has = self.fault.__eq__
        x = image.reshape(image.shape[0], -1)
        x = x.T.reshape(x.shape) if has("examples mixed by a reshape") else x
        x = x - x.mean(0, keepdims=True) if has("normalised over the batch") else x
        x = jnp.round(x * 2) / 2 if has("rounded input") else x
        if has("dropout in evaluation") and not train:
            x = x * jax.random.bernoulli(jax.random.key(0), 1 - hyper.dropout_rate, x.shape)
        if has("rate is the share kept"):
            x = jt.Dropout()(x, 1 - hyper.dropout_rate, train=train)
        if has("dropout in evaluation"):
            x = jt.Dropout()(x, hyper.dropout_rate, train=train)
        if has("dropout not scaled") and train:
            x = x * jax.random.bernoulli(self.make_rng("dropout"), 1 - hyper.dropout_rate, x.shape)
        start = nn.initializers.constant(0.05) if has("equal units") else nn.initializers.he_normal()
        start = nn.initializers.zeros if has("all zero") else start
        start = nn.initializers.normal(30) if has("huge weights") else start
        bias = nn.initializers.constant(-1e3) if has("dead units") else nn.initializers.zeros
        x = nn.Dense(32, kernel_init=start, bias_init=bias)(x)
        if has("statistics not updated"):
            x = nn.BatchNorm(use_running_average=True)(x)
        if has("torch's momentum"):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.1)(x)
        x = nn.relu(x)
        if has("custom gradient"):
            x = doubled_gradient(x)
        x = jax.lax.stop_gradient(x) if has("stopped gradient") else x
        _ = nn.Dense(3, name="unused")(x) if has("unused layer") else None
        x = nn.Dense(4, kernel_init=nn.initializers.zeros if has("all zero") else nn.initializers.lecun_normal())(x)
        ends = {"softmax": nn.softmax, "relu": nn.relu, "sigmoid": nn.sigmoid, "nan": jnp.log, "same": lambda x: 0 * x}
        return ends.get(self.fault, lambda x: x)(x)


@jax.custom_vjp
def doubled_gradient(x):
    return x


doubled_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (1.2 * gradient,))


@dataclasses.dataclass(frozen=True)
class Task(jt.Classification):
    """Classification with one fault."""

    fault: str = ""

    def loss(self, outputs, batch, hyper):
        label = (batch.label + 1) % 4 if self.fault == "labels shifted" else batch.label
        losses = cross_entropy(outputs, label)
        if self.fault == "averaged too early":
            return jnp.full_like(losses, losses.mean())
        return -losses if self.fault == "wrong sign" else losses

    def metrics(self, outputs, batch):
        if self.fault == "metrics read the label":
            outputs = outputs + 3 * jax.nn.one_hot(batch.label, 4)
        return super().metrics(outputs, batch)


BAD_NETWORKS: dict[str, tuple[Any, str]] = {
    "softmax": (forward.outputs_fit_task, "fail"),
    "relu": (forward.outputs_fit_task, "fail"),
    "sigmoid": (forward.outputs_fit_task, "fail"),
    "nan": (forward.outputs_fit_task, "fail"),
    "same": (forward.outputs_fit_task, "fail"),
    "all zero": (gradient.units_differ, "fail"),
    "equal units": (gradient.units_differ, "fail"),
    "huge weights": (forward.first_loss, "fail"),
    "dead units": (forward.activation_scales, "fail"),
    "dropout in evaluation": (modes.dropout_switches, "fail"),
    "rate is the share kept": (modes.dropout_switches, "fail"),
    "no dropout": (modes.dropout_switches, "fail"),
    "dropout not scaled": (modes.modes_agree, "fail"),
    "statistics not updated": (modes.batch_norm_switches, "fail"),
    "torch's momentum": (modes.batch_norm_switches, "warn"),
    "examples mixed by a reshape": (neighbours.neighbours_in_evaluation, "fail"),
    "normalised over the batch": (neighbours.neighbours_in_training, "fail"),
    "custom gradient": (gradient.gradient_check, "fail"),
    "stopped gradient": (gradient.reaches_all_parameters, "fail"),
    "unused layer": (gradient.moves_all_parameters, "fail"),
}


@pytest.mark.parametrize("fault", BAD_NETWORKS)
def test_a_fault_of_the_network_is_seen(data, fault):
    function, verdict = BAD_NETWORKS[fault]
    rates = (
        {"dropout_rate": 0.8 if fault == "dropout not scaled" else 0.2} if "dropout" in fault or "kept" in fault else {}
    )
    assert function(subject_of(Net(fault), data, **rates)).verdict == verdict


BAD_TASKS = {
    "wrong sign": learning.learns,
    "labels shifted": learning.learns,
    "averaged too early": neighbours.neighbours_in_training,
    "metrics read the label": learning.chance_stays_chance,
}


@pytest.mark.parametrize("fault", BAD_TASKS)
def test_a_fault_of_the_task_is_seen(data, fault):
    assert BAD_TASKS[fault](subject_of(Net(), data, task=Task(4, fault))).verdict == "fail"


def frozen_optimizer(hyper, schedule):
    import optax

    return optax.set_to_zero()


BAD_CHOICES: dict[str, tuple[Any, dict, dict, str]] = {
    "rate too high": (learning.learns, {"optimizer": jt.Sgd()}, {"learning_rate": 1e5}, "fail"),
    "rate ten times too low": (learning.learns, {}, {"learning_rate": 3e-5}, "warn"),
    "an optimizer that does nothing": (gradient.moves_all_parameters, {"optimizer": frozen_optimizer}, {}, "fail"),
    "it cannot memorise either": (learning.overfits_few, {"optimizer": frozen_optimizer}, {}, "fail"),
    "a penalty larger than the loss": (forward.penalty_raises_loss, {}, {"l2": 1.0}, "warn"),
}


@pytest.mark.parametrize("name", BAD_CHOICES)
def test_a_fault_of_the_choices_is_seen(data, name):
    function, config, hyper, verdict = BAD_CHOICES[name]
    assert function(subject_of(Net(), data, dataclasses.replace(CONFIG, **config), **hyper)).verdict == verdict


def test_labels_that_belong_to_other_images_do_not_generalise():
    images, labels = blobs()
    shuffled = arrays(images, np.random.default_rng(1).permutation(labels))
    subject = subject_of(jt.MLP(4, (128,), batch_norm=False), shuffled, learning_rate=1e-2)
    assert learning.learns_what_holds(subject).verdict == "fail"


def test_a_network_that_does_not_fit_is_a_failed_check_and_the_data_is_still_checked(data):
    found = check(jt.MLP(7), data, CONFIG)
    assert [c.name for c in found.failed] == ["request"] and "[32, 4]" in found.failed[0].value
    assert found["label balance"].verdict == "pass" and found["gradient check"].verdict == "skip"


def test_values_out_of_range_are_refused(data):
    with pytest.raises(RequestError, match="must lie in"):
        check(jt.Linear(4), data, CONFIG, jt.Hyper(dropout_rate=1.0))


# The parts


def test_the_gradient_is_checked_in_float64_through_casts_loops_and_keys():
    @jax.custom_jvp
    def relu(x):
        return jnp.maximum(x, 0)

    relu.defjvp(lambda x, dx: (relu(x[0]), jnp.where(x[0] > 0, dx[0], 0)))

    def function(x):
        y = x["w"].astype(jnp.bfloat16).astype(jnp.float32) * jax.random.normal(jax.random.key(0), (4,))
        y, _ = jax.lax.scan(lambda c, _: (jnp.sin(c) + relu(c), None), y, None, length=3)
        y = jax.lax.fori_loop(0, 2, lambda i, c: c * 1.1, y)
        y = jax.lax.cond(y[0] > 1e9, jnp.cos, jnp.tanh, y)
        return jnp.sum(y[jnp.array([0, 2, 2, 3])] ** 2)

    x = {"w": np.linspace(0.5, 1.0, 4, dtype=np.float32)}
    found = differentiate(function, x)
    assert found.is_double
    step = 1e-6 * np.array([1.0, 2.0, -1.0, 0.5])
    ends = [found.value({"w": x["w"].astype(np.float64) + by}) for by in (step, -step)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx(found.gradient(x)["w"] @ step, rel=1e-6)
    assert jnp.ones(()).dtype == jnp.float32  # nothing is left switched on


def test_what_cannot_be_followed_in_float64_is_checked_in_float32(data):
    class Foreign(nn.Module):
        @nn.compact
        def __call__(self, image):
            x = nn.Dense(16)(image.reshape(image.shape[0], -1))
            return nn.Dense(4)(called_back(x))

    @jax.custom_vjp
    def called_back(x):
        return jax.pure_callback(lambda x: np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    called_back.defvjp(lambda x: (called_back(x), None), lambda _, gradient: (gradient,))
    found = gradient.gradient_check(subject_of(Foreign(), data))
    assert found.verdict == "pass" and "float32 only" in found.value


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_a_running_average_is_taken_to_its_limit(momentum):
    values = np.array([2.0, -3.0])
    ends = [momentum * old + (1 - momentum) * values for old in (np.zeros(2), np.ones(2))]
    np.testing.assert_allclose(limit_of_average(np.zeros(2), *ends), values, rtol=1e-5)


def test_nan_is_never_a_pass():
    assert grade(float("nan"), 1, 2) == "fail"
    assert [grade(x, 1, 2) for x in (0.5, 1.5, 2.5)] == ["pass", "warn", "fail"]


def test_every_check_has_a_name_of_its_own_and_says_what_it_does():
    names = [name for _, name, _ in CHECKS]
    assert len(set(names)) == len(names) and all(function.__doc__ for _, _, function in CHECKS)


def test_a_checkup_survives_json_and_is_shown(data, capsys):
    from jaxtrain.terminal import Terminal

    found = check(jt.MLP(7), data, CONFIG)
    assert Checkup.from_json(json.loads(json.dumps(found.to_json()))) == found
    found.show(Terminal())
    out = capsys.readouterr().out
    assert "fail  request" in out and "expected: network, task and data fit" in out
    assert "pass  label balance" in out and "skip  gradient check" in out


def test_the_script_exits_with_1_where_a_check_fails_and_writes_the_checks(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/check.py"), "--config", str(ROOT / "configs/digits.py")]
    command += ["--model.hidden", "16", "--model.num_outputs=7", "--output", str(tmp_path / "checks.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 1, done.stderr
    stored = Checkup.from_json(json.loads((tmp_path / "checks.json").read_text()))
    assert [c.name for c in stored.failed] == ["request"] and "fail  request" in done.stdout
