"""The figure of several members shows their mean, its band and each of them, wherever they end."""

import numpy as np
import pytest

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.plots.members import MOST_LINES, mean_and_deviation, member_curves
from jaxtrain.plots.style import TRAIN, VAL


def history(member: int, epochs: int = 12) -> list[dict]:
    return [
        {
            "step": 10 * e,
            "epoch": e,
            "learning_rate": 0.1 / e,
            "train/loss": 0.7**e + 0.01 * member,
            "val/loss": 0.8**e + 0.02 * member,
            "train/accuracy": 1 - 0.5**e,
            "val/accuracy": 0.95 - 0.5**e + 0.001 * member,
        }
        for e in range(1, epochs + 1)
    ]


def lines(axes, color: str, style: str = "-", thin: bool = False) -> list[np.ndarray]:
    """f64[E] of the lines of a colour."""
    chosen = (line for line in axes.lines if line.get_color() == color and line.get_linestyle() == style)
    return [np.asarray(line.get_ydata()) for line in chosen if (line.get_linewidth() < 1) == thin]


def legend(axes) -> str:
    return "; ".join(axes.get_legend_handles_labels()[1])


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_mean_and_deviation_equal_numpys(holes):
    random = np.random.default_rng(0)
    values = random.normal(size=(7, 20))
    values[random.random(values.shape) < holes] = np.nan
    mean, deviation, count = mean_and_deviation(values)
    np.testing.assert_allclose(mean, np.nanmean(values, axis=0))
    np.testing.assert_allclose(deviation, np.nanstd(values, axis=0, ddof=1))
    np.testing.assert_array_equal(count, np.isfinite(values).sum(axis=0))


def test_one_value_has_no_deviation_and_none_has_no_mean():
    mean, deviation, count = mean_and_deviation(np.array([[1.0, np.nan], [np.nan, np.nan]]))
    np.testing.assert_array_equal(mean, [1, np.nan])
    np.testing.assert_array_equal(deviation, [0, np.nan])
    np.testing.assert_array_equal(count, [1, 0])


def test_mean_each_member_and_band_are_drawn(tmp_path):
    members = [history(m) for m in range(5)]
    figure = member_curves(members, tmp_path / "curves.png", seeds=range(5))
    loss, accuracy, rate = figure.axes
    expected = np.array([[row["val/loss"] for row in member] for member in members])
    np.testing.assert_allclose(lines(loss, VAL)[0], expected.mean(axis=0))
    np.testing.assert_allclose(lines(loss, VAL, thin=True), expected)
    edges = np.asarray(loss.collections[1].get_paths()[0].vertices)[:, 1]
    assert edges.max() == pytest.approx((expected.mean(axis=0) + expected.std(axis=0, ddof=1)).max())
    assert "validation, last 0.109 ± 0.032" in legend(loss) and "over 5 members" in legend(accuracy)
    assert len(rate.lines) == 5 and figure.get_suptitle().startswith("5 members (seeds 0 to 4)")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_order_of_the_members_does_not_matter():
    members = [history(m, epochs) for m, epochs in enumerate((12, 5, 9, 12))]
    axes = [member_curves(order, seeds=range(4)).axes[0] for order in (members, members[::-1])]
    for color in (TRAIN, VAL):
        for style in ("-", "--"):
            np.testing.assert_allclose(*(lines(one, color, style)[0] for one in axes), rtol=1e-12)
    assert legend(axes[0]) == legend(axes[1])


def test_mean_is_dashed_from_where_the_first_member_ends():
    members = [history(0), history(1, epochs=4), history(2, epochs=8)]
    loss = member_curves(members, seeds=range(3)).axes[0]
    whole, rest = lines(loss, VAL)[0], lines(loss, VAL, "--")[0]
    assert len(whole) == 4 and len(rest) == 9
    np.testing.assert_allclose(rest[-1], members[0][-1]["val/loss"])  # the only one that is left
    assert "a member has ended" in legend(loss)


