"""The CUSTOM SCALARS tab, asked as its page asks it: which charts there are, and what each run has to draw on them."""

import json
from pathlib import Path

import pytest
from test_hparams import tensorboard_of

from jaxtrain.charts import Band, band, band_scalars, custom_scalars, member_layout
from jaxtrain.events import EventWriter, read_scalars


def layout_of(folder: Path) -> dict:
    """Heading -> title -> the chart, as TensorBoard's page gets it."""
    from tensorboard.context import RequestContext
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

    found = CustomScalarsPlugin(tensorboard_of(folder)).layout_impl(RequestContext(), "")
    categories = json.loads(found)["category"] if found else []
    return {part["title"]: {chart["title"]: chart for chart in part["chart"]} for part in categories}


def put_charts(folder: Path, *layouts) -> None:
    with EventWriter(folder) as writer:
        for step, charts in enumerate(layouts):
            writer.put(custom_scalars(charts), step)


def write_members(folder: Path) -> None:
    """Two members and their run, as training leaves them."""
    with EventWriter(folder) as writer:
        writer.put(custom_scalars(member_layout(["loss"])))
    for split in ("train", "val"):
        for member in ("members/000", "members/001"):
            with EventWriter(folder / member / split) as writer:
                writer.scalar("loss", 1.0, 10)
        with EventWriter(folder / split) as writer:
            for step in (10, 20):
                writer.scalars({"loss": 1.0, **band_scalars("loss", 1.0, 0.25)}, step)


@pytest.mark.parametrize("deviation", [0.0, 0.1, 3.0])
def test_band_encloses_the_mean(deviation):
    points = band_scalars("loss", 0.5, deviation)
    value, lower, upper = (points[tag] for tag in band("loss"))
    assert (value, lower, upper) == (0.5, 0.5 - deviation, 0.5 + deviation)


def test_band_of_a_split_has_the_names_of_a_row():
    assert set(band_scalars("val/loss", 1, 0)) == {f"val/{tag}" for tag in band("loss")}


def test_each_metric_has_one_chart_with_one_band(tmp_path):
    put_charts(tmp_path, member_layout(["accuracy", "loss"]))
    (charts,) = layout_of(tmp_path).values()
    assert list(charts) == ["accuracy", "loss"]
    assert charts["loss"]["margin"]["series"] == [band("loss")._asdict()]


def test_lines_that_share_a_chart_come_back_as_they_were_given(tmp_path):
    put_charts(tmp_path, {"rates": {"both": [r"learning_rate", r"hyper/.*"]}})
    assert layout_of(tmp_path)["rates"]["both"]["multiline"] == {"tag": [r"learning_rate", r"hyper/.*"]}


def test_a_run_has_a_whole_band_or_nothing_of_it(tmp_path):
    write_members(tmp_path)
    ((chart,),) = (charts.values() for charts in layout_of(tmp_path).values())
    wanted = set(Band(**chart["margin"]["series"][0]))
    folders = {str(file.parent.relative_to(tmp_path)): file.parent for file in tmp_path.rglob("events.*")}
    drawn = {run: wanted & set(read_scalars(folder)) for run, folder in folders.items()}
    assert {run for run, has in drawn.items() if has} == {"train", "val"}
    assert len(drawn) == 7 and all(has in (set(), wanted) for has in drawn.values())


def test_later_charts_of_a_folder_replace_earlier_ones(tmp_path):
    put_charts(tmp_path, member_layout(["loss"]), member_layout(["mse"]))
    (charts,) = layout_of(tmp_path).values()
    assert list(charts) == ["mse"]


def test_runs_with_the_same_charts_show_them_once(tmp_path):
    put_charts(tmp_path / "a", member_layout(["loss"]))
    put_charts(tmp_path / "b", member_layout(["loss", "accuracy"]))
    (charts,) = layout_of(tmp_path).values()
    assert list(charts) == ["loss", "accuracy"]
