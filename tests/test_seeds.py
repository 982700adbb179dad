"""Intervals hold the mean as often as they say, and a comparison of runs claims no more than the seeds show."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.seeds import (
    Comparison,
    check_comparable,
    compare,
    describe,
    in_words,
    interval,
    partners,
    read_scores,
)

# Hours of sleep gained by ten patients with each of two drugs: the data of Student, 1908.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
BETTER = ([0.970, 0.972, 0.971, 0.969], [0.974, 0.975, 0.976, 0.973])
SAME = ([0.970, 0.972, 0.971, 0.969], [0.971, 0.970, 0.972, 0.970])


def draws(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *shape))


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_interval_is_students(confidence):
    found = interval(DRUG_1, confidence)
    low, high = stats.t.interval(confidence, 9, np.mean(DRUG_1), stats.sem(DRUG_1))
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-9)
    np.testing.assert_allclose([found.mean, found.std], [np.mean(DRUG_1), np.std(DRUG_1, ddof=1)])
    assert found.count == 10


@pytest.mark.parametrize("count", [2, 5])
def test_interval_holds_the_true_mean_as_often_as_it_says(count):
    found = [interval(0.9 + 0.01 * values) for values in draws(3000, count)]
    low, high = np.array([(i.low, i.high) for i in found], float).T
    share = np.mean((low <= 0.9) & (high >= 0.9))
    assert abs(share - 0.95) < 0.012  # three standard errors


def test_one_seed_has_a_mean_and_no_interval():
    found = interval([0.9897])
    assert (found.mean, found.std, found.low, found.high, found.count) == (0.9897, None, None, None, 1)
    assert describe(found) == "98.97 % (1 seed, which has no interval)"


@pytest.mark.parametrize("values", [[], [0.9, math.nan], [math.inf, 0.9]])
def test_values_that_have_no_mean_are_refused(values):
    with pytest.raises(RequestError, match="no values|not finite"):
        interval(values)
    with pytest.raises(RequestError, match="no values|not finite"):
        compare(values, values, paired=True)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(RequestError, match=r"between 0 and 1"):
        interval([1.0, 2.0], confidence)


DESCRIBED = {
    "98.97 ± 0.06 % (95 % interval 98.90 to 99.04, 5 seeds)": ([0.9890, 0.9892, 0.9898, 0.9902, 0.9903], True),
    "97.22 ± 0.00 % (95 % interval 97.22 to 97.22, 3 seeds)": ([0.9722] * 3, True),
    "98.970 ± 0.002 % (95 % interval 98.967 to 98.973, 4 seeds)": ([0.98968, 0.98969, 0.98971, 0.98972], True),
    "0.0711 ± 0.0014 (95 % interval 0.0677 to 0.0744, 3 seeds)": ([0.0698, 0.0709, 0.0725], False),
    "1235 ± 25 (95 % interval 1173 to 1297, 3 seeds)": ([1210.0, 1234.0, 1260.0], False),
}


@pytest.mark.parametrize("text", DESCRIBED)
def test_decimals_follow_the_spread(text):
    values, percent = DESCRIBED[text]
    assert describe(interval(values), percent) == text


def scipys(a, b, paired):
    return stats.ttest_rel(b, a) if paired else stats.ttest_ind(b, a, equal_var=False)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("sides", [(DRUG_1, DRUG_2), BETTER, SAME, ([1.0, 3.0], [9.0, 2.0])])
def test_tests_are_scipys(sides, paired):
    found, expected = compare(*sides, paired), scipys(*sides, paired)
    ends = expected.confidence_interval(0.95)
    np.testing.assert_allclose(
        [found.p_value, found.low, found.high], [expected.pvalue, ends.low, ends.high], rtol=1e-7, atol=1e-12
    )


def test_welchs_test_takes_sides_of_different_lengths():
    found, expected = compare(DRUG_1[:4], DRUG_2, paired=False), scipys(DRUG_1[:4], DRUG_2, paired=False)
    np.testing.assert_allclose(found.p_value, expected.pvalue)
    assert found.counts == (4, 10) and found.test == "Welch's t-test over 4 and 10 seeds"


def test_students_own_example_gives_the_published_figures():
    found = compare(DRUG_1, DRUG_2, paired=True)
    np.testing.assert_allclose([found.difference, found.low, found.high], [1.58, 0.70, 2.46], atol=0.005)
    np.testing.assert_allclose([found.p_value, found.std], [0.002833, 1.23], rtol=1e-3)


def test_a_constant_side_is_welchs_test_against_a_known_mean():
    found = compare([2.0] * 5, DRUG_1, paired=False)
    np.testing.assert_allclose(found.p_value, stats.ttest_1samp(DRUG_1, 2.0).pvalue)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("sides", [(DRUG_1, DRUG_2), BETTER, SAME])
def test_swapping_the_sides_flips_the_sign_and_nothing_else(sides, paired):
    a, b = sides
    there, back = compare(a, b, paired), compare(b, a, paired)
    np.testing.assert_allclose([back.difference, back.low], np.negative([there.difference, there.high]))
    np.testing.assert_allclose([back.high, back.p_value, back.std], [-np.array(there.low), there.p_value, there.std])
    assert there.seeds_needed == back.seeds_needed


@pytest.mark.parametrize("paired", [True, False])
def test_shifting_both_sides_changes_nothing(paired):
    plain, shifted = compare(DRUG_1, DRUG_2, paired), compare(np.add(DRUG_1, 7.3), np.add(DRUG_2, 7.3), paired)
    for name in ("difference", "std", "low", "high", "p_value"):
        np.testing.assert_allclose(getattr(shifted, name), getattr(plain, name), rtol=1e-9)


def test_pairing_never_changes_the_difference():
    for a, b in draws(20, 2, 6):
        assert compare(a, b, True).difference == compare(a, b, False).difference


@pytest.mark.parametrize("paired", [True, False])
def test_runs_that_do_not_differ_are_told_apart_in_one_of_twenty(paired):
    share = np.mean([compare(a, b, paired).significant for a, b in draws(2000, 2, 6)])
    assert abs(share - 0.05) < 0.015  # three standard errors


@pytest.mark.parametrize("paired", [True, False])
def test_the_seeds_needed_find_the_difference_four_times_in_five(paired):
    a, b = [0.0, 2.0, 1.0, 3.5, 0.5, 1.5], [1.2, 3.4, 0.6, 4.4, 2.5, 0.9]
    found = compare(a, b, paired)
    variances = [np.var(np.subtract(b, a), ddof=1)] if paired else [np.var(a, ddof=1), np.var(b, ddof=1)]
    assert found.seeds_needed is not None and found.seeds_needed > 6
    zero, *noise = [np.sqrt(v) * draws(4000, found.seeds_needed, seed=i) for i, v in enumerate([0.0, *variances])]
    sides = (zero, noise[0]) if paired else tuple(noise)
    hit = scipys(sides[0].T, sides[1].T + found.difference, paired).pvalue < 0.05
    assert abs(hit.mean() - 0.8) < 0.03


@pytest.mark.parametrize("effect", [0.05, 0.2, 0.5, 0.9])
def test_one_seed_fewer_than_needed_is_too_few(effect):
    values = np.array([-1.0, 1.0, -1.0, 1.0])
    needed = compare(np.zeros(4), values + effect, paired=True).seeds_needed

    def power(count):
        shift = effect / np.std(values, ddof=1) * np.sqrt(count)
        return stats.nct.sf(stats.t.ppf(0.975, count - 1), count - 1, shift)

    assert needed is not None and power(needed) >= 0.8 > power(needed - 1)


def test_no_more_seeds_are_needed_for_what_is_told_or_is_not_there():
    assert compare(*BETTER, paired=True).significant
    assert compare(*BETTER, paired=True).seeds_needed is None
    assert compare([1.0, 2.0, 3.0], [3.0, 1.0, 2.0], paired=True).seeds_needed is None


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("sides", [([0.0, 0.0], [0.0, 0.0]), ([0.97, 0.97], [0.98, 0.98])])
def test_without_a_spread_the_difference_is_exact_and_nothing_is_nan(sides, paired):
    a, b = sides
    found = compare(a, b, paired)
    assert found.difference == pytest.approx(b[0] - a[0]) and found.std == 0
    assert (found.low, found.high, found.p_value, found.seeds_needed) == (None, None, None, None)


def test_rounding_is_no_spread():
    a = np.array([0.12, 0.5, 0.9, 0.99])
    assert np.ptp(a + 0.07 - a) > 0 and np.ptp((a + 0.7) - 0.7 - a) > 0
    assert compare(a, a + 0.07, paired=True).std == 0
    assert compare(a, (a + 0.7) - 0.7, paired=True).difference == 0


def test_pairs_need_partners():
    with pytest.raises(RequestError, match="3 and 2 values cannot be paired"):
        compare([1.0, 2.0, 3.0], [1.0, 2.0], paired=True)


WORDS = {
    "told": (
        compare(*BETTER, paired=True),
        "B is better by 0.40 points of test accuracy (95 % interval 0.27 to 0.53; paired t-test over 4 seeds,"
        " p = 0.002)",
    ),
    "told, unpaired": (
        compare(*BETTER, paired=False),
        "B is better by 0.40 points of test accuracy (95 % interval 0.18 to 0.62; Welch's t-test over 4 and 4 seeds,"
        " p = 0.005)",
    ),
    "the other way": (
        compare(*BETTER[::-1], paired=True),
        "A is better by 0.40 points of test accuracy (95 % interval 0.27 to 0.53; paired t-test over 4 seeds,"
        " p = 0.002)",
    ),
    "not told": (
        compare(*SAME, paired=True),
        "no difference can be told: B minus A is 0.03 points of test accuracy (95 % interval -0.21 to 0.26; paired"
        " t-test over 4 seeds, p = 0.761); to tell a difference of that size, about 290 seeds of each are needed",
    ),
    "equal means": (
        compare([0.1, 0.2, 0.3], [0.3, 0.1, 0.2], paired=True),
        "no difference can be told: B minus A is 0.00 points of test accuracy (95 % interval -43.03 to 43.03; paired"
        " t-test over 3 seeds, p = 1.000)",
    ),
    "identical": (
        compare([0.97, 0.98], [0.97, 0.98], paired=True),
        "identical: A and B have the same test accuracy on every seed",
    ),
    "exact": (
        compare([0.97, 0.98], [0.96, 0.97], paired=True),
        "A is better by 1.00 points of test accuracy, the same for every seed: without a spread there is nothing to"
        " test",
    ),
    "one seed": (
        compare([0.97], [0.96, 0.97], paired=False),
        "no difference can be told, for one seed tells nothing about the spread: B minus A is -0.50 points of test"
        " accuracy; run at least 5 seeds of each",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_words_say_what_was_found(name):
    comparison, sentence = WORDS[name]
    assert in_words(comparison, "A", "B", "test accuracy", larger_is_better=True) == sentence


@pytest.mark.parametrize(
    ("larger_is_better", "start"),
    [(True, "B is better by 1.20 in"), (False, "A is better by 1.20 in"), (None, "B is higher by 1.20 in")],
)
def test_words_follow_the_metrics_direction(larger_is_better, start):
    comparison = compare([1.0, 1.1, 1.3, 1.2], [2.2, 2.4, 2.5, 2.3], paired=True)
    sentence = in_words(comparison, "A", "B", "val loss", larger_is_better)
    assert sentence.startswith(f"{start} val loss (95 % interval 1.07 to 1.33; ")


@pytest.mark.parametrize(
    ("needed", "said"),
    [(7, "about 7 "), (34, "about 40 "), (134, "about 140 "), (1342, "about 1,400 "), (10_001, "more than 10,000 ")],
)
def test_many_seeds_are_told_in_round_numbers(needed, said):
    comparison = Comparison(0.1, (3, 3), True, 1.0, -2.4, 2.6, 0.9, needed)
    assert f"of that size, {said}seeds" in in_words(comparison, "A", "B", "test accuracy")


def test_a_hair_of_a_difference_needs_more_seeds_than_anyone_trains():
    needed = compare([0.0, 1.0, 2.0], [1.0, 0.0, 2.0001], paired=True).seeds_needed
    assert needed is not None and needed > 10_000


def scored(seed, value, status="done", splits=("train", "val", "test")):
    return {"seed": seed, "status": status, **{split: {"loss": 1 - value, "accuracy": value} for split in splits}}


@pytest.fixture
def write(tmp_path):
    def written(name, summary, config=None, data=None):
        folder = tmp_path / name
        folder.mkdir()
        described = {"name": "digits", "sha256": "0" * 64, "num_train": 80, "num_val": 20, "num_test": 50}
        config = config or {"data": {"val_share": 0.1, "split_seed": 0}, "config": {}, "hyper": {}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "summary.json").write_text(json.dumps({"data": {**described, **(data or {})}, **summary}))
        return folder

    return written


def test_members_are_read_by_seed_and_diverged_ones_left_out(write):
    rows = [scored(4, 0.9), scored(2, 0.8, "early stopping"), {"seed": 7, "status": "diverged"}]
    members = read_scores(write("run", {"members": rows}))
    assert members.values("test", "accuracy") == {4: 0.9, 2: 0.8} and members.diverged == (7,)
    assert members.metrics("val") == ["accuracy", "loss"]


def test_a_single_run_is_one_member(write):
    assert read_scores(write("run", scored(3, 0.9))).values("val", "accuracy") == {3: 0.9}


def test_a_score_that_is_not_there_is_refused_with_the_nearest(write):
    members = read_scores(write("run", {"members": [scored(0, 0.9), scored(1, 0.9, splits=("train", "val"))]}))
    with pytest.raises(RequestError, match="no test scores"):
        members.values("test", "accuracy")
    with pytest.raises(RequestError, match="did you mean 'accuracy'"):
        members.values("val", "acuracy")


def test_a_folder_without_a_finished_run_is_refused(tmp_path, write):
    with pytest.raises(RequestError, match="holds no run"):
        read_scores(tmp_path / "nowhere")
    unfinished = write("unfinished", scored(0, 0.9))
    (unfinished / "summary.json").unlink()
    with pytest.raises(RequestError, match="unfinished run; finish it with --resume"):
        read_scores(unfinished)


UNREADABLE = {
    "all diverged": ({"members": [scored(0, 0.9, "diverged")]}, RequestError, "every seed .* diverged"),
    "a seed twice": ({"members": [scored(0, 0.9), scored(0, 0.8)]}, RequestError, "several members of one seed"),
    "no seed": ({"status": "done"}, WorldError, "'seed'"),
    "no rows": ({"members": 3}, WorldError, "restore it"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_summary_without_scores_by_seed_is_refused(write, name):
    summary, kind, message = UNREADABLE[name]
    with pytest.raises(kind, match=message):
        read_scores(write("run", summary))


@pytest.mark.parametrize(
    ("split", "data", "field"),
    [
        ("test", {"sha256": "1" * 64}, "data.sha256 is 000000000000 and 111111111111"),
        ("test", {"num_test": 49}, "data.num_test is 50 and 49"),
        ("val", {"num_val": 10}, "data.num_val is 20 and 10"),
    ],
)
def test_scores_of_other_data_are_refused_naming_both(write, split, data, field):
    a, b = read_scores(write("a", scored(0, 0.9))), read_scores(write("b", scored(0, 0.9), data=data))
    with pytest.raises(RequestError, match=f"a and .*b are of different examples .{field}"):
        check_comparable(a, b, split)


def test_another_split_seed_forbids_validation_and_training_but_not_test(write):
    other = {"data": {"val_share": 0.1, "split_seed": 1}, "config": {}, "hyper": {}}
    a, b = read_scores(write("a", scored(0, 0.9))), read_scores(write("b", scored(0, 0.9), other))
    check_comparable(a, b, "test")
    for split in ("val", "train"):
        with pytest.raises(RequestError, match="data.split_seed is 0 and 1"):
            check_comparable(a, b, split)


def test_two_common_seeds_are_partners_and_one_is_not():
    a = {0: 0.5, 1: 0.6, 2: 0.7}
    assert partners(a, {2: 0.1, 3: 0.2, 0: 0.3}) == ({0: 0.5, 2: 0.7}, {0: 0.3, 2: 0.1}, True)
    assert partners(a, {2: 0.1, 3: 0.2}) == (a, {2: 0.1, 3: 0.2}, False)


def test_an_end_that_rounds_to_zero_has_no_sign():
    comparison = Comparison(0.001, (5, 5), True, 0.0008, -0.00002, 0.00202, 0.053, 9)
    assert "95 % interval 0.00 to 0.20;" in in_words(comparison, "A", "B", "test accuracy")
