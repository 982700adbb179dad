"""The figure of a learning-rate range test shows what learnt, what diverged and the rate to take."""

import numpy as np
import pytest

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.plots.rates import lr_range_figure

RATES = np.geomspace(1e-5, 10, 32)
LOSSES = np.where(RATES < 0.1, 2.3 - 0.2 * np.log10(RATES / 1e-5), np.where(RATES < 1, 50.0, np.nan))


def legend(figure) -> list[str]:
    return figure.axes[0].get_legend_handles_labels()[1]


def drawn(figure, marker: str) -> np.ndarray:
    """f64[R', 2], the points with a marker."""
    (line,) = (line for line in figure.axes[0].lines if line.get_marker() == marker)
    points = np.column_stack([line.get_xdata(), line.get_ydata()])
    return points[np.isfinite(points).all(axis=1)]


def test_each_rate_is_a_point_or_a_cross_at_the_top(tmp_path):
    figure = lr_range_figure(RATES, LOSSES, tmp_path / "rates.png", suggested=0.01, start_loss=2.3)
    fine, crosses = drawn(figure, "o"), drawn(figure, "x")
    np.testing.assert_allclose(fine[:, 0], RATES[RATES < 0.1])
    np.testing.assert_allclose(fine[:, 1], LOSSES[RATES < 0.1])
    np.testing.assert_allclose(crosses[:, 0], RATES[RATES >= 0.1])
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < LOSSES[RATES < 0.1].min() and 2.3 < crosses[0, 1] < top < 5
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_order_of_the_rates_does_not_matter():
    shuffled = np.random.default_rng(0).permutation(len(RATES))
    figures = [
        lr_range_figure(RATES[order], LOSSES[order], suggested=None, start_loss=2.3)
        for order in (slice(None), shuffled)
    ]
    np.testing.assert_allclose(*(drawn(figure, "o") for figure in figures))


def test_suggestion_and_its_reason_can_be_read():
    figure = lr_range_figure(RATES, LOSSES, suggested=0.0123, start_loss=2.3, reason="A tenth of 0.12.", num_steps=300)
    assert "suggested: 0.012" in legend(figure) and "before training, 2.3" in legend(figure)
    assert figure.axes[0].get_title() == "A tenth of 0.12." and figure.axes[0].get_ylabel() == "loss after 300 steps"


def test_a_test_in_which_all_diverged_is_drawn(tmp_path):
    figure = lr_range_figure(RATES, np.full(32, np.inf), tmp_path / "rates.png", suggested=None, start_loss=2.3)
    assert legend(figure) == ["diverged or off the scale (32 of 32)", "before training, 2.3"]


@pytest.mark.parametrize(("rates", "losses"), [([], []), ([0.1], [1.0, 2.0]), ([0.0, 0.1], [1.0, 2.0])])
def test_what_is_no_range_test_is_refused(rates, losses):
    with pytest.raises(RequestError, match="one loss a rate"):
        lr_range_figure(rates, losses, suggested=None, start_loss=1.0)


def test_a_file_that_cannot_be_written_is_the_worlds_fault(tmp_path):
    with pytest.raises(WorldError, match="cannot be written"):
        lr_range_figure(RATES, LOSSES, tmp_path / "missing" / "rates.png", suggested=None, start_loss=2.3)
