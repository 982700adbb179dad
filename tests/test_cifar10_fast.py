"""The fast CIFAR-10 training as a whole, on a slice of the data and by a narrower network; and what it counts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import jaxtrain as jt
from jaxtrain.config import Config
from jaxtrain.configfile import from_json, load_config, to_json
from jaxtrain.request import check_values
from jaxtrain.step import Setting, as_model
from jaxtrain.tasks import Classification

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "cifar10_fast.py"
sys.path.insert(0, str(ROOT / "benchmarks"))  # its files are scripts, no package, and so come after this line

from cifar10_fast import forward_flops, training_flops  # noqa: E402
from cifar10_parts import PARTS  # noqa: E402

SLICE = "--examples 4000 --seeds 2 --rounds 1 --epochs 4 --batch_size 100 --eval_batch_size 200"
NARROW = "--model.widths 16 32 32 --model.dtype float32 --hyper.rest_rate 22 --frozen_after whitening/bias 1.5"


def run(*args, cwd):
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_the_whole_measurement_runs_on_a_slice_and_learns(real_data, tmp_path):
    done = run(*SLICE.split(), *NARROW.split(), "--data", real_data, "--output", "fast.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["compiled", "compiled", "2"]
    found = json.loads((tmp_path / "fast.json").read_text())
    cold, warm, seeds = found["cold"], found["warm"], found["seeds"]
    assert 0 < warm["compile_seconds"] and 0 < cold["compile_seconds"]
    assert warm["steps"] == 4 * 39 and warm["num_train"] == 3920 and warm["num_test"] == 4000
    assert warm["rounds"][0]["accuracy"] > 0.4 and min(seeds["members"]) > 0.4
    # Seed 0 of both is the same training, by the loop alone and by `fit`.
    assert seeds["members"][0] == pytest.approx(warm["rounds"][0]["accuracy"], abs=1e-6)
    assert seeds["accuracy"]["count"] == 2 and seeds["accuracy"]["low"] <= seeds["accuracy"]["mean"]
    assert 0 < warm["share_of_the_device"] < 1 and warm["floor_seconds"] < warm["seconds"]


@pytest.mark.parametrize("name", PARTS)
def test_each_part_left_out_is_another_config_that_can_be_trained(name):
    whole = load_config(str(ROOT / "configs" / "cifar10_fast.py"))
    changed = PARTS[name](whole)
    assert (changed == whole) == (name == "the whole")
    assert from_json(to_json(changed)) == changed
    check_values(changed.config, changed.hyper)


@pytest.mark.slow
def test_what_a_part_brings_is_told_seed_by_seed(real_data, tmp_path):
    flags = "--examples 600 --epochs 1 --batch_size 100 --seeds 2 --model.widths 8 16 16 --model.dtype float32"
    only = ["--only", "one view", "--data", str(real_data), "--output", "parts.json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "cifar10_parts.py"), *flags.split(), *only]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "parts.json").read_text())["parts"]
    whole, other = parts["the whole"], parts["one view"]
    assert other["minus_the_whole"]["difference"] == pytest.approx(
        sum(b - a for a, b in zip(whole["members"], other["members"], strict=True)) / 2
    )


def test_the_work_is_what_is_counted_by_hand():
    config = Config(epochs=8, batch_size=2000)
    setting = Setting(as_model(jt.Airbench()), Classification(10), config, (32, 32, 3), 50_000)
    places = {(24, 12): 961, (64, 24 * 9): 961, (64, 64 * 9): 225, (256, 64 * 9): 225}
    by_hand = sum(2 * a * b * n for (a, b), n in places.items())
    by_hand += 2 * 256 * 256 * 9 * (49 + 49 + 9) + 2 * 256 * 10
    assert forward_flops(setting, jt.Hyper()) == by_hand
    assert training_flops(setting, jt.Hyper()) == 3 * by_hand * 400_000


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--seeds", "-1"], "--seeds is -1"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--epochz", "2"], "epochs"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(tmp_path, flags, message):
    done = run(*flags, cwd=tmp_path)
    assert done.returncode in (1, 2) and message in done.stderr and "Traceback" not in done.stderr