def test_members_are_averaged_at_equal_epochs():
    rarely = history(1)[1::2]  # evaluated every other epoch
    loss = member_curves([history(0), rarely], seeds=[0, 1]).axes[0]
    expected = [0.8**e + (0.01 if e % 2 == 0 else 0) for e in range(1, 13)]
    np.testing.assert_allclose(lines(loss, VAL)[0], expected)


def test_members_of_equal_length_have_no_dashes():
    loss = member_curves([history(m) for m in range(3)], seeds=range(3)).axes[0]
    assert len(lines(loss, VAL, "--")[0]) == 1 and "ended" not in legend(loss)


@pytest.mark.parametrize(("count", "drawn"), [(3, 3), (MOST_LINES + 8, MOST_LINES)])
def test_so_many_thin_lines_are_drawn(count, drawn):
    loss = member_curves([history(m) for m in range(count)], seeds=range(count)).axes[0]
    assert len(lines(loss, TRAIN, thin=True)) == drawn


def test_one_member_is_a_plain_curve():
    loss = member_curves([history(0)], seeds=[7]).axes[0]
    assert "±" not in legend(loss)


def test_member_that_diverged_at_once_is_left_out():
    loss = member_curves([history(0), [], history(2)], seeds=range(3)).axes[0]
    np.testing.assert_allclose(lines(loss, VAL)[0][0], 0.8 + 0.02)
    assert "over 2 members" in legend(loss)


def test_steep_start_of_the_accuracy_is_cut_off_and_the_axis_says_so():
    axes = member_curves([history(m) for m in range(3)], seeds=range(3)).axes[1]
    bottom, top = axes.get_ylim()
    assert 45 < 100 * history(0)[0]["val/accuracy"] + 5 < bottom and top < 101
    assert axes.get_ylabel() == f"accuracy (%); below {bottom:.3g} not shown"


def test_flat_accuracy_is_not_cut_off():
    flat = [dict(row, **{"train/accuracy": 0.9, "val/accuracy": 0.9}) for row in history(0)]
    assert member_curves([flat, flat], seeds=range(2)).axes[1].get_ylabel() == "accuracy (%)"


def test_test_scores_are_level_lines():
    figure = member_curves(
        [history(0), history(1)], seeds=[0, 1], test={"accuracy": 0.91}, ensemble={"accuracy": 0.93, "nll": 0.2}
    )
    assert "test, mean of the members 91.00 %; test, the ensemble 93.00 %" in legend(figure.axes[1])
    assert "test" not in legend(figure.axes[0])


def test_holes_and_regression_are_drawn(tmp_path):
    rows = [{"epoch": row["epoch"], "val/mse": row["val/loss"]} for row in history(0)]
    rows[2]["val/mse"] = float("nan")
    figure = member_curves([rows, rows[:3]], tmp_path / "mse.png", seeds=[0, 1])
    assert figure.axes[1].get_ylabel() == "mse"


@pytest.mark.parametrize(
    ("seeds", "title"),
    [([5], "1 member (seed 5)"), ([5, 6, 7], "3 members (seeds 5 to 7)"), ([9, 2, 4, 1], "(seeds 9, 2, 4, ...)")],
)
def test_title_names_the_seeds(seeds, title):
    assert title in member_curves([history(m) for m in seeds], seeds=seeds).get_suptitle()


@pytest.mark.parametrize(("histories", "message"), [([[], []], "no member has a row"), ([[]], "2 seeds for 1 hist")])
def test_nothing_to_draw_is_refused(histories, message):
    with pytest.raises(RequestError, match=message):
        member_curves(histories, seeds=[0, 1])


def test_a_file_that_cannot_be_written_is_the_worlds_fault(tmp_path):
    with pytest.raises(WorldError, match="cannot be written"):
        member_curves([history(0)], tmp_path / "missing" / "curves.png", seeds=[0])
