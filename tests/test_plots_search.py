"""The figure of a search shows every trial somewhere, and the terrible ones do not squeeze the others."""

import numpy as np
import pytest

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.plots.search import trials_figure
from jaxtrain.plots.trials import Trials, window, word

SPACE = {
    "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "dropout_rate": {"low": 0.0, "high": 0.5},
    "hidden": {"values": [(64,), (256, 256)]},
    "schedule": {"values": ["Schedule(kind='cosine', warmup=1.0)", "Schedule(kind='one_cycle')", None]},
}


def search(num_trials: int, space=SPACE, seed: int = 0) -> list[dict]:
    """Trials whose accuracy depends on the first hyper-parameter; some are pruned, some fail, some are at chance."""
    random = np.random.default_rng(seed)
    trials = []
    for number in range(num_trials):
        params = {
            name: domain["values"][random.integers(len(domain["values"]))]
            if "values" in domain
            else random.uniform(domain["low"], domain["high"])
            for name, domain in space.items()
        }
        value = 0.1 if number % 5 == 4 else 0.98 - 0.05 * random.random()
        state = {3: "pruned", 6: "failed"}.get(number % 7, "complete")
        trials.append(_trial(number, None if state == "failed" else value, state, params))
    return trials


def _trial(number: int, value: float | None, state: str = "complete", params=None) -> dict:
    return {"number": number, "params": params or {"x": number}, "value": value, "state": state, "steps": 100}


def draw(trials, path=None, space=SPACE, **more):
    return trials_figure(trials, path, **{"space": space, "metric": "accuracy", "larger_is_better": True, **more})


def dots(axes) -> np.ndarray:
    """f64[N, 2], all marks of a panel but the star."""
    return np.concatenate([np.asarray(group.get_offsets()) for group in axes.collections[:-1] if _is_marks(group)])


def _is_marks(group) -> bool:
    return type(group).__name__ == "PathCollection"


def panels(figure) -> dict:
    return {axes.get_xlabel().partition(" (")[0]: axes for axes in figure.axes}


@pytest.mark.parametrize("sign", [1, -1])
def test_window_of_a_metric_mirrors_that_of_its_negative(sign):
    values = np.random.default_rng(0).normal(size=40)
    bottom, top, edge = window(values, larger_is_better=True)
    assert edge == bottom
    np.testing.assert_allclose(window(-values, larger_is_better=False), (-top, -bottom, -edge))


@pytest.mark.parametrize("num_terrible", [0, 1, 10, 25])
def test_terrible_trials_do_not_squeeze_the_others(num_terrible):
    good = np.linspace(95, 98, 40)
    bottom, top, _ = window(np.append(good, np.full(num_terrible, 10.0)), larger_is_better=True)
    assert top - bottom < 5 * 3 and bottom < 96 and top > 98


def test_all_values_are_in_the_window_where_none_is_terrible():
    values = np.linspace(0.5, 0.9, 20)
    bottom, top, _ = window(values, larger_is_better=True)
    assert bottom < values.min() and values.max() < top


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [0.0]])
def test_window_is_never_empty(values):
    bottom, top, edge = window(np.array(values), larger_is_better=False)
    assert bottom < top == edge


def test_every_trial_has_one_place():
    drawn = Trials(search(50), "accuracy", larger_is_better=True)
    inside = ~drawn.beyond & ~drawn.failed
    np.testing.assert_array_equal(inside.astype(int) + drawn.beyond + drawn.failed, np.ones(50))
    assert drawn.complete.sum() and drawn.pruned.sum() and drawn.failed.sum() and drawn.beyond.sum()


@pytest.mark.parametrize(("larger", "best"), [(True, 2), (False, 1)])
def test_best_is_the_best_complete_trial(larger, best):
    trials = [_trial(0, 0.5), _trial(1, 0.1), _trial(2, 0.9), _trial(3, 2.0 * larger - 1, "pruned"), _trial(4, None)]
    assert Trials(trials, "score", larger).best == best


def test_pruned_trial_that_was_ahead_is_on_the_axis():
    trials = [_trial(n, 0.9 + n / 1000) for n in range(5)] + [_trial(5, 0.99, "pruned")]
    drawn = Trials(trials, "score", larger_is_better=True)
    assert drawn.window.top > 0.99 and not drawn.beyond.any()


