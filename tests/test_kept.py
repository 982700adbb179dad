"""Weights are kept of the best trials, and of no others for longer than it takes to see that."""

import dataclasses

import pytest

from jaxtrain.search.kept import drop, keep, weights_folder
from jaxtrain.search.trials import Trial

TRIALS = [Trial(n, {}, "complete", value) for n, value in enumerate((0.5, 0.9, 0.7))] + [Trial(3, {}, "running")]


def end(folder, value, sign=1, most=2):
    """Trial 3 ends with this value; whether its weights were written."""
    written = []
    ending = dataclasses.replace(TRIALS[3], state="complete", value=value)
    keep(folder, TRIALS, ending, sign, most, written.append)
    return written


@pytest.mark.parametrize(
    ("value", "sign", "most", "kept"), [(0.8, 1, 2, True), (0.6, 1, 2, False), (0.6, -1, 2, True), (0.9, 1, 0, False)]
)
def test_weights_are_written_only_of_a_trial_that_is_among_the_best(tmp_path, value, sign, most, kept):
    assert end(tmp_path, value, sign, most) == ([weights_folder(tmp_path, 3)] if kept else [])


def test_what_a_killed_worker_left_is_written_anew(tmp_path):
    place = weights_folder(tmp_path, 3)
    place.mkdir(parents=True)
    (place / "half").write_text("")
    end(tmp_path, 0.95)
    assert not place.exists()  # `write` makes it


def test_weights_of_trials_that_are_no_longer_among_the_best_are_deleted(tmp_path):
    for number in (0, 1, 2, 3, 99):
        weights_folder(tmp_path, number).mkdir(parents=True)
    (tmp_path / "best" / "notes").mkdir()
    drop(tmp_path, TRIALS, 1, 2)
    # 3 is still trained, 99 is of a study that has gone on meanwhile, and notes are somebody's own.
    assert sorted(place.name for place in (tmp_path / "best").iterdir()) == ["0001", "0002", "0003", "0099", "notes"]
    drop(tmp_path / "missing", TRIALS, 1, 2)
