"""Histories: a run's folder, finished or not; curves that other programs wrote; and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.diagnose import History, diagnose, read_csv, read_members, read_run
from jaxtrain.diagnose.foreign import column_name, column_names
from jaxtrain.errors import NonFiniteError, RequestError, WorldError

CONFIG = jt.Config(epochs=4, batch_size=16, log_every_steps=4)


def fit(tiny, folder, **request):
    data = jt.from_arrays(*tiny, test=tiny)
    request = {"config": CONFIG, "hyper": jt.Hyper(weight_decay=0.01), **request}
    return jt.fit(jt.MLP(4, hidden=(8,)), data, workdir=folder, quiet=True, report=False, **request)


@pytest.mark.whole_runs
def test_a_run_is_read_with_its_curves_looks_and_facts(tiny, tmp_path):
    run = fit(tiny, tmp_path / "run")
    history = read_run(tmp_path / "run")
    assert [row["val/loss"] for row in history.rows] == [row["val/loss"] for row in run.history]
    assert history.curve("val_label_rank").min() >= 1 and history.curve("val_label_rank").max() <= 4
    assert set(history.layers("update_ratio")) == {"Dense_0", "outputs"}
    assert history.seen("gradient_agreement").max() <= 1 and "train/step_loss" in history.points[0]
    facts = history.facts
    assert (facts["batch_size"], facts["optimizer"], facts["schedule"], facts["epochs"]) == (16, "Adam", "cosine", 4)
    assert facts["num_classes"] == 4 and facts["chance_loss"] <= math.log(4) + 1e-6
    assert history.status == "done" and history.test == run.summary["test"] and history.note == ""


@pytest.mark.whole_runs
def test_a_run_that_goes_on_or_was_stopped_is_read_as_far_as_it_has_come(tiny, tmp_path):
    fit(tiny, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "train/st')  # a kill, or a reader that was too quick
    history = read_run(tmp_path / "run")
    assert history.status == "running" and history.test == {} and len(history.rows) == 4


@pytest.mark.whole_runs
def test_a_run_that_diverged_says_so_and_its_members_do(tiny, tmp_path):
    hyper = {"config": jt.Config(epochs=4, batch_size=16, optimizer=jt.Sgd()), "hyper": jt.Hyper(learning_rate=1e30)}
    with pytest.raises(NonFiniteError):
        fit(tiny, tmp_path / "one", **hyper)
    with pytest.raises(NonFiniteError):
        fit(tiny, tmp_path / "two", seeds=(0, 1), **hyper)
    histories = [read_run(tmp_path / "one"), *read_members(tmp_path / "two").values()]
    assert len(histories) == 3
    for history in histories:
        assert history.status == "diverged" and "NaN" in history.note
        assert history.facts["optimizer"] == "Sgd"  # a member's config is the run's


def test_json_has_it_all_to_five_digits():
    rows = ({"step": 1, "epoch": 1, "val/loss": 1 / 3}, {"step": 2, "epoch": 2, "val/loss": math.inf})
    looks = ({"step": 0, "gradient_norm": 2.0}, {"step": 1})
    history = History(rows, (), looks, {"num_classes": 10}, {"accuracy": 0.5}, "diverged", "NaN", "x")
    again = History.from_json(json.loads(json.dumps(history.to_json())))
    assert again.curve("val/loss").tolist() == [0.33333, math.inf]
    assert np.isnan(again.seen("gradient_norm")[1]) and again.seen("gradient_norm")[0] == 2
    assert (again.facts, again.test, again.status, again.note) == (
        {"num_classes": 10},
        {"accuracy": 0.5},
        "diverged",
        "NaN",
    )


@pytest.mark.parametrize(
    "given, expected",
    [
        ("loss", "train/loss"),
        ("val_loss", "val/loss"),
        ("eval_loss", "val/loss"),
        ("Validation Loss", "val/loss"),
        ("valid_acc", "val/accuracy"),
        ("train_loss_epoch", "train/loss"),
        ("train_loss_step", None),
        ("sparse_categorical_accuracy", "train/accuracy"),
        ("val_sparse_categorical_accuracy", "val/accuracy"),
        ("trainLoss", "train/loss"),
        ("val/top1", "val/accuracy"),
        ("test_acc", "test/accuracy"),
        ("lr", "learning_rate"),
        ("learning_rate", "learning_rate"),
        ("Epoch", "epoch"),
        ("", "epoch"),
        ("global_step", "step"),
        ("val_mean_squared_error", "val/loss"),
        ("time", None),
        ("error_rate", None),
        ("val_log_loss", "val/loss"),
        ("train_deviance", "train/loss"),
        ("Unnamed: 0", "epoch"),
        ("n_estimators", "epoch"),
        ("run - val_loss__MIN", None),
        ("gpu_temperature", None),
        ("\u635f\u5931", None),
    ],
)
def test_columns_are_known_by_the_names_that_programs_give(given, expected):
    assert column_name(given) == expected


@pytest.mark.parametrize(
    "header, expected",
    [
        ("epoch,train_loss,valid_loss,accuracy,time", "epoch train/loss val/loss val/accuracy -"),  # fastai
        ("epoch,train_loss,valid_loss,_rmse,time", "epoch train/loss val/loss - -"),
        ("epoch,accuracy,loss,val_accuracy,val_loss", "epoch train/accuracy train/loss val/accuracy val/loss"),  # Keras
        ("epoch,mse,val_mse", "epoch train/loss val/loss"),
        ("epoch,binary_crossentropy,loss,val_loss", "epoch - train/loss val/loss"),
        ("loss,epoch,eval_loss,train_loss", "train/loss epoch val/loss -"),  # the Transformers library
        (",epoch,train_log_loss,val_score", "- epoch train/loss val/accuracy"),  # scikit-learn, by pandas
        (",loss,validation_score", "epoch train/loss -"),  # of a regression it may be
        ("epoch,train_loss,test_loss,test_acc", "epoch train/loss val/loss val/accuracy"),
        ("epoch,train_loss,val_loss,test_loss", "epoch train/loss val/loss test/loss"),
    ],
)
def test_a_column_is_understood_with_its_neighbours(header, expected):
    assert [name or "-" for name in column_names(header.split(","))] == expected.split()


def test_training_logged_between_evaluations_is_gathered_to_them(tmp_path):
    """The Transformers library's log, at shares of an epoch, with its summary as the last row."""
    lines = ["loss,learning_rate,epoch,step,eval_loss,train_loss"]
    for t in range(1, 6):
        lines += [f"{1 / t},0.001,{t - 0.5},{t * 10 - 5},,", f"{3 / t},0.001,{t - 0.2},{t * 10 - 2},,"]
        lines += [f",,{t}.0,{t * 10},{2 / t},"]
    (tmp_path / "log.csv").write_text("\n".join([*lines, ",,5.0,50,,0.9"]))
    history = read_csv(tmp_path / "log.csv")
    assert history.epochs.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(history.curve("train/loss"), history.curve("val/loss"))


