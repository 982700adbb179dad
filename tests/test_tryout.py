"""Remedies and their trials: what is suggested, how short it is tried, what is said of it. Few tests train."""

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain.configfile import from_json, load_config, to_json
from jaxtrain.diagnose import NAMES, Diagnosis, Finding, History
from jaxtrain.diagnose.advice import advise
from jaxtrain.diagnose.signs import Signs
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.fields import replace_at
from jaxtrain.optim import make_schedule
from jaxtrain.request import check_values
from jaxtrain.tryout import (
    NO_REMEDY,
    Remedy,
    Trial,
    Tryout,
    in_words,
    remedies,
    shorten,
    try_remedies,
    write_best,
)
from jaxtrain.tryout.judge import judge
from jaxtrain.tryout.words import table

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (8, 8, 1)
PLAIN = jt.Experiment(
    model=jt.MLP(4, hidden=(16,), batch_norm=False, kernel_init="small", activation="tanh"),
    data=jt.DataConfig(preprocess="none"),
    config=jt.Config(epochs=6, batch_size=15, optimizer=jt.Sgd(), schedule=jt.Schedule("constant")),
    hyper=jt.Hyper(learning_rate=0.01, dropout_rate=0.1),
)
MENDED = jt.Experiment(
    model=jt.MLP(4, hidden=(16,)),
    data=jt.DataConfig(),
    config=jt.Config(epochs=6, batch_size=15, early_stopping=jt.EarlyStopping()),
    hyper=jt.Hyper(dropout_rate=0.5, label_smoothing=0.2, clip_norm=0.5, mixup=0.2, weight_decay=0.01),
)


@pytest.fixture
def data(tiny):
    image, label = tiny
    return jt.from_arrays(image, label, val_share=0.25, test=(image[:8], label[:8]), preprocess="none")


def found(*names):
    return [Finding(name, "as was seen", 0.9) for name in names]


def rate(value, name=""):
    return Remedy(name or f"rate {value:g}", lambda experiment: replace_at(experiment, "hyper.learning_rate", value))


def best_of(tryout):
    assert tryout.best is not None
    return tryout.best.trial


NOTHING = Remedy("nothing", lambda experiment: experiment)


# ---- what is suggested


@pytest.mark.parametrize("experiment", [PLAIN, MENDED], ids=["plain", "mended"])
@pytest.mark.parametrize("name", NAMES)
def test_each_remedy_changes_the_experiment_to_another_that_can_be_written_and_trained(name, experiment):
    suggested = remedies(found(name), experiment, image_shape=SHAPE)
    changed = [remedy.change(experiment) for remedy in suggested]
    assert len({remedy.name for remedy in suggested}) == len(suggested)
    assert all(one != experiment and changed.count(one) == 1 for one in changed)
    for one in changed:
        check_values(one.config, one.hyper)
        assert from_json(json.loads(json.dumps(to_json(one)))) == one
        assert (one.data.name, one.data.val_share, one.config.epochs) == (experiment.data.name, 0.1, 6)


@pytest.mark.parametrize("optimizer", [jt.Adam(), jt.Sgd()])
@pytest.mark.parametrize("experiment", [PLAIN, MENDED], ids=["plain", "mended"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_REMEDY])
def test_a_number_that_is_advised_is_tried(name, experiment, optimizer):
    experiment = replace_at(experiment, "config.optimizer", optimizer)
    facts: dict = {"optimizer": type(optimizer).__name__}
    for field in ("learning_rate", "weight_decay", "dropout_rate"):
        facts |= {} if (value := getattr(experiment.hyper, field)) is None else {field: value}
    text = " ".join(advise(name, Signs(History([], facts=facts))))
    advised = re.findall(r"--hyper\.(\w+) ([0-9.e+-]*[0-9])", text)
    suggested = [one.change(experiment).hyper for one in remedies(found(name), experiment, image_shape=SHAPE)]
    for field, value in advised:
        tried = {f"{float(getattr(hyper, field) or 0):.2g}" for hyper in suggested}
        assert f"{float(value):.2g}" in tried, (field, value)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_REMEDY])
