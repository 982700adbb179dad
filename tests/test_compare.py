"""scripts/compare.py on runs written by hand: what it prints, what it leaves out and says so, what it refuses."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxtrain.config import DataConfig, Experiment
from jaxtrain.configfile import to_json
from jaxtrain.errors import RequestError
from jaxtrain.models import MLP

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "compare.py"
BEFORE = {0: 0.970, 1: 0.972, 2: 0.971, 3: 0.969}
AFTER = {0: 0.974, 1: 0.975, 2: 0.976, 3: 0.973}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def write(tmp_path):
    def written(name, accuracy, *, diverged=(), splits=("train", "val", "test"), sha256="0" * 64, **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = to_json(Experiment(MLP(10, hidden=(8,)), DataConfig(), seed=min(accuracy)))
        for path, value in changes.items():
            part, _, field = path.partition("__")
            config[part][field] = value
        members = [
            {"seed": seed, "status": "done", **{split: {"loss": 1 - a, "accuracy": a} for split in splits}}
            for seed, a in accuracy.items()
        ]
        members += [{"seed": seed, "status": "diverged"} for seed in diverged]
        data = {"name": "digits", "sha256": sha256, "num_train": 80, "num_val": 20, "num_test": 50}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "summary.json").write_text(json.dumps({"status": "done", "data": data, "members": members}))
        return str(folder)

    return written


def test_it_prints_the_configs_difference_both_runs_and_the_verdict_last(script, write, capsys):
    script.main([write("a", BEFORE), write("b", AFTER, hyper__learning_rate=0.01)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["b against a: what differs", "  hyper.learning_rate is 0.01, was 0.001"]
    rows = [" ".join(line.split()) for line in lines]
    assert "a 4 97.05 ± 0.13 % 96.84 to 97.26" in rows and "b 4 97.45 ± 0.13 % 97.24 to 97.66" in rows
    assert lines[-1].startswith("b is better by 0.40 points of test accuracy (95 % interval 0.27 to 0.53; paired")


def test_json_holds_what_is_printed(script, write, capsys):
    script.main([write("a", BEFORE), write("b", AFTER, hyper__learning_rate=0.01), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["runs"]["b"]["mean"] == pytest.approx(0.9745) and report["runs"]["a"]["count"] == 4
    assert report["comparison"]["paired"] and report["comparison"]["p_value"] == pytest.approx(0.00226, abs=1e-5)
    assert report["changed"] == ["hyper.learning_rate is 0.01, was 0.001"]
    assert report["verdict"].startswith("b is better by 0.40")


def test_seeds_and_bookkeeping_are_no_difference_of_the_configs_but_epochs_are(script, write, capsys):
    a = write("a", BEFORE)
    script.main([a, write("b", {seed: AFTER[seed] for seed in (1, 2)}, config__log_every_steps=7)])
    assert "b against a: the same config" in capsys.readouterr().out
    script.main([a, write("c", AFTER, config__epochs=11)])
    assert "config.epochs is 11, was 10" in capsys.readouterr().out


def test_many_differences_are_cut_short(script, write, capsys):
    many = {f"hyper__field_{i}": i for i in range(13)}
    script.main([write("a", BEFORE), write("b", AFTER, **many)])
    out = capsys.readouterr().out
    assert "field_9" in out and "field_10" not in out and "and 3 more" in out


def test_a_low_loss_is_the_better_one(script, write, capsys):
    script.main([write("a", BEFORE), write("b", AFTER), "--metric", "loss", "--split", "val"])
    assert "b is better by 0.0040 in val loss (95 % interval 0.0027 to 0.0053" in capsys.readouterr().out


def test_seeds_without_a_partner_and_diverged_ones_are_left_out_and_named(script, write, capsys):
    a = write("a", {**BEFORE, 8: 0.1, 9: 0.1})
    script.main([a, write("b", {s: AFTER[s] for s in (3, 1, 0)}, diverged=(2,))])
    out = capsys.readouterr().out
    assert "seeds of a that are left out: 2, 8, 9 (no partner)" in out
    assert "seeds of b that are left out: 2 (diverged)" in out
    assert "paired t-test over 3 seeds" in out


def test_runs_without_common_seeds_are_compared_as_a_whole(script, write, capsys):
    script.main([write("a", BEFORE), write("b", {seed + 10: value for seed, value in AFTER.items()})])
    out = capsys.readouterr().out
    assert "Welch's t-test over 4 and 4 seeds" in out and "the seeds are not paired" in out


def test_a_single_seed_tells_nothing_and_more_are_recommended(script, write, capsys):
    script.main([write("a", BEFORE), write("b", {0: 0.98})])
    out = capsys.readouterr().out
    assert "one seed tells nothing about the spread" in out and "run at least 5 seeds of each" in out


def test_the_same_scores_are_identical(script, write, capsys):
    script.main([write("a", BEFORE), write("b", BEFORE)])
    assert "identical: a and b have the same test accuracy on every seed" in capsys.readouterr().out


def test_without_test_scores_validation_is_compared_and_the_fair_choice_named(script, write, capsys):
    a, b = write("a", BEFORE), write("b", AFTER, splits=("train", "val"))
    script.main([a, b])
    out = capsys.readouterr().out
    assert "points of val accuracy" in out and "a choice by test is no fair selection" in out
    with pytest.raises(RequestError, match="b has no test scores"):
        script.main([a, b, "--split", "test"])


def test_runs_of_one_name_are_called_by_their_paths(script, write, capsys):
    a, b = write("one/run", BEFORE), write("two/run", AFTER)
    script.main([a, b])
    assert f"{b} is better" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(("watch", "verb"), [("+f1", "b is better"), ("-f1", "a is better"), ("auto", "b is higher")])
def test_a_metric_of_ones_own_has_the_direction_that_the_run_watched(script, write, capsys, watch, verb):
    folders = [write(name, values, config__watch=watch) for name, values in (("a", BEFORE), ("b", AFTER))]
    for folder in folders:
        path = Path(folder) / "summary.json"
        path.write_text(path.read_text().replace('"accuracy"', '"f1"'))
    script.main([*folders, "--metric", "f1"])
    assert f"{verb} by 0.0040 in test f1" in capsys.readouterr().out


def test_runs_on_different_data_are_refused_naming_both(script, write):
    with pytest.raises(RequestError, match=r"scores of .*a and .*b are of different examples"):
        script.main([write("a", BEFORE), write("b", AFTER, sha256="1" * 64)])


def test_one_folder_given_twice_is_refused(script, write):
    a = write("a", BEFORE)
    with pytest.raises(RequestError, match="given twice"):
        script.main([a, f"{a}/."])


def test_as_a_program_it_ends_with_0_and_a_wrong_request_with_2(write):
    a, b = write("a", BEFORE), write("b", AFTER)
    for args, status in (([a, b], 0), ([a, b, "--metric", "accurcy"], 2)):
        done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert done.stderr.count("error: ") == (status == 2) and "Traceback" not in done.stderr