def test_losses_of_single_batches_are_averaged(tmp_path):
    (tmp_path / "log.csv").write_text("\n".join(["iter,loss", *(f"{i},{1 + (-1) ** i}" for i in range(1, 1001))]))
    history = read_csv(tmp_path / "log.csv")
    assert history.curve("train/loss").tolist() == [1.0] * 100 and history.rows[0]["step"] == 10
    (tmp_path / "log.csv").write_text("epoch,batch,loss\n0,0,3\n0,1,1\n1,0,2\n1,1,1\n")
    assert read_csv(tmp_path / "log.csv").curve("train/loss").tolist() == [2, 1.5]


def test_what_pandas_left_empty_was_nan(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,train_loss,val_loss\n0,2,2\n1,3,3\n2,,\n3,,\n")
    history = read_csv(tmp_path / "log.csv")
    assert np.isnan(history.curve("train/loss")).tolist() == [False, False, True, True]
    assert "pandas" in history.note and history.epochs.tolist() == [1, 2, 3, 4]


KERAS = "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.5,1.5,0.4,1.6\n1,0.7,1.0,0.6,1.1\n"
LIGHTNING = "epoch,step,train_loss,val_loss,val_acc\n0,9,,1.6,0.4\n0,9,1.5,,\n1,19,,1.1,0.6\n1,19,1.0,,\n"
SHEET = "Epoch;Train Loss;Valid Loss;Valid Acc\n1;1,5;1,6;40 %\n2;1,0;1,1;60 %\n"


@pytest.mark.parametrize("text", [KERAS, LIGHTNING, SHEET])
def test_curves_of_other_programs_are_the_same_curves(text, tmp_path):
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    history = read_csv(tmp_path / "log.csv")
    assert history.epochs.tolist() == [1, 2]
    assert history.curve("train/loss").tolist() == [1.5, 1.0] and history.curve("val/loss").tolist() == [1.6, 1.1]
    assert history.curve("val/accuracy").tolist() == [0.4, 0.6]


def falling(t):
    return 0.1 + 2 * 0.7**t


SPARSE = {
    "training alone": ["epoch,loss", *(f"{t},{falling(t)}" for t in range(20))],
    "validated now and then": [
        "epoch,loss,val_loss",
        *(f"{t},{falling(t)},{'' if t % 5 else falling(t)}" for t in range(20)),
    ],
    "rows of their own": [
        "epoch,loss,eval_loss",
        *(f"{t / 5},{falling(t)}," for t in range(1, 21)),
        *(f"{t},,{falling(5 * t)}" for t in range(1, 5)),
    ],
    "NaN for what is missing": [
        "epoch,loss,val_loss",
        *(f"{t},{falling(t)},nan\n{t},nan,{falling(t)}" for t in range(20)),
    ],
    "a part of the loss": ["epoch,kl_loss,loss", *(f"{t},{5 + t},{falling(t)}" for t in range(20))],
    "NaN before percents": [
        "epoch,loss,val_loss,accuracy,val_accuracy",
        "0,2,2,nan,nan",
        *(f"{t},{falling(t)},{falling(t)},{95 - 50 * 0.7**t},{94 - 50 * 0.7**t}" for t in range(1, 20)),
    ],
    "below zero": ["epoch,loss,val_loss", *(f"{t},{2 * falling(t) - 3},{2 * falling(t) - 2.9}" for t in range(20))],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", SPARSE)
def test_what_another_program_left_out_is_no_fault(case, tmp_path):
    (tmp_path / "log.csv").write_text("\n".join(SPARSE[case]))
    (finding,) = diagnose(read_csv(tmp_path / "log.csv"))
    assert finding.name == "healthy" and "nan" not in finding.text


def test_what_became_nan_is_told_with_its_epoch_also_where_validation_is_sparse(tmp_path):
    lines = [f"{t},{falling(t) if t < 5 else 'nan'},{'' if t % 5 else 'nan'}" for t in range(1, 20)]
    (tmp_path / "log.csv").write_text("\n".join(["epoch,loss,val_loss", *lines]))
    finding = diagnose(read_csv(tmp_path / "log.csv"))[0]
    assert (finding.name, finding.epoch) == ("diverged", 5)


def test_what_no_run_writes_is_refused_or_not_known_and_a_copy_of_a_member_is_none(tmp_path, monkeypatch):
    place = tmp_path / "run" / "members" / "000"
    row = {"kind": "evaluation", "step": 1, "val/loss": 1.0}
    for folder in (tmp_path / "run", place, place.with_name("000.bak")):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert list(read_members(tmp_path / "run")) == [0]
    (tmp_path / "run" / "manifest.json").write_text('{"data": {"num_classes": "ten", "num_val": 7}}')
    (tmp_path / "run" / "config.json").write_text(
        '{"hyper": {"learning_rate": [1, 2]}, "data": {"preprocess": "none"}}'
    )
    monkeypatch.chdir(place.parent)
    assert read_run(Path("000")).facts == {"num_val": 7, "preprocess": "none"}
    (tmp_path / "run" / "manifest.json").write_text('{"data": [1]}')
    with pytest.raises(WorldError, match="no run writes"):
        read_run(tmp_path / "run")


def test_what_is_no_history_is_refused_in_words(tmp_path):
    with pytest.raises(RequestError, match="nowhere does not exist; give the folder of a run"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="has recorded nothing yet"):
        read_run(tmp_path / "empty")
    for text, message in (
        ("", "no column of a loss; it has nothing"),
        ("epoch,speed\n1,2\n", "no column of a loss; it has epoch, speed"),
        ("epoch,loss\n1,2\n", "fewer than two rows"),
        (f"epoch,loss\n1,{200_000 * '2'}\n", "is no table of curves"),
    ):
        (tmp_path / "log.csv").write_text(text)
        with pytest.raises(RequestError, match=message):
            read_csv(tmp_path / "log.csv")
    with pytest.raises(WorldError, match="cannot read"):
        read_csv(tmp_path / "missing.csv")
