import sys

import numpy as np
import pytest

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.plots import reliability_figure, residual_figure
from jaxtrain.plots.calibration import FEWEST
from jaxtrain.scores import reliability, scores


def example(num_examples: int = 500) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    label = random.integers(0, 4, num_examples)
    logits = 2 * (random.normal(size=(num_examples, 4)) + np.eye(4)[label])
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)), label


def test_bins_of_enough_examples_are_drawn_at_their_confidence_and_accuracy(tmp_path):
    prediction, label = example()
    bins = reliability(prediction, label)
    full = bins.count >= FEWEST
    assert 0 < full.sum() < (bins.count > 0).sum()
    line = reliability_figure(prediction, label, tmp_path / "reliability.png").axes[0].lines[1]
    np.testing.assert_allclose(line.get_xdata(), 100 * bins.confidence[full])
    np.testing.assert_allclose(line.get_ydata(), 100 * bins.accuracy[full])
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_below_stand_all_examples_and_those_that_are_wrong():
    prediction, label = example()
    all_of_them, wrong = reliability_figure(prediction, label).axes[1].containers
    bins = reliability(prediction, label)
    np.testing.assert_array_equal([bar.get_height() for bar in all_of_them], bins.count)
    num_wrong = (prediction.argmax(axis=1) != label).sum()
    assert sum(bar.get_height() for bar in wrong) == num_wrong
    assert wrong.get_label() == f"of them wrong: {num_wrong}"


@pytest.mark.parametrize(
    ("said", "right", "verdict"),
    [
        (0.9, 5, "50.00 % and says 90.00 %: 40.00 points too sure"),
        (0.6, 8, "80.00 % and says 60.00 %: 20.00 points too modest"),
    ],
)
def test_the_title_says_which_way_it_is_off(said, right, verdict):
    prediction = np.log(np.tile([said, 1 - said], (10, 1)))
    label = np.array([0] * right + [1] * (10 - right))
    title = reliability_figure(prediction, label).get_suptitle()
    assert verdict in title
    assert f"{100 * scores(prediction, label).ece:.2f} points on average (ECE)" in title
    assert reliability_figure(prediction, label, title="mine").get_suptitle() == "mine"


def test_a_few_sure_examples_are_drawn(tmp_path):
    reliability_figure([[0.0, -np.inf]], [0], tmp_path / "one.png")


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(RequestError, match="log_softmax"):
        reliability_figure([[0.0, 3.0]], [0])


def test_points_are_targets_against_predictions_and_bars_their_differences(tmp_path):
    target = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    predicted = target + [[1.0, 0.0], [1.0, 0.0], [-0.5, 0.3]]
    figure = residual_figure(target, predicted, tmp_path / "residual.png")
    scatter, histogram, _, _ = figure.axes
    np.testing.assert_allclose(scatter.lines[1].get_xydata(), np.stack([target[:, 0], predicted[:, 0]], axis=1))
    assert "3 examples, R² -0.125" in scatter.get_legend_handles_labels()[1]  # 1 - (1 + 1 + 0.25) / 2
    texts = histogram.get_legend_handles_labels()[1]
    assert "mean 0.5: too high on average" in texts and "± 0.866 (root mean square)" in texts
    assert sum(bar.get_height() for bar in histogram.containers[0]) == 3
    assert scatter.get_xlabel() == "target 0"
    assert (tmp_path / "residual.png").read_bytes().startswith(b"\x89PNG")


def test_one_row_a_target_up_to_four_and_the_title_says_so():
    target = np.arange(12.0).reshape(2, 6)
    figure = residual_figure(target, target)
    assert len(figure.axes) == 8 and "the first 4 of 6 targets" in figure.get_suptitle()
    assert len(residual_figure(target[:, 0], target[:, 0]).axes) == 2


def test_predictions_that_are_not_finite_are_left_out_and_counted():
    figure = residual_figure([1.0, 2.0, 3.0], [1.0, np.nan, np.inf])
    assert "2 predictions are not finite" in figure.get_suptitle()
    assert len(figure.axes[0].lines[1].get_xdata()) == 1


def test_of_many_examples_every_few_are_drawn_and_all_are_counted():
    target = np.linspace(0, 1, 12_001)
    scatter, histogram = residual_figure(target, target + 0.1).axes
    assert len(scatter.lines[1].get_xdata()) == 4001
    assert "4,001 of 12,001 examples" in scatter.get_legend_handles_labels()[1][1]
    assert sum(bar.get_height() for bar in histogram.containers[0]) == 12_001


@pytest.mark.parametrize(
    ("target", "predicted", "message"),
    [
        (np.zeros(3), np.zeros((3, 1)), r"\(3,\) and predictions \(3, 1\)"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), r"expected the same shape, \[N\] or \[N, T\]"),
        (np.zeros(0), np.zeros(0), "at least one example"),
        ([1.0, 2.0], [np.nan, np.nan], "of 2 predictions none is finite"),
    ],
)
def test_residuals_of_what_does_not_fit_are_refused(target, predicted, message):
    with pytest.raises(RequestError, match=message):
        residual_figure(target, predicted)


def test_a_file_that_cannot_be_written_is_the_worlds_fault(tmp_path):
    for draw in (lambda path: reliability_figure(*example(), path), lambda path: residual_figure([1.0], [2.0], path)):
        with pytest.raises(WorldError, match="cannot be written"):
            draw(tmp_path / "missing" / "figure.png")


def test_pyplot_is_never_loaded(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    reliability_figure(*example(), tmp_path / "reliability.png")
    residual_figure([1.0], [2.0], tmp_path / "residual.png")
    assert ("matplotlib.pyplot" in sys.modules) == before