@pytest.mark.parametrize("num_trials", [10, 500])
def test_each_panel_has_a_mark_for_each_trial_inside_the_panel(tmp_path, num_trials):
    figure = draw(search(num_trials), tmp_path / "trials.png")
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
    for name in SPACE:
        axes = panels(figure)[name]
        x, y = dots(axes).T
        assert len(x) == num_trials
        assert min(axes.get_xlim()) <= x.min() and x.max() <= max(axes.get_xlim())
        assert min(axes.get_ylim()) < y.min() and y.max() < max(axes.get_ylim())


def test_choices_stand_in_columns_of_their_own():
    drawn = Trials(search(60), "accuracy", larger_is_better=True)
    place = drawn.places_of("hidden", SPACE["hidden"]["values"]) + 0.55 * drawn.spread()
    wide = [len(params["hidden"]) == 2 for params in drawn.params]
    np.testing.assert_array_equal(np.round(place), wide)
    assert len(set(place)) == 60


def test_choice_read_back_from_json_is_the_same_choice():
    trials = [_trial(0, 0.5, params={"hidden": [256, 256]}), _trial(1, 0.5, params={"hidden": (64,)})]
    np.testing.assert_array_equal(Trials(trials, "loss", False).places_of("hidden", SPACE["hidden"]["values"]), [1, 0])


def test_only_what_is_searched_by_its_logarithm_has_a_logarithmic_axis():
    figure = panels(draw(search(20)))
    assert [name for name in SPACE if figure[name].get_xscale() == "log"] == ["learning_rate"]


def test_panels_go_by_importance_and_its_bars_say_it():
    importance = {"hidden": 0.6, "learning_rate": 0.3, "dropout_rate": 0.1}
    figure = draw(search(30), importance=importance)
    names = [axes.get_xlabel().partition(" (")[0] for axes in figure.axes]
    assert names[:4] == ["hidden", "learning_rate", "dropout_rate", "schedule"]
    bars = panels(figure)["importance: share of the differences"]
    assert [bar.get_width() for bar in bars.patches] == [60, 30, 10, 0]


def test_legend_counts_and_title_names_the_best():
    trials = search(35)
    figure = draw(trials)
    drawn = Trials(trials, "accuracy", True)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert f"{drawn.complete.sum()} complete" in texts and f"{drawn.failed.sum()} without a value" in texts
    assert f"{drawn.beyond.sum()} worse than the axis shows (to 10.00 %)" in texts
    assert (
        drawn.best is not None and f"{drawn.value[drawn.best]:.2f} % by number {drawn.best}:" in figure.get_suptitle()
    )


@pytest.mark.parametrize(
    "trials",
    [
        [_trial(0, 0.5)],
        [_trial(0, None, "failed"), _trial(1, float("nan"))],
        [_trial(0, 0.4, "pruned"), _trial(1, 0.6, "pruned")],
        [_trial(0, 0.5, params={"y": 1}), _trial(1, 0.6)],
    ],
    ids=["one", "none with a value", "none complete", "one without the parameter"],
)
def test_odd_searches_are_drawn(tmp_path, trials):
    draw(trials, tmp_path / "odd.png", space={"x": {"low": 0, "high": 1}, "z": {"values": ["a"]}}, metric="loss")


@pytest.mark.parametrize("num_params", range(1, 9))
def test_any_number_of_hyper_parameters_has_its_panels(num_params):
    space = {f"p{i}": {"low": 0.0, "high": 1.0} for i in range(num_params)}
    figure = draw(search(12, space), space=space)
    assert set(space) <= set(panels(figure))


@pytest.mark.parametrize(("value", "short"), [(0.00172345, "0.001723"), (1e-7, "1e-07"), (256, "256"), (None, "none")])
def test_value_in_few_letters(value, short):
    assert word(value) == short


@pytest.mark.parametrize(("trials", "space"), [([], SPACE), (search(3), {})])
def test_nothing_to_draw_is_refused(trials, space):
    with pytest.raises(RequestError, match="nothing to draw"):
        draw(trials, space=space)


def test_a_file_that_cannot_be_written_is_the_worlds_fault(tmp_path):
    with pytest.raises(WorldError, match="cannot be written"):
        draw(search(3), tmp_path / "missing" / "trials.png")