def test_there_is_something_to_try_but_for_what_no_config_mends(name):
    assert remedies(found(name), PLAIN, image_shape=SHAPE)
    assert not any(remedies(found(*NO_REMEDY), PLAIN, image_shape=SHAPE))


def test_what_the_config_has_is_not_suggested():
    plain, mended = (
        {remedy.name for name in NAMES for remedy in remedies(found(name), experiment, image_shape=SHAPE)}
        for experiment in (PLAIN, MENDED)
    )
    has = {"BatchNorm", "annealed: cosine", "annealed: linear", "gradient clipped at 1", "early stopping"}
    has |= {"inputs standardised", "Adam, learning rate 0.001", "dropout 0.3", "dropout 0.5", "mixup 0.2"}
    has |= {"label smoothing 0.1", "label smoothing 0.2"}
    assert has <= plain and not has & mended


def test_a_narrow_network_is_tried_far_wider_and_a_decay_that_makes_steps_large_left_out():
    narrow = dataclasses.replace(PLAIN, model=jt.MLP(hidden=(2,)))
    by_name = {remedy.name: remedy.change(narrow) for remedy in remedies(found("underfitting"), narrow)}
    assert by_name["sixteen times as wide"].model.hidden == (32,)
    wide = dataclasses.replace(PLAIN, model=jt.MLP(hidden=(256,)))
    assert "sixteen times as wide" not in {remedy.name for remedy in remedies(found("underfitting"), wide)}
    shrinking = dataclasses.replace(PLAIN, hyper=jt.Hyper(learning_rate=1e-3, weight_decay=100.0))
    assert remedies(found("lr_too_high"), shrinking)[0].change(shrinking).hyper.weight_decay is None
    paper = dataclasses.replace(PLAIN, hyper=jt.Hyper(weight_decay=0.1))
    paper = replace_at(paper, "config.optimizer", jt.Adam(decay="paper"))  # a tenth in each step, whatever the rate
    assert remedies(found("lr_too_high"), paper)[0].name == "no weight decay"
    facts = {"learning_rate": 1e-3, "weight_decay": 100.0}
    assert "by 10 % in each step" in advise("lr_too_high", Signs(History([], facts=facts)))[0]
    assert "no weight decay" not in {remedy.name for remedy in remedies(found("lr_too_high"), PLAIN)}


def test_the_first_finding_counts_in_full_and_two_others_in_part():
    names = [remedy.finding for remedy in remedies(found("plateau", "noisy", "lr_too_low", "overfitting"), PLAIN)]
    assert names == 4 * ["plateau"] + 3 * ["noisy"] + 3 * ["lr_too_low"]


def test_only_photographs_are_mirrored_and_nothing_of_unknown_shape():
    def names(shape):
        return {remedy.name for remedy in remedies(found("overfitting"), PLAIN, image_shape=shape)}

    assert "crops of 4 pixels, mirrored" in names((32, 32, 3)) and "crops of 2 pixels" in names((28, 28, 1))
    assert not any("crops" in name for name in names(None) | names((64,)))


def test_a_model_without_the_fields_and_a_rate_in_numbers():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, image):
            return nn.Dense(4)(image.reshape(image.shape[0], -1))

    names = [r.name for r in remedies(found("exploding_gradients"), dataclasses.replace(PLAIN, model=Own()))]
    assert names == ["inputs standardised", "gradient clipped at 1", "learning rate 0.00333 (/3)"] + [
        "learning rate 0.001 (/10)"
    ]
    linear = dataclasses.replace(PLAIN, model=jt.Linear(4))
    wider = next(r for r in remedies(found("underfitting"), linear) if r.name == "a hidden layer of 256")
    assert wider.change(linear).model == jt.MLP(4, hidden=(256,))


# ---- how short


