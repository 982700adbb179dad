"""The scripts as a user runs them: uninstalled, from a checkout, each error one sentence with its exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
BARE = ["--no-report", "--probe_every_steps", "None"]  # what takes seconds to compile and to draw
QUICK = ["--model.hidden", "16", "--epochs", "2", *BARE]


def start(script, *args, cwd, **env):
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, args)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cwd / "cache"), **env}
    if "JAXTRAIN_DATA" not in env:
        environment.pop("JAXTRAIN_DATA", None)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(script, *args, cwd, **env):
    process = start(script, *args, cwd=cwd, **env)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("scripts")
    status, out, err = run("train", "--config", ROOT / "configs/digits.py", *QUICK, cwd=cwd)
    assert status == 0, err
    return cwd, out, next((cwd / "runs").iterdir())


def test_train_says_the_folder_and_the_tensorboard_command_first(finished):
    _, out, folder = finished
    assert re.fullmatch(r"digits-\d{8}-\d{6}", folder.name)
    assert out.startswith(f"run folder: runs/{folder.name}\ntensorboard --logdir runs\n")
    assert "epoch 2/2" in out and "digest" in out and "img/s" in out


def test_evaluate_scores_the_run_as_its_summary_says(finished):
    cwd, _, folder = finished
    status, out, err = run("evaluate", folder, cwd=cwd)
    assert status == 0, err
    summary = json.loads((folder / "summary.json").read_text())
    assert json.loads(out)["accuracy"] == pytest.approx(summary["test"]["accuracy"], abs=1e-6)


def test_predict_prints_a_label_for_each_image(finished):
    from PIL import Image

    cwd, _, folder = finished
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(cwd / name)
    status, out, err = run("predict", folder, "a.png", "b.png", "--top", 2, cwd=cwd)
    assert status == 0, err
    assert re.fullmatch(r"(?:[ab]\.png: \d [\d.]+ %, \d [\d.]+ %\n){2}", out)


def test_both_take_the_views_of_an_image_to_average_over(finished):
    from PIL import Image

    cwd, _, folder = finished
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(cwd / "slope.png")
    answers = []
    for tta in ("none", "mirror"):
        status, out, err = run("evaluate", folder, "--tta", tta, cwd=cwd)
        assert status == 0, err
        answers.append((json.loads(out)["loss"], run("predict", folder, "slope.png", "--tta", tta, cwd=cwd)[1]))
    assert answers[0] != answers[1] and all(a != b for a, b in zip(*answers, strict=True))
    status, _, err = run("evaluate", folder, "--tta", "five", cwd=cwd)
    assert status == 2 and "mirror_translate" in err


def test_a_run_is_repeated_from_its_json(finished):
    cwd, _, folder = finished
    status, _, err = run(
        "train", "--config", folder / "config.json", "--workdir", "again", "--quiet", "--no-report", cwd=cwd
    )
    assert status == 0, err
    first, again = (json.loads((p / "summary.json").read_text()) for p in (folder, cwd / "again"))
    assert first["digest"] == again["digest"]


REFUSED = {
    "no config": ([], 2, "--config is missing"),
    "missing file": (["--config", "configs/mnst.py"], 2, "missing"),
    "unknown variant": (["--config", ROOT / "configs/mnist.py:resnet"], 2, "unknown variant 'resnet'"),
    "unknown key": (["--config", ROOT / "configs/digits.py", "--hyper.learning_rat=1"], 2, "--hyper.learning_rate"),
    "wrong type": (["--config", ROOT / "configs/digits.py", "--epochs=ten"], 2, "epochs"),
    "out of range": (["--config", ROOT / "configs/digits.py", "--hyper.dropout_rate=1"], 2, "must lie in [0, 1)"),
    "missing data": (["--config", ROOT / "configs/cifar10.py", "--data.download=False"], 1, "JAXTRAIN_DATA"),
    "resume of nothing": (["--config", ROOT / "configs/digits.py", "--resume"], 2, "--workdir"),
    "folder is a file": (["--config", ROOT / "configs/digits.py", "--workdir", "file"], 1, "file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_request_is_one_line_without_a_traceback(tmp_path, name):
    args, expected, message = REFUSED[name]
    (tmp_path / "file").write_text("")
    status, out, err = run("train", *args, cwd=tmp_path)
    assert status == expected, err
    assert err.startswith("error: ") and message in err and "Traceback" not in err + out
    assert not (tmp_path / "runs").exists()


def test_a_rate_test_that_cannot_begin_leaves_no_folder(tmp_path):
    status, out, err = run("lr_range", "--config", ROOT / "configs/digits.py", "--steps=0", cwd=tmp_path)
    assert status == 2 and "at least 3 rates and 1 step" in err and "Traceback" not in err + out
    assert not list(tmp_path.glob("runs/*"))


def test_a_stand_in_is_announced_and_recorded_in_name_manifest_and_summary(tmp_path):
    args = [
        "--config",
        ROOT / "configs/mnist.py",
        "--data.download=False",
        "--epochs=1",
        "--model.hidden",
        "8",
        "--quiet",
        *BARE,
    ]
    status, out, err = run("train", *args, cwd=tmp_path)
    assert status == 0, err
    folder = next((tmp_path / "runs").iterdir())
    assert "fallback-digits" in folder.name and "digits" in out
    for file in ("summary.json", "manifest.json"):
        assert json.loads((folder / file).read_text())["data"]["fallback"] == "digits"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_checkpoint_and_it_resumes(tmp_path, number, status):
    args = ["--config", ROOT / "configs/digits.py", "--workdir", "run", "--epochs", "3000", *BARE]
    process = start("train", *args, cwd=tmp_path)
    events = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (events.exists() and events.read_text().count("\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert list((tmp_path / "run" / "checkpoints").glob("0*"))
    step = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").glob("0*"))
    status, out, err = run("train", *args[2:4], "--no-report", "--resume", "--epochs", step // 19 + 1, cwd=tmp_path)
    assert status == 0 and f"resumed from step {step}" in out, err


def test_help_shows_the_fields_and_print_config_the_values(tmp_path):
    status, out, _ = run("train", "--config", ROOT / "configs/digits.py", "--help", cwd=tmp_path)
    assert status == 0 and "--hyper.learning" in out and "Peak of the schedule" in out and "--workdir" in out
    status, out, _ = run("train", "--config", ROOT / "configs/digits.py", "--print-config", "--seed=3", cwd=tmp_path)
    assert status == 0 and json.loads(out)["seed"] == 3
