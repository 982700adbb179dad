"""A run's folder, its result read back, fine-tuning, and requests that are refused before anything is written."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain import files
from jaxtrain import run as run_module
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.types import Hyper

NET = jt.MLP(hidden=(32,))
HYPER = Hyper(learning_rate=3e-3, dropout_rate=0.3)
CONFIG = jt.Config(epochs=2, batch_size=64)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def digits():
    return jt.load_data(jt.DataConfig(name="digits"))


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return jt.fit(NET, jt.DataConfig(name="digits"), CONFIG, HYPER, seed=4, workdir=folder, quiet=True)


def test_the_folder_holds_what_is_promised(finished):
    names = {path.name for path in finished.folder.iterdir()}
    expected = {"config.json", "manifest.json", "metrics.jsonl", "summary.json", "curves.png", "train", "val", "test"}
    assert expected | {"checkpoints", "weights"} <= names
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(finished.summary))
    for key in ("steps", "epochs", "seconds", "seconds_to_first_step", "images_per_second", "num_parameters", "digest"):
        assert summary[key]
    assert summary["test"]["accuracy"] == finished.test.accuracy and summary["data"]["name"] == "digits"
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert manifest["data"]["sha256"] == summary["data"]["sha256"] and manifest["versions"]["jax"] == jax.__version__


def test_a_finished_run_reads_back_equal(finished, digits):
    run = jt.load_run(finished.folder)
    assert run.summary["digest"] == finished.summary["digest"] and run.history == finished.history
    assert run.seed == 4 and run.val.accuracy == finished.val.accuracy
    image = digits.image[:20]
    np.testing.assert_array_equal(run.predict(image).probability, finished.predict(image).probability)


def test_predict_is_independent_of_how_many_images_come_at_once(finished, digits):
    together = finished.predict(digits.image[:9])
    alone = np.concatenate([finished.predict(digits.image[i : i + 1]).probability for i in range(9)])
    np.testing.assert_allclose(together.probability, alone, atol=1e-6)
    np.testing.assert_allclose(together.probability.sum(1), 1, rtol=1e-5)
    assert (together.label == together.probability.argmax(1)).all()


def test_the_json_of_a_run_repeats_it_bit_for_bit(finished, tmp_path):
    from jaxtrain.configfile import load_config

    again = load_config(str(finished.folder / "config.json"))
    run = jt.fit(again.model, again.data, again.config, again.hyper, seed=again.seed, quiet=True)
    assert run.summary["digest"] == finished.summary["digest"]


def test_seeds_differ(digits, finished):
    other = jt.fit(NET, digits, CONFIG, HYPER, seed=5, quiet=True)
    assert other.summary["digest"] != finished.summary["digest"]


def test_a_config_of_another_network_does_not_fit_the_weights(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    stored["model"]["hidden"] = [33]
    path.write_text(json.dumps(stored))
    with pytest.raises(RequestError, match=r"weights are not of the network of its config.json: the checkpoint has pa"):
        jt.load_run(tmp_path / "run")


def test_a_report_that_a_kill_has_prevented_is_made_up_for(finished, tmp_path, monkeypatch):
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink(missing_ok=True)
    made = []
    monkeypatch.setattr(run_module, "_report", lambda run, *_: made.append(run.summary["digest"]))
    for _ in range(2):
        jt.fit(NET, jt.DataConfig(name="digits"), CONFIG, HYPER, seed=4, workdir=tmp_path / "run", resume=True)
        (tmp_path / "run" / "report.html").touch()
    assert made == [finished.summary["digest"]]  # and where there is one it is not drawn again


def test_what_was_logged_and_not_written_at_the_end_is_a_failure(digits, tmp_path, monkeypatch):
    push = files.Appender._push

    def full(self):
        if self.path.name == "metrics.jsonl" and self._waiting:
            self._note("no space left on device")
        else:
            push(self)

    monkeypatch.setattr(files.Appender, "_push", full)
    with pytest.raises(WorldError, match="not the last of what was logged: .*metrics.jsonl: no space left on device"):
        jt.fit(NET, digits, CONFIG, HYPER, workdir=tmp_path / "run", quiet=True)
    assert jt.load_run(tmp_path / "run").summary["status"] == "done"


def test_a_users_network_is_named_and_has_to_be_passed(digits, tmp_path):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, image):
            return nn.Dense(10)(image.reshape(image.shape[0], -1))

    run = jt.fit(Net(), digits, CONFIG, HYPER, workdir=tmp_path / "run", quiet=True)
    with pytest.raises(RequestError, match=r"load_run\(folder, model="):
        jt.load_run(tmp_path / "run")
    again = jt.load_run(tmp_path / "run", model=Net())
    np.testing.assert_array_equal(again.predict(digits.image[:3]).label, run.predict(digits.image[:3]).label)


def test_fine_tuning_starts_from_the_weights_and_keeps_frozen_parts(finished, digits):
    config = dataclasses.replace(CONFIG, frozen=("Dense_0", "BatchNorm_0"))
    tuned = jt.fit(NET, digits, config, HYPER, init_from=finished.folder, quiet=True)
    np.testing.assert_array_equal(tuned.params["Dense_0"]["kernel"], finished.params["Dense_0"]["kernel"])
    assert not np.array_equal(tuned.params["outputs"]["kernel"], finished.params["outputs"]["kernel"])
    assert tuned.val.accuracy >= finished.val.accuracy - 0.02


def test_a_head_of_another_size_starts_afresh(finished, digits, capsys):
    random = np.random.default_rng(0)
    few = jt.from_arrays(digits.image[:600], (digits.label[:600] % 2).astype(np.int32), num_classes=2)
    tuned = jt.fit(jt.MLP(num_outputs=2, hidden=(32,)), few, CONFIG, HYPER, init_from=finished)
    assert "afresh: outputs/bias, outputs/kernel" in capsys.readouterr().out
    assert tuned.predict(random.integers(0, 255, (2, 8, 8, 1), dtype=np.uint8)).probability.shape == (2, 2)


def test_nothing_of_another_architecture_is_taken(finished, digits):
    with pytest.raises(RequestError, match="no kernel of that run"):
        jt.fit(jt.CNN(features=(4,), hidden=0), digits, CONFIG, HYPER, init_from=finished, quiet=True)


def test_without_a_folder_nothing_is_written(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jt.fit(NET, digits, CONFIG, HYPER, quiet=True)
    assert list(tmp_path.iterdir()) == []


def replace(target, **changes):
    return dataclasses.replace(target, **changes)


REFUSED = {
    "batch larger than the split": (
        dict(config=replace(CONFIG, batch_size=5000)),
        "batch_size is 5000, but the training split",
    ),
    "batch of one with BatchNorm": (dict(config=replace(CONFIG, batch_size=1)), "1 value per channel"),
    "micro-batches that do not divide": (dict(config=replace(CONFIG, num_micro_batches=7)), "micro-batches"),
    "dropout rate of 1": (dict(hyper=replace(HYPER, dropout_rate=1.0)), r"dropout_rate is 1; it must lie in \[0, 1\)"),
    "negative rate": (dict(hyper=replace(HYPER, learning_rate=-1.0)), "learning_rate is -1"),
    "NaN in hyper": (dict(hyper=replace(HYPER, weight_decay=float("nan"))), "weight_decay is nan"),
    "NaN in extra": (dict(hyper=replace(HYPER, extra={"mine": float("nan")})), "extra.mine is nan"),
    "infinite rate": (dict(hyper=replace(HYPER, learning_rate=float("inf"))), "learning_rate is inf"),
    "a network for another number of classes": (dict(model=jt.MLP(num_outputs=7, hidden=(8,))), r"expected \[64, 10\]"),
    "a network that cannot take the image": (
        dict(model=jt.CNN(features=(4, 4, 4, 4), hidden=8)),
        "leaves nothing of 1 x 1",
    ),
    "a network class, not an instance": (dict(model=jt.MLP), "give a flax.linen Module"),
    "crop larger than the image": (dict(config=replace(CONFIG, augment=jt.Augment(crop=9))), "crop"),
    "unknown metric to watch": (dict(config=replace(CONFIG, watch="acuracy")), "metrics are accuracy, loss"),
    "unknown frozen part": (dict(config=replace(CONFIG, frozen=("Dens_0",))), "nearest: Dense_0"),
    "unknown part to be frozen": (
        dict(config=replace(CONFIG, frozen_after=(("Dens_0", 1.0),))),
        "config.frozen_after has 'Dens_0'.*nearest: Dense_0",
    ),
    "frozen twice": (
        dict(config=replace(CONFIG, frozen=("Dense_0",), frozen_after=(("Dense_0/kernel", 1.0),))),
        "'Dense_0/kernel', parameters that config.frozen names too",
    ),
    "frozen after two times": (
        dict(config=replace(CONFIG, frozen_after=(("Dense_0", 1.0), ("Dense_0/kernel", 2.0)))),
        r"its entry \('Dense_0', 1.0\) names too",
    ),
    "frozen after nothing": (dict(config=replace(CONFIG, frozen_after=(("Dense_0", 0.0),))), "give more than 0"),
    "alternate without flip": (dict(config=replace(CONFIG, augment=jt.Augment(alternate=True))), "augment.flip, too"),
    "an unknown view": (dict(config=replace(CONFIG, tta="five")), "one of 'none', 'mirror', 'mirror_translate'"),
    "momentum of the rest": (dict(hyper=replace(HYPER, rest_momentum=1.0)), "rest_momentum is 1"),
    "final without its average": (dict(config=replace(CONFIG, final="ema")), "needs config.ema_decay"),
    "no epochs": (dict(config=replace(CONFIG, epochs=0)), "epochs is 0"),
    "warm-up longer than the run": (dict(config=replace(CONFIG, schedule=jt.Schedule(warmup=9))), "warm"),
    "patience of 0": (dict(config=replace(CONFIG, early_stopping=jt.EarlyStopping(patience=0))), "patience is 0"),
    "plateau that raises the rate": (dict(config=replace(CONFIG, plateau=jt.Plateau(factor=2.0))), "factor is 2.0"),
    "a wrong type": (dict(config=replace(CONFIG, epochs=1.5)), "epochs is 1.5"),
    "start from nothing": (dict(init_from="nowhere"), "nowhere holds no run"),
    "profiled steps that the run has not": (dict(profile_steps=(5, 10**6)), "give a:b with 0 <= a < b"),
    "watch of unknown direction": (dict(config=replace(CONFIG, watch="+nothing")), "metrics are accuracy, loss"),
    "schedule out of range": (dict(config=replace(CONFIG, schedule=jt.Schedule(factor=2.0))), "factor is 2.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_request_is_one_sentence_and_leaves_no_folder(digits, tmp_path, name):
    changes, message = REFUSED[name]
    request = {"model": NET, "data": digits, "config": CONFIG, "hyper": HYPER, **changes}
    with pytest.raises(RequestError, match=message) as caught:
        jt.fit(**request, workdir=tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_written_over(finished, digits):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    with pytest.raises(RequestError, match="holds a finished run; continue it with --resume, or choose another folder"):
        jt.fit(NET, digits, CONFIG, HYPER, workdir=finished.folder, quiet=True)
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}


def test_a_folder_that_is_a_file_or_cannot_be_written_is_refused(digits, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(WorldError, match="file"):
            jt.fit(NET, digits, CONFIG, HYPER, workdir=folder, quiet=True)


def test_a_run_resumed_on_another_machine_says_that_bits_may_differ(digits, tmp_path, monkeypatch, capsys):
    jt.fit(NET, digits, replace(CONFIG, epochs=1), HYPER, workdir=tmp_path / "run", quiet=True)
    facts = run_module.manifest()
    monkeypatch.setattr(run_module, "manifest", lambda: {**facts, "num_cores": 64})
    jt.fit(NET, digits, CONFIG, HYPER, workdir=tmp_path / "run", resume=True, quiet=True)
    assert re.search(r"warning: num_cores was \d+, is 64: .* no longer bit for bit", capsys.readouterr().out)


def test_resume_of_nothing_says_so(digits, tmp_path):
    with pytest.raises(RequestError, match="holds no run to resume"):
        jt.fit(NET, digits, CONFIG, HYPER, workdir=tmp_path / "none", resume=True, quiet=True)
    with pytest.raises(RequestError, match="holds no run"):
        jt.load_run(tmp_path / "none")


def test_predict_refuses_images_of_another_shape_or_range(finished):
    with pytest.raises(RequestError, match=r"trained on \[B, 8, 8, 1\]"):
        finished.predict(np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(RequestError, match="float64; this network was trained on uint8"):
        finished.predict(np.zeros((2, 8, 8)))


def test_import_is_quick_quiet_and_changes_no_setting():
    code = (
        "import jax, sys; before = dict(jax.config.values); import jaxtrain; assert dict(jax.config.values) == before;"
        "late = {'orbax', 'matplotlib', 'tensorboardX', 'tensorboard', 'PIL', 'tyro'} & sys.modules.keys();"
        "assert not late, late"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == done.stderr == "", done.stderr


@pytest.mark.whole_runs
def test_a_run_that_diverges_says_what_its_looks_show(tmp_path, capsys):
    rng = np.random.default_rng(0)
    data = jt.from_arrays(rng.uniform(0, 255, (400, 20)).astype(np.float32), rng.integers(0, 3, 400), preprocess="none")
    config, hyper = jt.Config(epochs=2, optimizer=jt.Sgd()), jt.Hyper(learning_rate=1e30)
    with pytest.raises(NonFiniteError):
        jt.fit(jt.MLP(3, hidden=(8,), batch_norm=False), data, config, hyper, workdir=tmp_path / "run", report=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "diagnosis: The inputs are not normalised" in said and "The training has diverged" not in said