@pytest.mark.parametrize("share", [0.05, 1 / 3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("batch", [1, 4, 15, 45, 90])
@pytest.mark.parametrize("epochs", [1, 2, 6, 29])
def test_no_trial_takes_more_than_its_share_of_the_runs_steps(data, epochs, batch, share):
    original = replace_at(PLAIN, "config.epochs", epochs)
    whole = epochs * (data.num_train // 15)
    try:
        short, given = shorten(replace_at(original, "config.batch_size", batch), original, data, share)
    except RequestError as error:
        assert "give a larger share" in str(error) and share * epochs < 1
        return
    steps = short.config.epochs * (given.num_train // batch)
    assert 1 <= steps <= share * whole + 1e-6 and short.config.epochs <= max(1, share * epochs + 1e-6)
    assert given.num_val == data.num_val and given.num_test == 0 and len(given.label) == given.num_train + data.num_val
    np.testing.assert_array_equal(given.image[given.num_train :], data.image[slice(*data.val)])


def test_the_whole_share_is_the_run_itself(data):
    original = dataclasses.replace(PLAIN, config=dataclasses.replace(PLAIN.config, schedule=jt.Schedule(warmup=2)))
    short, given = shorten(original, original, data, 1.0)
    kept = dataclasses.replace(original.config, probe_every_steps=None, nonfinite="mark")
    assert short.config == kept and given.num_train == data.num_train


@pytest.mark.parametrize("kind", ["step", "exponential", "inverse", "cosine", "cosine_restarts", "one_cycle"])
@pytest.mark.parametrize("unit", ["epochs", "steps"])
def test_the_schedule_is_passed_as_a_whole(data, kind, unit):
    times = 6 if unit == "steps" else 1
    schedule = jt.Schedule(kind, unit=unit, warmup=2 * times, period=5 * times, rate=0.3 / times)
    original = dataclasses.replace(PLAIN, config=dataclasses.replace(PLAIN.config, epochs=12, schedule=schedule))
    short, _ = shorten(original, original, data, 0.5)
    whole = make_schedule(schedule, 72, 6)(jnp.arange(72))[0::2]
    np.testing.assert_allclose(make_schedule(short.config.schedule, 36, 6)(jnp.arange(36)), whole, atol=0.09)
    own = replace_at(original, "config.schedule", lambda step: 1 / (1 + step))
    stretched = shorten(own, own, data, 0.5)[0].config.schedule
    np.testing.assert_allclose(make_schedule(stretched, 36, 6)(10), 1 / 21, rtol=1e-6)


def test_patience_shrinks_with_the_run(data):
    config = dataclasses.replace(PLAIN.config, epochs=30, eval_every_epochs=2, early_stopping=jt.EarlyStopping(6))
    original = dataclasses.replace(PLAIN, config=config)
    short = shorten(original, original, data, 1 / 3)[0].config
    assert (short.epochs, short.eval_every_epochs, short.early_stopping) == (10, 1, jt.EarlyStopping(4))


def test_another_preprocessing_is_fitted_on_the_training_split(data):
    changed = replace_at(PLAIN, "data.preprocess", "standardize")
    given = shorten(changed, PLAIN, data, 0.5)[1]
    assert given.preprocess.shift.item() == pytest.approx(data.image[: data.num_train].mean(), rel=1e-5)
    with pytest.raises(RequestError, match="only its preprocessing"):
        shorten(replace_at(PLAIN, "data.split_seed", 1), PLAIN, data, 0.5)


def test_less_than_an_epoch_is_of_all_classes(data):
    original = replace_at(PLAIN, "config.epochs", 1)
    order = np.argsort(data.label[: data.num_train])
    ordered = dataclasses.replace(data, label=np.concatenate([data.label[order], data.label[data.num_train :]]))
    short, given = shorten(original, original, ordered, 0.5)
    assert given.num_train == 45 and short.config.epochs == 1
    assert set(given.label[:45].tolist()) == {0, 1, 2, 3}


# ---- trained


def test_the_control_is_the_short_run_of_the_same_seeds_and_what_changes_nothing_differs_by_nothing(data):
    tryout = try_remedies(PLAIN, data, [NOTHING, rate(0.1)], seeds=(0, 5), share=0.5)
    short = dataclasses.replace(PLAIN.config, epochs=3)
    runs = jt.fit(PLAIN.model, data, short, PLAIN.hyper, seeds=(0, 5), quiet=True)
    assert tryout.control.scores == {
        run.seed: {split: run.summary[split] for split in ("train", "val")} for run in runs.members
    }
    same = next(each for each in tryout.judged() if each.trial.name == "nothing")
    assert same.trial.scores == tryout.control.scores
    assert same.gain is not None and same.verdict == "no clear difference"
    assert (same.gain.difference, same.gain.std) == (0.0, 0.0)
    assert tryout.control.steps == 18 and tryout.metric == "accuracy" and tryout.sign == 1


def test_a_remedy_that_diverges_is_a_result_and_so_is_a_control_that_does(data, capsys):
    tryout = try_remedies(PLAIN, data, [rate(1e36)], seeds=(0, 1), share=1 / 3)
    assert tryout.judged()[0].verdict == "diverged" and tryout.best is None
    tryout = try_remedies(replace_at(PLAIN, "hyper.learning_rate", 1e36), data, [rate(0.01)], seeds=(0, 1))
    assert tryout.control.diverged == (0, 1) and best_of(tryout).name == "rate 0.01"
    assert "the control diverged with every seed" in " ".join(in_words(tryout))
    assert [row[0] for row in table(tryout)] == ["control", "rate 0.01"]
    assert capsys.readouterr().out == ""


def test_a_seed_whose_validation_overflows_has_diverged(monkeypatch, data):
    class Overflows(Trainer):
        def row(self, seed, accuracy):
            row = super().row(seed, accuracy)
            if seed == 1 and self.calls[-1][0] == 5:
                row.summary["val"] = {"accuracy": accuracy, "loss": float("inf")}
            return row

    tryout, _ = tried(monkeypatch, data, [rate(5), rate(3)], Overflows())
    assert tryout.trials[0].diverged == (1,) and best_of(tryout).name == "rate 3"
    assert len(table(tryout)) == 3


def test_how_many_seeds_would_tell_is_not_said_beyond_what_is_counted():
    hardly = {0: 0.5 + 1e-5, 1: 0.52 - 0.02, 2: 0.48 + 0.02}
    tryout = Tryout(CONTROL, (trial(hardly, name="hardly"),), "accuracy", 1, (0, 1, 2), 0.5)
    assert "more than 10,000 seeds would show it" in " ".join(in_words(tryout))


def test_of_a_regression_the_loss_counts(tiny):
    image, label = tiny
    data = jt.from_arrays(image, label.astype(np.float32))
    experiment = dataclasses.replace(PLAIN, model=jt.MLP(1, hidden=(8,)))
    suggested = [Remedy("smoother", lambda e: replace_at(e, "hyper.label_smoothing", 0.1)), rate(1e-3)]
    tryout = try_remedies(experiment, data, suggested, seeds=(0, 1))
    assert (tryout.metric, tryout.sign) == ("loss", -1) and "these are numbers" in tryout.left_out["smoother"]
    losses = [np.mean(list(each.trial.values("loss").values())) for each in tryout.judged()]
    assert losses == sorted(losses)


# ---- judged


def trial(accuracies, diverged=(), name="remedy"):
    scores = {seed: {"val": {"accuracy": value, "loss": 1 - value}} for seed, value in accuracies.items()}
    return Trial(name, "", PLAIN, scores, tuple(diverged), 2, 12, 1.0)


CONTROL = trial({0: 0.5, 1: 0.52, 2: 0.48})
JUDGED = {
    "every seed gains much": (trial({0: 0.9, 1: 0.93, 2: 0.88}), "helped"),
    "every seed gains the same": (trial({0: 0.6, 1: 0.62, 2: 0.58}), "helped"),
    "every seed loses": (trial({0: 0.1, 1: 0.13, 2: 0.08}), "made it worse"),
    "seeds disagree": (trial({0: 0.9, 1: 0.12, 2: 0.58}), "no clear difference"),
    "the same": (CONTROL, "no clear difference"),
    "a seed diverges": (trial({0: 0.9, 1: 0.93}, [2]), "made it worse"),
    "all diverge": (trial({}, [0, 1, 2]), "diverged"),
}


@pytest.mark.parametrize("name", JUDGED)
def test_the_verdict(name):
    other, verdict = JUDGED[name]
    assert judge(other, CONTROL, "accuracy", 1).verdict == verdict
    mirrored = judge(other, CONTROL, "loss", -1)
    assert mirrored.verdict == verdict


def test_what_loses_fewer_seeds_has_helped_and_one_seed_tells_nothing():
    assert judge(trial({0: 0.4, 1: 0.4}), trial({0: 0.9}, [1]), "accuracy", 1).verdict == "helped"
    assert judge(trial({0: 0.1, 1: 0.1}), trial({}, [0, 1]), "accuracy", 1).verdict == "helped"
    assert judge(trial({0: 0.9}), trial({0: 0.1}), "accuracy", 1).verdict == "one seed tells nothing"


class Trainer:
    """Stands in for fit: the accuracy is a function of the hyper-parameters, with a little luck of the seed."""

    def __init__(self, stop_after=99, gain=None):
        self.calls, self.stop_after, self.gain = [], stop_after, gain or self.usual_gain

    def usual_gain(self, hyper):
        return 0.2 * (hyper.learning_rate == 3) + 0.1 * (hyper.dropout_rate == 0.5) + 0.1 * (hyper.learning_rate == 2)

    def __call__(self, model, data, config, hyper, *, seeds, **options):
        self.calls.append((hyper.learning_rate, hyper.dropout_rate))
        if hyper.learning_rate == 7:
            raise NonFiniteError("all diverged")
        if hyper.learning_rate == 8:
            raise WorldError("the device's memory is exhausted")
        gain = self.gain(hyper)
        rows = [self.row(seed, 0.5 + gain + 0.01 * seed * (1 + gain)) for seed in seeds]
        status = "stopped" if len(self.calls) > self.stop_after else "done"
        return SimpleNamespace(summary={"status": status}, members=rows)

    def row(self, seed, accuracy):
        scores = {"accuracy": accuracy, "loss": 1 - accuracy}
        return SimpleNamespace(summary={"seed": seed, "status": "done", "train": scores, "val": scores})


DROPOUT = Remedy("dropout", lambda experiment: replace_at(experiment, "hyper.dropout_rate", 0.5))


def tried(monkeypatch, data, suggested, trainer=None, **options):
    trainer = trainer or Trainer()
    monkeypatch.setattr("jaxtrain.tryout.tryout.fit", trainer)
    return try_remedies(PLAIN, data, suggested, seeds=range(3), **options), trainer


def test_the_two_best_that_touch_different_things_are_tried_together(monkeypatch, data):
    tryout, trainer = tried(monkeypatch, data, [DROPOUT, rate(2), rate(3), rate(5)])
    assert [each.trial.name for each in tryout.judged()][:2] == ["rate 3 and dropout", "rate 3"]
    assert trainer.calls[-1] == (3, 0.5) and tryout.trials[-1].parts == ("rate 3", "dropout")
    assert best_of(tryout).experiment.hyper == dataclasses.replace(PLAIN.hyper, learning_rate=3, dropout_rate=0.5)
    assert len(tried(monkeypatch, data, [rate(2), rate(3)])[1].calls) == 3  # both are a learning rate


def test_of_equal_accuracies_the_lower_loss_stands_above():
    lower = dataclasses.replace(CONTROL, name="lower", scores={0: {"val": {"accuracy": 0.5, "loss": 0.4}}})
    same = dataclasses.replace(lower, name="same", scores={0: {"val": {"accuracy": 0.5, "loss": 0.5}}})
    tryout = Tryout(CONTROL, (same, lower), "accuracy", 1, (0,), 0.5)
    assert [each.trial.name for each in tryout.judged()] == ["lower", "same"]


def test_two_together_that_are_no_better_than_one_leave_the_one_the_best():
    ups = {0: 0.9, 1: 0.93, 2: 0.88}
    both = dataclasses.replace(trial({0: 0.91, 1: 0.92, 2: 0.89}, name="both"), parts=("one", "two"))
    tryout = Tryout(CONTROL, (trial(ups, name="one"), both), "accuracy", 1, (0, 1, 2), 0.5)
    assert tryout.judged()[0].trial.name == "both" and best_of(tryout).name == "one"
    assert "both is not clearly better" in " ".join(in_words(tryout))


def test_what_was_interrupted_goes_on_and_what_is_known_is_not_trained_again(monkeypatch, data, tmp_path):
    suggested = [rate(2), rate(3), rate(7)]
    cut, _ = tried(monkeypatch, data, suggested, Trainer(stop_after=2), workdir=tmp_path)
    assert cut.stopped and [one.name for one in cut.trials] == ["rate 2"] and "the rest" in in_words(cut)[0]
    whole, trainer = tried(monkeypatch, data, suggested, workdir=tmp_path)
    assert trainer.calls == [(3, 0.1), (7, 0.1)] and not whole.stopped
    again, trainer = tried(monkeypatch, data, suggested, workdir=tmp_path)
    assert trainer.calls == [] and again.to_json() == whole.to_json()
    written = json.loads((tmp_path / "tried.json").read_text())
    assert written["best"] == "rate 3" and written["trials"][0]["changes"] == ["hyper.learning_rate is 3, was 0.01"]
    assert len(tried(monkeypatch, data, suggested, workdir=tmp_path, share=0.5)[1].calls) == 4


def test_what_cannot_be_trained_is_left_out_and_said(monkeypatch, data):
    huge = Remedy("batch 900", lambda experiment: replace_at(experiment, "config.batch_size", 900))
    tryout, _ = tried(monkeypatch, data, [huge, rate(8), rate(3)])
    assert "more than the 90 training examples" in tryout.left_out["batch 900"]
    assert "memory is exhausted" in tryout.left_out["rate 8"] and best_of(tryout).name == "rate 3"
    assert in_words(tryout)[0].startswith("not tried: batch 900: ")


REFUSED = {
    "no remedies": ([], {}, "no remedies to try"),
    "one name twice": ([rate(1), rate(1)], {}, "the same name"),
    "no seeds": ([NOTHING], {"seeds": ()}, "give at least one"),
    "a seed twice": ([NOTHING], {"seeds": (1, 1)}, "each once"),
    "a share of nothing": ([NOTHING], {"share": 0.0}, "must lie in (0, 1]"),
    "less than a step": ([NOTHING], {"share": 0.001}, "give a larger share"),
    "nothing left": ([Remedy("0", lambda e: replace_at(e, "config.batch_size", 0))], {}, "no remedy can be trained"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_request_is_refused_before_anything_is_trained_or_written(monkeypatch, data, tmp_path, name):
    suggested, options, message = REFUSED[name]
    trainer = Trainer()
    monkeypatch.setattr("jaxtrain.tryout.tryout.fit", trainer)
    with pytest.raises(RequestError, match=message.replace("(", r"\(").replace("]", r"\]")):
        try_remedies(PLAIN, data, suggested, workdir=tmp_path / "tried", **{"seeds": (0, 1), **options})
    assert trainer.calls == [] and not (tmp_path / "tried").exists()


# ---- the best as a config


def test_the_best_is_written_as_a_config_of_full_length_and_removed_where_nothing_helps(monkeypatch, data, tmp_path):
    tryout, _ = tried(monkeypatch, data, [rate(3)])
    best = load_config(str(write_best(tryout, tmp_path)))
    assert best == replace_at(PLAIN, "hyper.learning_rate", 3)
    nothing, _ = tried(monkeypatch, data, [rate(5)])
    assert write_best(nothing, tmp_path) is None and not (tmp_path / "best.json").exists()
    assert in_words(nothing)[0].startswith("nothing is told to help")


OWN = '''"""A network of the user's own."""
import flax.linen as nn
import jaxtrain as jt

class Net(nn.Module):
    batch_norm: bool = False

    @nn.compact
    def __call__(self, image):
        return nn.Dense(4)(image.reshape(image.shape[0], -1))

def get_config(variant=""):
    return jt.Experiment(Net(), jt.DataConfig(), jt.Config(epochs=6, batch_size=15, schedule=lambda step: 1.0))
'''


def test_the_best_of_a_network_of_ones_own_reads_its_file(monkeypatch, data, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    reference = f"{tmp_path / 'own.py'}:variant"
    experiment = load_config(reference)
    norm = next(r for r in remedies(found("vanishing_gradients"), experiment) if r.name == "BatchNorm")
    both = Remedy("both", lambda e: replace_at(norm.change(e), "hyper.learning_rate", 3))
    monkeypatch.setattr("jaxtrain.tryout.tryout.fit", Trainer())
    tryout = try_remedies(experiment, data, [both], seeds=range(3))
    best = load_config(str(write_best(tryout, tmp_path, reference=reference)))
    assert best.model.batch_norm and best.hyper.learning_rate == 3 and callable(best.config.schedule)
    assert type(best.model).__name__ == "Net" and best.config.epochs == 6


# ---- the script


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("diagnose_script", ROOT / "scripts" / "diagnose.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


WRONG = {
    "curves": (["curves.csv", "--try"], "needs a run's folder"),
    "two runs": (["a", "b", "--try"], "takes one run"),
    "no seeds": (["a", "--try", "--seeds=0"], "give at least 1"),
    "too large a share": (["a", "--try", "--share=2"], "must lie in"),
    "seeds of nothing": (["a", "--seeds=2"], "--seeds is only for --try"),
    "an unknown flag": (["a", "--epochs=3"], "--epochs=3 is only for --try"),
    "no run": (["a", "--try"], "does not exist"),
    "arrays": (["arrays", "--try"], "given as arrays"),
    "an unknown network": (["own", "--try"], "with --config"),
    "another change": (["fine", "--try", "--epochs=3"], "only --data.dir"),
    "other data": (["fine", "--try"], "was trained on other data"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_script_refuses_what_cannot_be_tried(script, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "prepare", lambda **_: None)
    (tmp_path / "curves.csv").write_text("epoch,loss,val_loss\n1,2,3\n2,1,2\n")
    described = to_json(PLAIN)
    changes = {"arrays": {"data": {"type": "arrays"}}, "own": {"model": {"type": "user", "name": "m:Net"}}, "fine": {}}
    for folder, change in changes.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps({**described, **change}))
        (tmp_path / folder / "manifest.json").write_text(json.dumps({"seeds": [0], "data": {"sha256": "0" * 64}}))
        row = {"kind": "evaluation", "step": 1, "epoch": 1, "val/loss": 1.0, "train/loss": 1.0}
        (tmp_path / folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    args, message = WRONG[name]
    with pytest.raises(RequestError) as refused:
        script.main(args)
    assert message in str(refused.value)
    assert not list(tmp_path.rglob("tried"))


@pytest.fixture
def diagnosed(script, tmp_path, monkeypatch):
    """A run of digits in whose curves these findings were seen; what would be trained is better, the lower the rate."""

    def write(*names):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(to_json(replace_at(PLAIN, "model.num_outputs", 10))))
        (folder / "manifest.json").write_text(json.dumps({"seeds": [0], "data": {}}))
        seen = Diagnosis(folder, (), (tuple(found(*names)),))
        monkeypatch.setattr(script, "diagnose_path", lambda path: seen)
        monkeypatch.setattr(script, "prepare", lambda **_: None)
        trainer = Trainer(gain=lambda hyper: 0.4 - 10 * hyper.learning_rate)
        monkeypatch.setattr("jaxtrain.tryout.tryout.fit", trainer)
        return folder, trainer

    return write


def test_the_script_says_what_helped_and_how_to_train_it(script, diagnosed, capsys):
    folder, trainer = diagnosed("lr_too_high")
    assert script.main([str(folder), "--try"]) == 0
    lines = capsys.readouterr().out.splitlines()
    best = replace_at(replace_at(PLAIN, "model.num_outputs", 10), "hyper.learning_rate", 1e-4)
    assert load_config(str(folder / "tried" / "best.json")) == best
    config, workdir = folder / "tried" / "best.json", folder.parent / "run-mended"
    assert lines[-1] == f"python scripts/train.py --config {config} --workdir {workdir}"
    assert any("is better by" in line and "hyper.learning_rate is 0.0001, was 0.01" in line for line in lines)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "manifest.json", "tried"]


def test_what_a_terminal_would_obey_is_shown_as_it_is_written(script, tmp_path, capsys):
    rows = [{"kind": "evaluation", "step": 1, "val/loss": 1.0}, {"step": 2, "kind": "diverged", "note": "\x1b[2J gone"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert script.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\\x1b[2J gone" in out


def test_what_no_config_mends_is_said_and_nothing_is_trained(script, diagnosed, capsys):
    folder, trainer = diagnosed("wrong_target")
    assert script.main([str(folder), "--try"]) == 0
    out = capsys.readouterr().out
    assert NO_REMEDY["wrong_target"] in out and out.endswith("there is nothing to try\n")
    assert trainer.calls == [] and not (folder / "tried").exists()


@pytest.mark.slow
def test_a_learning_rate_that_is_too_high_is_mended(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "prepare", lambda **_: None)
    planted = load_config(str(ROOT / "configs" / "digits.py"))
    planted = replace_at(replace_at(planted, "hyper.learning_rate", 3.0), "config.epochs", 20)
    parts = {field.name: getattr(planted, field.name) for field in dataclasses.fields(planted)}
    run = jt.fit(**parts, workdir=tmp_path / "run", quiet=True)
    capsys.readouterr()
    assert script.main([str(tmp_path / "run"), "--try", "--seeds=2", "--share=0.3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)[0]["tried"]
    gains = {each["name"]: each for each in told["trials"]}
    assert told["control"]["steps"] <= 0.3 * run.summary["steps"]
    assert told["best"] in gains and gains[told["best"]]["gain"]["difference"] > 0.1
    best = load_config(str(tmp_path / "run" / "tried" / "best.json"))
    assert best.hyper.learning_rate < 3 and best.config.epochs == 20
    mended = jt.fit(best.model, best.data, best.config, best.hyper, quiet=True)
    assert mended.val.accuracy > max(0.95, run.val.accuracy + 0.1)


def test_a_control_that_is_thrown_about_hides_no_remedy_that_works():
    """Two seeds at 25 and 49 %: the interval of a gain of 61 points holds 0."""
    erratic = trial({0: 0.25, 1: 0.49}, name="control")
    works, third, luck = (trial(scores) for scores in ({0: 0.97, 1: 0.99}, {0: 0.48, 1: 0.69}, {0: 0.5, 1: 0.9}))
    judged = judge(works, erratic, "accuracy", 1)
    assert judged.verdict == "helped" and judged.gain is not None and not judged.gain.significant
    assert judge(luck, erratic, "accuracy", 1).verdict == "no clear difference"
    assert judge(trial({0: 0.915, 1: 0.925}), trial({0: 0.91, 1: 0.9}), "accuracy", 1).verdict == "no clear difference"
    assert judge(trial({0: 0.25, 1: 0.49}), works, "accuracy", 1).verdict != "helped"
    best = Tryout(erratic, (third, works), "accuracy", 1, (0, 1), 0.2).best
    assert best is not None and best.trial is works
