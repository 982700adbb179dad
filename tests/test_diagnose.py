"""The diagnosis on histories made by hand, one sign at a time, and laws that hold for any history."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxtrain.diagnose import NAMES, History, diagnose, diagnose_path, in_words, merge_told
from jaxtrain.diagnose.rules import RULES
from jaxtrain.diagnose.signs import Signs
from jaxtrain.errors import RequestError

EPOCHS = 20
FACTS = {
    "num_classes": 10,
    "num_train": 4000,
    "num_val": 1000,
    "chance_loss": math.log(10),
    "chance_accuracy": 0.1,
    "batch_size": 64,
    "epochs": EPOCHS,
    "learning_rate": 1e-3,
    "optimizer": "Adam",
    "schedule": "cosine",
    "preprocess": "standardize",
}
LAYERS = ("Dense_0", "Dense_1", "outputs")


def make(**changes) -> History:
    """A healthy training of a classifier; changes are curves or numbers of looks (__ is /), facts, test, status."""
    t = np.arange(1, EPOCHS + 1)
    rate = 0.5e-3 * (1 + np.cos(np.pi * t / EPOCHS))
    curves = {
        "epoch": t,
        "step": 60 * t,
        "learning_rate": rate,
        "train/loss": 0.05 + 2.2 * np.exp(-t / 2),
        "val/loss": 0.12 + 2.2 * np.exp(-t / 2),
        "train/accuracy": 0.99 - 0.8 * np.exp(-t / 2),
        "val/accuracy": 0.97 - 0.8 * np.exp(-t / 2),
        "val_label_rank": 1.05 + 3 * np.exp(-t / 2),
    }
    points = {
        "step": 60 * t,
        "train/step_loss": 0.1 + np.zeros(EPOCHS) + changes.get("train__loss", 2.2 * np.exp(-t / 2)),
    }
    looks = {
        "step": 120 * np.arange(10),
        "gradient_norm": np.ones(10),
        "gradient_agreement": np.full(10, 0.3),
        "input_mean": np.zeros(10),
        "input_std": np.ones(10),
        **{f"update_ratio/{layer}": np.full(10, 2e-3) for layer in LAYERS},
        **{f"gradient_norm/{layer}": np.full(10, 0.5) for layer in LAYERS},
        **{f"dead_units/{layer}": np.full(10, 0.05) for layer in LAYERS},
    }
    whole = {name: changes.pop(name) for name in ("test", "status", "note") if name in changes}
    facts = {**FACTS, **changes.pop("facts", {})}
    for name, value in changes.items():
        name = name.replace("__", "/")
        table = next((one for one in (curves, points, looks) if name in one), looks)
        table[name] = np.broadcast_to(np.asarray(value, float), len(next(iter(table.values()))))
    return History(*(rows(table) for table in (curves, points, looks)), facts=facts, **whole)


def rows(table):
    return [dict(zip(table, map(float, values), strict=True)) for values in zip(*table.values(), strict=True)]


def names(history):
    return [finding.name for finding in diagnose(history)]


T = np.arange(1, EPOCHS + 1)
FLAT = np.full(EPOCHS, math.log(10))
UP_AND_DOWN = np.where(T % 2, 1.0, 0.4)
STUCK = {"train__loss": FLAT, "val__loss": FLAT, "train__accuracy": 0.1, "val__accuracy": 0.1, "val_label_rank": 5.5}
POOR = {"train__accuracy": 0.5, "val__accuracy": 0.48, "train__loss": 1.4 + np.exp(-T), "val__loss": 1.45 + np.exp(-T)}
SLOW = {name: 2.3 - 0.03 * T for name in ("train__loss", "val__loss")}

SIGNS = {
    "diverged": make(status="diverged", note="NaN at step 7"),
    "not_normalised": make(input_mean=33.0, input_std=78.0),
    "not_normalised, a table": make(input_feature_ratio=200.0),
    "wrong_target": make(**STUCK),
    "wrong_target, memorised": make(**{**STUCK, "train__accuracy": 0.9, "train__loss": 0.3}),
    "wrong_target, softmax twice": make(train__loss=math.log(math.e + 9) - 0.95, train__accuracy=0.95),
    "wrong_target, negated": make(train__loss=2.0 * T, val__loss=2.0 * T, train__accuracy=0.0, val__accuracy=0.0),
    "exploding_gradients": make(gradient_norm=500.0),
    "vanishing_gradients": make(gradient_norm__Dense_0=1e-5),
    "dying_relus": make(dead_units__Dense_1=0.9),
    "lr_too_high": make(**{f"update_ratio__{layer}": 0.3 for layer in LAYERS}),
    "lr_too_high, by its curve": make(train__loss=UP_AND_DOWN, val__loss=UP_AND_DOWN),
    "lr_too_low": make(
        **SLOW, **{f"update_ratio__{layer}": 1e-5 for layer in LAYERS}, train__accuracy=0.3, val__accuracy=0.3
    ),
    "plateau": make(
        facts={"schedule": "constant"},
        learning_rate=1e-3,
        train__loss=0.5 + 0.03 * (-1.0) ** T,
        val__loss=0.55 + 0.03 * (-1.0) ** T,
    ),
    "stale_batch_norm": make(train__loss=1.0, val__loss=1.05, train__step_loss=0.3),
    "noisy": make(facts={"batch_size": 2}, val__loss=0.3 + 0.05 * (-1.0) ** T),
    "label_noise": make(val__accuracy=0.75, train__accuracy=0.78, val_label_rank=2.0),
    "leaked_validation": make(test={"accuracy": 0.8}),
    "leaked_validation, no test": make(train__loss=0.6 + np.exp(-T), val__loss=0.3 + np.exp(-T)),
    "overfitting": make(train__accuracy=1.0, val__accuracy=0.8, val__loss=0.6 + 0.03 * T, train__loss=0.01),
    "underfitting": make(**POOR),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_has_its_name(sign):
    assert names(SIGNS[sign])[0] == sign.partition(",")[0]


def test_without_a_sign_it_is_healthy():
    (finding,) = diagnose(make())
    assert finding.name == "healthy" and finding.advice


def test_every_finding_says_what_it_rests_on_and_what_to_do():
    seen = set()
    for history in SIGNS.values():
        for finding in diagnose(history):
            seen.add(finding.name)
            assert finding.text.endswith(".") and finding.advice and 0.5 <= finding.confidence <= 1
            assert "nan" not in finding.text and "nan" not in " ".join(finding.advice)
            json.dumps(finding.to_json(), allow_nan=False)
    assert seen == set(NAMES) - {"healthy"}


@pytest.mark.parametrize("sign", SIGNS)
def test_what_is_not_known_is_not_found(sign):
    history = SIGNS[sign]
    assert names(History.from_json(json.loads(json.dumps(history.to_json())))) == names(history)
    seen = {name for name, rule in RULES.items() if rule(Signs(history)) is not None} | {"healthy"}
    for count in range(EPOCHS):  # as a run that goes on shows them
        begun = dataclasses.replace(history, rows=history.rows[:count], looks=history.looks[: count // 2])
        assert names(begun) and names(dataclasses.replace(begun, status="running"))
    everything = {name for table in (history.rows, history.points, history.looks) for row in table for name in row}
    for missing in everything:
        parts = [
            [{name: value for name, value in row.items() if name != missing} for row in table]
            for table in (history.rows, history.points, history.looks)
        ]
        left = names(dataclasses.replace(history, rows=parts[0], points=parts[1], looks=parts[2]))
        # Without accuracies all is judged by the losses, which may say otherwise.
        assert left and (seen.issuperset(left) or not any(missing in look for look in history.looks)), missing
    assert names(dataclasses.replace(history, facts={}))


@pytest.mark.parametrize("sign", ["lr_too_high, by its curve", "overfitting", "underfitting", "lr_too_low"])
def test_the_unit_of_the_loss_changes_nothing(sign):
    """Of a regression, whose loss is in squared metres or in squared miles."""
    history = SIGNS[sign]

    def scaled(factor):
        def row(given):
            kept = {name: value for name, value in given.items() if "accuracy" not in name and "rank" not in name}
            return {name: value * factor if name.endswith("loss") else value for name, value in kept.items()}

        facts = {**FACTS, "num_classes": None, "chance_loss": factor * math.log(10), "chance_accuracy": math.nan}
        tables = [[row(given) for given in table] for table in (history.rows, history.points)]
        return dataclasses.replace(history, rows=tables[0], points=tables[1], facts=facts)

    assert names(scaled(1e6)) == names(scaled(1)) == names(scaled(1e-6))


def test_a_cause_explains_its_effects():
    poor_and_raw = dataclasses.replace(SIGNS["underfitting"], looks=SIGNS["not_normalised"].looks)
    assert names(poor_and_raw) == ["not_normalised"]


def test_advice_knows_what_is_done_already():
    bare = diagnose(SIGNS["exploding_gradients"])[0].advice
    with_norm = diagnose(make(gradient_norm=500.0, facts={"batch_norm": True}))[0].advice
    assert any("Batch Normalization" in line for line in bare)
    assert not any("Batch Normalization" in line for line in with_norm)
    constant = make(**{f"update_ratio__{layer}": 0.3 for layer in LAYERS}, facts={"schedule": "constant"})
    assert any("Anneal" in line for line in diagnose(constant)[0].advice)
    assert not any("Anneal" in line for line in diagnose(SIGNS["lr_too_high"])[0].advice)
    assert "--hyper.learning_rate 0.00033 (now 0.001)" in diagnose(SIGNS["lr_too_high"])[0].advice[0]


ODD = {
    "few evaluations, small batches": dataclasses.replace(SIGNS["noisy"], rows=SIGNS["noisy"].rows[:5]),
    "a single class": make(facts={"chance_loss": 0.0, "chance_accuracy": 1.0}),
    "an infinite gradient": make(gradient_norm=math.inf, gradient_norm__Dense_0=math.inf),
    "losses of 0": make(facts={"chance_loss": 0.0}, train__loss=0.0, val__loss=0.0),
    "no validation": dataclasses.replace(make(), rows=[{"train/loss": 2.0 * 0.7**t} for t in range(20)]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", ODD)
def test_what_is_odd_is_no_error_and_no_nan_is_told(odd):
    for finding in diagnose(ODD[odd]):
        assert "nan" not in finding.text


def test_a_regression_that_goes_the_wrong_way_is_not_told_of_accuracy():
    rising = make(train__loss=2.0 * T, val__loss=2.0 * T, facts={"num_classes": None, "chance_accuracy": math.nan})
    rows = [{name: value for name, value in row.items() if "accuracy" not in name} for row in rising.rows]
    finding = diagnose(dataclasses.replace(rising, rows=rows))[0]
    assert finding.name == "wrong_target" and finding.text.startswith("The loss of training is 39, above")


def test_a_run_that_has_just_begun_is_not_judged_by_its_curves():
    begun = dataclasses.replace(make(), rows=make().rows[:2], points=(), looks=make().looks[:1], status="running")
    assert names(begun) == ["healthy"]
    assert names(dataclasses.replace(begun, looks=SIGNS["not_normalised"].looks[:1])) == ["not_normalised"]


def test_a_rate_that_is_reduced_is_not_called_constant():
    curves = {"train__loss": 0.5 + 0.03 * (-1.0) ** T, "val__loss": 0.55 + 0.03 * (-1.0) ** T}
    reduced = make(**curves, facts={"schedule": "constant"}, learning_rate=np.where(T < 15, 1e-3, 1e-4))
    assert "plateau" not in names(reduced) and "plateau" in names(SIGNS["plateau"])


def test_smoothed_labels_do_not_look_like_a_network_held_back():
    poor = {"train__accuracy": 0.9, "val__accuracy": 0.89, "train__step_loss": 1.2, "train__loss": 0.3}
    assert "underfitting" in names(make(**poor))
    assert "underfitting" not in names(make(**poor, facts={"label_smoothing": 0.1}))


def test_what_smoothed_labels_leave_of_the_loss_is_not_there_to_be_learnt():
    """The training losses of configs/cifar10_fast.py, which ends with 99.6 % of the training images right."""
    losses = np.interp(np.linspace(1, 8, EPOCHS), range(1, 9), [1.12, 0.88, 0.81, 0.54, 0.50, 0.35, 0.294, 0.259])
    curves = {"train__loss": losses, "val__loss": losses + 0.15, "train__accuracy": 0.996, "val__accuracy": 0.93}
    unseen = {f"update_ratio__{layer}": math.nan for layer in LAYERS}
    assert "lr_too_low" in names(make(**curves, **unseen))
    assert names(make(**curves, **unseen, facts={"label_smoothing": 0.2})) == ["healthy"]
    (slow,) = [
        finding
        for finding in diagnose(
            make(**{**curves, "train__loss": losses + 0.5}, **unseen, facts={"label_smoothing": 0.2})
        )
        if finding.name == "lr_too_low"
    ]
    assert "above what smoothed labels leave (0.198)" in slow.text


@pytest.mark.parametrize("classes, accuracy, loss", [(3, 0.537, 0.977), (4, 0.469, 1.236)])
def test_classes_that_are_hard_to_tell_are_no_softmax_applied_twice(classes, accuracy, loss):
    """Scores of real runs on overlapping clouds, whose loss happens to be that of probabilities taken for logits."""
    facts = {"num_classes": classes, "chance_loss": math.log(classes), "chance_accuracy": 1 / classes}
    hard = make(train__loss=loss, val__loss=loss, train__accuracy=accuracy, val__accuracy=accuracy, facts=facts)
    assert "wrong_target" not in names(hard)


def test_a_network_without_batch_norm_has_no_statistics_out_of_date():
    stale = {"train__loss": 1.0, "val__loss": 1.05, "train__step_loss": 0.3}
    assert "stale_batch_norm" in names(make(**stale, facts={"batch_norm": True}))
    assert "stale_batch_norm" not in names(make(**stale, facts={"batch_norm": False}))


def test_of_micro_batches_the_noise_scale_is_that_of_the_part_that_was_looked_at():
    whole, parts = (Signs(make(facts={"num_micro_batches": number})) for number in (1, 4))
    assert whole.noise_scale == pytest.approx(32 * 0.7 / 0.3) and parts.noise_scale == pytest.approx(8 * 0.7 / 0.3)


def test_of_several_members_it_is_told_how_many(tmp_path):
    folders = [SIGNS["overfitting"], SIGNS["overfitting"], make()]
    told = merge_told([[finding.to_json() for finding in diagnose(history)] for history in folders])
    assert [(one["name"], one["members"]) for one in told] == [("overfitting", 2)]
    assert merge_told([[finding.to_json() for finding in diagnose(make())]] * 2)[0]["members"] == 2


def curves(**given):
    """Curves alone, as a CSV has them."""
    return History(rows({"epoch": T, **{name.replace("__", "/"): value + 0.0 * T for name, value in given.items()}}))


FALL = np.exp(-T / 4)
NEARLY = 1.5 * 0.97**T
CURVES = {
    "healthy": curves(train__loss=0.3 + FALL, val__loss=0.35 + FALL, train__accuracy=0.9, val__accuracy=0.89),
    "healthy, no accuracy": curves(train__loss=0.3 + FALL, val__loss=0.35 + FALL),
    "healthy, fine-tuned": curves(train__loss=0.05 - 1e-4 * T, val__loss=0.26 - 1e-4 * T, val__accuracy=0.92),
    "healthy, training alone": curves(train__loss=0.3 + FALL),
    "healthy, validation alone": curves(val__loss=0.3 + FALL, val__accuracy=0.9),
    "diverged": curves(train__loss=np.where(T < 7, 1.0, math.nan), val__loss=np.where(T < 7, 1.0, math.nan)),
    "wrong_target": curves(train__loss=FLAT, val__loss=FLAT, train__accuracy=0.1, val__accuracy=0.1),
    "wrong_target, no accuracy": curves(train__loss=FLAT, val__loss=FLAT),
    "lr_too_high": curves(train__loss=12.9, val__loss=13.0, train__accuracy=0.2, val__accuracy=0.2),
    "lr_too_high, at first": curves(
        train__loss=np.where(T == 1, 280.0, 2.3), val__loss=2.3, train__accuracy=0.1 + 0.01 * T, val__accuracy=0.2
    ),
    "lr_too_high, once": curves(train__loss=np.where(T < 9, 4.0, 9.0) + 30 * FALL, val__loss=9.0),
    "lr_too_low": curves(train__loss=NEARLY, val__loss=NEARLY),
    "overfitting": curves(train__loss=FALL, val__loss=0.5 + 0.03 * T),
    "overfitting, by accuracy": curves(
        train__loss=FALL, val__loss=0.9, train__accuracy=0.99, val__accuracy=0.7, step=100.0 * T
    ),
    "underfitting": curves(train__loss=3.2 + FALL, val__loss=3.3 + FALL),
    "underfitting, by accuracy": curves(train__loss=0.68, val__loss=0.68, train__accuracy=0.6, val__accuracy=0.6),
}


@pytest.mark.parametrize("sign", CURVES)
def test_curves_alone_have_their_names_and_claim_no_more(sign):
    """Nothing is known of what knowing nothing would score, or of the learning rate; nor has the reader our flags."""
    (finding,) = diagnose(CURVES[sign])
    assert finding.name == sign.partition(",")[0]
    told = " ".join([finding.text, *finding.advice])
    for ours in ("--", "config", "hyper", "scripts/", "data.preprocess", "nan", "kernel_init", "report.html"):
        assert ours not in told
    if finding.name != "wrong_target":  # which is told of curves that stay where knowing nothing is
        assert "from chance to perfect" not in told and "share of the variance" not in told


def test_curves_by_steps_are_told_in_steps():
    by_steps = {"step": 500 * T, "train/loss": FALL, "val/loss": 0.5 + 0.03 * T}
    (finding,) = diagnose(History(rows(by_steps)))
    assert "since step 500." in finding.text and finding.epoch is None


def test_where_nan_began_is_told():
    (finding,) = diagnose(CURVES["diverged"])
    assert finding.epoch == 7
    missing = History([{"epoch": t, **({"val/loss": 1 / t} if t % 3 == 0 else {"train/loss": 1 / t})} for t in T])
    assert "diverged" not in names(missing)


def test_a_number_and_its_percent_sign_stay_on_one_line(tmp_path):
    lines = ["epoch,train_loss,val_loss", *(f"{t},{100 * 0.8**t:.2f},{50 + t}" for t in range(20))]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    text = in_words(diagnose_path(tmp_path / "log.csv"))
    assert " %" in text and not any(line.strip().startswith("%") for line in text.splitlines())


def test_curves_of_another_program_are_told_in_words(tmp_path):
    lines = ["epoch,loss,accuracy,val_loss,val_accuracy"]
    lines += [f"{t},{0.8 * 0.6**t:.4f},{1 - 0.5 * 0.6**t:.4f},{0.5 + 0.03 * t:.4f},0.82" for t in range(20)]
    (tmp_path / "keras.csv").write_text("\n".join(lines))
    text = in_words(diagnose_path(tmp_path / "keras.csv"))
    assert text.startswith(f"{tmp_path}/keras.csv:\n\nOverfitting (since epoch 1)")
    assert "  3. Stop early, or keep the best weights: here those of epoch 1." in text
    with pytest.raises(RequestError, match="nowhere does not exist"):
        diagnose_path(tmp_path / "nowhere")


# --- What kernel ridge regression reaches says how good is good.

FAIR = {"train__accuracy": 0.73, "val__accuracy": 0.7, "train__loss": 0.8 + np.exp(-T), "val__loss": 0.9 + np.exp(-T)}


@pytest.mark.parametrize(("kernel", "found"), [(0.9, "underfitting"), (0.7, "healthy")])
def test_poor_is_what_is_far_below_a_method_without_training(kernel, found):
    (finding,) = diagnose(make(**FAIR, facts={"kernel_accuracy": kernel}))
    assert finding.name == found
    assert ("right on 90 % of the validation" in finding.text) == (found == "underfitting")


def test_where_it_is_not_known_how_good_is_good_poor_is_a_question():
    unknown, known = (diagnose(make(**POOR, facts=facts))[0] for facts in ({}, {"kernel_accuracy": 0.9}))
    assert "If that is poor for these data" in unknown.text and unknown.level == "medium"
    assert "less than there is to learn" in known.text and known.level == "high"


def test_a_floor_that_is_uncertain_tells_less():
    few = {"kernel_accuracy": 0.82, "num_val": 60}  # two standard errors are 0.1, or 0.11 of the way from chance
    assert names(make(**FAIR, facts=few)) == ["healthy"]
    assert names(make(**FAIR, facts={**few, "num_val": 1000})) == ["underfitting"]
    rare = {"chance_accuracy": 0.95, "kernel_accuracy": 0.97, "chance_loss": 0.2}
    ends = {"train__accuracy": 0.965, "val__accuracy": 0.963}
    losses = {"train__loss": 0.1, "train__step_loss": 0.1, "val__loss": 0.11}
    assert "underfitting" not in names(make(**ends, **losses, facts=rare))


def test_what_validation_reaches_counts_as_learnt():
    """A network that is held back in training, or whose training split is the harder one."""
    ends = {"train__accuracy": 0.7, "val__accuracy": 0.88, "train__loss": 0.9, "val__loss": 0.4}
    assert "underfitting" not in names(make(**ends, facts={"kernel_accuracy": 0.9}))


def test_a_run_that_goes_on_is_not_called_poor_before_half_of_it():
    found = [
        names(dataclasses.replace(make(**FAIR, facts={"kernel_accuracy": 0.9, "epochs": epochs}), status="running"))
        for epochs in (50, 30)
    ]
    assert found == [["healthy"], ["underfitting"]]


def test_a_large_gap_is_told_before_all_is_known_by_heart():
    assert names(make(train__accuracy=0.94, val__accuracy=0.5)) == ["overfitting"]


def test_a_partial_leak_is_told_where_it_is_beyond_doubt():
    history = make(train__accuracy=1.0, val__accuracy=0.8, test={"accuracy": 0.7}, facts={"num_test": 10_000})
    assert "leaked_validation" in names(history)


def test_poor_is_told_of_numbers_too():
    facts = {"chance_loss": 1.0, "kernel_mse": 0.1, "num_classes": 0}
    poor = {"train/loss": 0.5, "val/loss": 0.52, "train/mse": 0.5, "val/mse": 0.52}
    history = History([{"epoch": t, "step": 60 * t, **poor} for t in range(1, 21)], facts=facts)
    (finding,) = [one for one in diagnose(history) if one.name == "underfitting"]
    assert "explains 90 % of the variance" in finding.text and "the network 50 %" in finding.text
    assert "underfitting" not in names(dataclasses.replace(history, facts={**facts, "kernel_mse": 0.5}))


def test_at_chance_it_is_said_whether_the_labels_belong_to_the_inputs():
    texts = [diagnose(make(**STUCK, facts={"kernel_accuracy": kernel}))[0].text for kernel in (0.1, 0.9)]
    assert "it may well be the data" in texts[0] and "the labels do belong" in texts[1]


def test_a_rate_that_is_somewhat_low_is_told_where_a_method_without_training_is_ahead():
    slow = {"train__loss": 1.4 - 0.05 * T, "val__loss": 1.45 - 0.05 * T, "train__accuracy": 0.75, "val__accuracy": 0.73}
    ratios = {f"update_ratio__{layer}": 1.4e-3 for layer in LAYERS}
    found = [names(make(**slow, **ratios, facts={"kernel_accuracy": kernel})) for kernel in (0.95, 0.75)]
    assert "lr_too_low" in found[0] and "lr_too_low" not in found[1]


def test_what_was_learnt_by_heart_tells_nothing_of_wrong_labels():
    mistaken = {"val__accuracy": 0.7, "val_label_rank": 2.2, "train__loss": 0.01, "val__loss": 0.5 + 0.05 * T}
    assert "label_noise" in names(make(**mistaken, train__accuracy=0.75))
    assert names(make(**mistaken, train__accuracy=1.0)) == ["overfitting"]


def test_a_test_split_that_is_worse_by_chance_is_no_leak():
    history = make(train__accuracy=1.0, val__accuracy=0.8, test={"accuracy": 0.73}, val__loss=0.6 + 0.03 * T)
    assert names(history) == ["overfitting"]


def test_steps_of_muon_are_larger():
    ratios = {f"update_ratio__{layer}": 0.06 for layer in LAYERS}
    found = [names(make(**ratios, facts={"optimizer": optimizer})) for optimizer in ("Adam", "Muon")]
    assert found == [["lr_too_high"], ["healthy"]]
    far = {name: 0.6 for name in ratios}
    (finding,) = diagnose(make(**far, facts={"optimizer": "Muon"}))
    assert finding.name == "lr_too_high" and "a percent or a few is healthy" in finding.text
