import json
import sys

import numpy as np
import pytest

from jaxtrain import ensemble
from jaxtrain.errors import WorldError
from jaxtrain.files import jsonable
from jaxtrain.plots.ensemble import FEWEST, ensemble_figure


def example(num_members: int = 6, num_examples: int = 500, scale: float = 2.0) -> dict:
    random = np.random.default_rng(0)
    label = random.integers(0, 4, num_examples)
    logits = scale * (random.normal(size=(num_members, num_examples, 4)) + np.eye(4)[label])
    return ensemble.report(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)), label)


def lines(axes) -> dict[str, np.ndarray]:
    """The beginning of each label, up to its first ':' -> the y values."""
    return {str(line.get_label()).partition(":")[0]: np.asarray(line.get_ydata()) for line in axes.lines}


def test_the_figure_shows_what_the_report_says(tmp_path):
    report = example()
    figure = ensemble_figure(report, tmp_path / "ensemble.png")
    accuracy, nll, _ = figure.axes
    together = "together (mean of the probabilities)"
    np.testing.assert_allclose(lines(accuracy)[together], 100 * np.array(report["by_size"]["accuracy"]))
    np.testing.assert_allclose(lines(nll)[together], report["by_size"]["nll"])
    np.testing.assert_allclose(lines(accuracy)["one member alone"], 100 * report["mean_member"]["accuracy"])
    np.testing.assert_allclose(lines(accuracy)["majority vote of all"], 100 * report["vote"]["accuracy"])
    assert "6 members" in figure.get_suptitle()
    assert (tmp_path / "ensemble.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "label", "answers"), [("mean_of_probabilities", "together", 1), ("members", "one member alone", 6)]
)
def test_the_reliability_diagram_leaves_out_bins_that_say_nothing(name, label, answers):
    report = example(num_members=6)
    bins = report["reliability"][name]
    drawn = [a for n, a in zip(bins["count"], bins["accuracy"], strict=True) if n >= FEWEST * answers]
    assert 0 < len(drawn) < sum(n > 0 for n in bins["count"])
    np.testing.assert_allclose(lines(ensemble_figure(report).axes[2])[label], 100 * np.array(drawn))


def test_a_report_read_back_from_json_gives_the_same_figure(tmp_path):
    report = example()
    ensemble_figure(report, tmp_path / "now.png")
    ensemble_figure(json.loads(json.dumps(jsonable(report))), tmp_path / "later.png")
    assert (tmp_path / "now.png").read_bytes() == (tmp_path / "later.png").read_bytes()


def test_one_member_few_examples_and_infinite_losses_are_drawn(tmp_path):
    figure = ensemble_figure(example(num_members=1, num_examples=3), tmp_path / "one.png")
    assert "one member" in figure.get_suptitle()
    report = jsonable(ensemble.report([[[0.0, -np.inf]], [[-np.inf, 0.0]]], [1]))
    assert report["members"]["nll"] == ["Infinity", 0.0]
    ensemble_figure(report, tmp_path / "infinite.png", title="mine")


def test_a_file_that_cannot_be_written_is_the_worlds_fault(tmp_path):
    with pytest.raises(WorldError, match="cannot be written"):
        ensemble_figure(example(), tmp_path / "missing" / "ensemble.png")


def test_pyplot_is_never_loaded(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    ensemble_figure(example(), tmp_path / "ensemble.png")
    assert ("matplotlib.pyplot" in sys.modules) == before
