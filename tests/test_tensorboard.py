"""A run as TensorBoard shows it, each tab asked for what belongs to it and then looked at in a browser; and its report.

The fact that surprises: all tabs but one draw with SVG, where a curve can be counted. TIME SERIES draws on a canvas, so
there a curve is pixels that are not grey.
"""

import contextlib
import io
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import PATIENCE, Visit, open_browser, open_offline, screenshot, visit
from test_scripts import ROOT, run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = pytest.mark.slow

EPOCHS = 3  # of one curve with two points TensorBoard may show none
KERNELS = {"Dense_0", "outputs"}  # layers of the network below, of which the norm has no kernel
LAYERS = {*KERNELS, "BatchNorm_0"}
RUN_WIDE = {"learning_rate", "speed/images_per_second", "gradient_norm", "gap/accuracy", "gap/loss"}
LOOKS = ("layers/update_ratio", "layers/dead_units", "layers/gradient_norm")
COMPLAINT = re.compile("No .+ (was|were) found|No dashboards|[Ff]ailed to|is inactive|mismatch|not found")
SHAPE = 'path[d*="L"]'  # has two points or more
LINE = f'{SHAPE}:not([d$="Z"])'  # which a triangle is not, the sign for NaN
IMAGES = ("batch", "first_layer_filters", "worst_examples", "confusion_matrix")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run, "digits"."""
    cwd = tmp_path_factory.mktemp("tensorboard")
    options = ["--model.hidden", "16", "--epochs", EPOCHS, "--workdir", "runs/digits", "--profile-steps", "19:21"]
    status, _, err = run("train", "--config", ROOT / "configs/digits.py", *options, cwd=cwd)
    assert status == 0, err
    return cwd / "runs"


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of a TensorBoard that has read all of the folder before it answers, on a port that is free."""
    flags = "--port=0 --host=127.0.0.1 --load_fast=false --reload_interval=0 --reload_task=blocking".split()
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}", *flags]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/", said)):
            line = server.stderr.readline()
            assert line, f"TensorBoard ended: {said}"
            said += line
        yield found[0]
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def board(browser: "Browser", address: str) -> Iterator[Visit]:
    """TensorBoard's page."""
    with visit(browser, address) as seen:
        yield seen


def fetch(address: str, question: str, body: Any = None, **given: Any) -> bytes:
    """What TensorBoard answers to its own page."""
    data = None if body is None else json.dumps(body).encode()
    url = f"{address}data/{question}?{urllib.parse.urlencode(given)}"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def ask(address: str, plugin: str, question: str, **given: Any) -> Any:
    """A plugin's answer."""
    return json.loads(fetch(address, f"plugin/{plugin}/{question}", **given))


def steps(address: str, plugin: str, run: str, tag: str) -> list[int]:
    """Where a curve or distribution has points."""
    return [step for _, step, *_ in ask(address, plugin, plugin, run=run, tag=tag)]


def boxes(address: str, run: str) -> set[str]:
    """What a graph shows before anything in it is opened."""
    graph = fetch(address, "plugin/graphs/graph", run=run, conceptual="false").decode()
    return {name.partition("/")[0] for name in re.findall(r'^  name: "(.*)"$', graph, re.MULTILINE)}


def of_layers(groups: Collection[str], layers: Collection[str]) -> set[str]:
    return {f"{group}/{layer}" for group in groups for layer in layers}


@pytest.mark.parametrize(
    ("plugin", "run", "tags"),
    [
        ("scalars", "digits", RUN_WIDE | of_layers(LOOKS, KERNELS)),
        ("scalars", "digits/train", {"accuracy", "loss"}),
        ("scalars", "digits/val", {"accuracy", "loss"}),
        ("scalars", "digits/test", {"accuracy", "loss"}),
        ("images", "digits", set(IMAGES)),
        ("histograms", "digits", of_layers(["activations"], LAYERS)),
        ("histograms", "digits", of_layers(["params", "gradients"], {f"{layer}/kernel" for layer in KERNELS})),
        ("distributions", "digits", of_layers(["params", "gradients"], {"BatchNorm_0/scale", "outputs/bias"})),
        ("text", "digits", {"config/text_summary", "summary/text_summary"}),
    ],
)
def test_a_tab_has_its_tags(address: str, plugin: str, run: str, tags: set[str]):
    assert tags <= set(ask(address, plugin, "tags")[run])


def test_curves_have_a_point_for_each_epoch(address: str):
    found = {run: steps(address, "scalars", f"digits/{run}", "accuracy") for run in ("train", "val", "test")}
    assert found["train"] == found["val"] and len(found["val"]) == EPOCHS
    assert found["test"] == found["val"][-1:]


def test_layers_are_looked_at_from_the_first_step_to_the_last(address: str):
    looks = steps(address, "scalars", "digits", "gradient_norm")
    assert looks[0] == 0 and looks[-1] == steps(address, "scalars", "digits/val", "loss")[-1] and len(looks) >= 5
    for tag in of_layers(["params", "gradients"], {"outputs/kernel"}):
        assert steps(address, "histograms", "digits", tag) == looks


def test_graphs_have_a_box_for_each_layer(address: str):
    assert set(ask(address, "graphs", "info")) == {"digits", "digits/graph_train_step"}
    assert boxes(address, "digits") >= LAYERS
    assert boxes(address, "digits/graph_train_step") >= {*LAYERS, "loss", "backward", "optimizer"}


def test_hyper_parameters_stand_beside_the_scores(address: str):
    named = [{"hparam": name, "includeInResult": True} for name in ("learning_rate", "batch_size")]
    question = {"allowedStatuses": [1], "sliceSize": 9, "colParams": named}  # 1: success
    (row,) = ask(address, "hparams", "session_groups", body=question)["sessionGroups"]
    scores = {(score["name"]["group"], score["name"]["tag"]): score["value"] for score in row["metricValues"]}
    assert row["hparams"].keys() >= {"learning_rate", "batch_size"}
    assert scores["val", "accuracy"] == ask(address, "scalars", "scalars", run="digits/val", tag="accuracy")[-1][2]


def test_profile_has_its_tab(address: str):
    # Its page is not opened: it loads its charts from the internet.
    pytest.importorskip("xprof", reason='the PROFILE tab needs xprof (pip install -e ".[profile]")')
    assert json.loads(fetch(address, "plugins_listing"))["profile"]["enabled"]


@contextlib.contextmanager
def tab(board: Visit, name: str, element: str) -> Iterator["Locator"]:
    """What lies under a tab, opened by a click. In the end nothing on it complains, and nothing left this machine."""
    board.page.get_by_role("tab", name=name, exact=True).click()
    dashboard = board.page.locator(element)
    dashboard.wait_for()
    try:
        yield dashboard
    finally:
        screenshot(board.page, name)
    assert board.page.get_by_text(COMPLAINT).filter(visible=True).all_text_contents() == []
    assert (board.refused, board.errors) == ([], [])


def only(dashboard: "Locator", *tags: str) -> None:
    """Fill in the filter, which opens what is folded away."""
    field = dashboard.locator("tf-tag-filterer input, metrics-tag-filter input")
    field.fill(f"^({'|'.join(tags)})$")
    field.press("Escape")  # the list of suggestions


def card(dashboard: "Locator", element: str, tag: str) -> "Locator":
    return dashboard.locator(element).filter(has_text=tag).first


def wait_for_path(chart: "Locator", path: str = LINE) -> None:
    chart.locator(path).first.wait_for(state="attached")


def wait_for_picture(figure: "Locator") -> None:
    image = figure.locator("img").element_handle()
    figure.page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image)


def wait_for_colour(chart: "Locator") -> None:
    """Until at least 50 of its pixels are not grey."""
    from PIL import Image

    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        pixels = np.asarray(Image.open(io.BytesIO(chart.screenshot())).convert("RGB"), np.int16)
        if np.sum(np.ptp(pixels, axis=-1) > 60) >= 50:
            return
    pytest.fail("the chart stays empty")


def test_time_series_shows_curves_distributions_and_pictures(board: Visit):
    with tab(board, "Time Series", "metrics-dashboard") as dashboard:
        only(dashboard, "accuracy", "first_layer_filters", "params/Dense_0/kernel")
        wait_for_path(card(dashboard, "histogram-card", "params"), SHAPE)
        wait_for_picture(card(dashboard, "image-card", "first_layer_filters"))
        accuracy = card(dashboard, "scalar-card", "accuracy")
        for run in ("digits/train", "digits/val", "digits/test"):
            accuracy.get_by_text(run, exact=True).wait_for()
        wait_for_colour(accuracy.locator("line-chart .series-view"))


def test_scalars_shows_training_and_validation_on_one_chart(board: Visit):
    with tab(board, "scalars", "tf-scalar-dashboard") as dashboard:
        only(dashboard, "accuracy", "loss", "gradient_norm", "layers/update_ratio/Dense_0")
        for tag in ("gradient_norm", "layers/update_ratio/Dense_0"):
            wait_for_path(card(dashboard, "tf-scalar-card", tag).locator("vz-line-chart2"))
        for tag in ("accuracy", "loss"):
            lines = card(dashboard, "tf-scalar-card", tag).locator("vz-line-chart2").locator(LINE)
            lines.nth(3).wait_for(state="attached")  # two curves, each as it is and smoothed


def test_custom_scalars_shows_its_charts_and_the_gap(board: Visit):
    with tab(board, "Custom Scalars", "tf-custom-scalar-dashboard") as dashboard:
        for title in ("accuracy", "loss", "gap of the accuracy", "gap of the loss"):
            wait_for_path(card(dashboard, "tf-custom-scalar-multi-line-chart-card", title).locator("vz-line-chart2"))


def test_images_shows_pictures(board: Visit):
    with tab(board, "images", "tf-image-dashboard") as dashboard:
        only(dashboard, *IMAGES)
        for tag in IMAGES:
            wait_for_picture(card(dashboard, "tf-image-loader", tag))


def test_graphs_shows_the_network_and_the_train_step(board: Visit):
    with tab(board, "graphs", "tf-graph-dashboard") as dashboard:
        for run, names in (("digits", LAYERS), ("digits/graph_train_step", {*LAYERS, "loss", "backward", "optimizer"})):
            dashboard.locator("paper-dropdown-menu").first.click()
            dashboard.get_by_role("option", name=run, exact=True).click()
            for name in names:
                dashboard.locator("g.node title").get_by_text(name, exact=True).first.wait_for(state="attached")
            screenshot(board.page, run.replace("/", "_"))


@pytest.mark.parametrize(
    ("name", "element", "chart"),
    [
        ("histograms", "tf-histogram-loader", "vz-histogram-timeseries"),
        ("distributions", "tf-distribution-loader", "vz-distribution-chart"),
    ],
)
def test_a_tab_of_distributions_shows_layers(board: Visit, name: str, element: str, chart: str):
    with tab(board, name, f"tf-{name.removesuffix('s')}-dashboard") as dashboard:
        tags = "params/Dense_0/kernel", "gradients/outputs/kernel", "activations/BatchNorm_0"
        only(dashboard, *tags)
        for tag in tags:
            wait_for_path(card(dashboard, element, tag).locator(chart), SHAPE)


def test_text_shows_the_config_and_the_result(board: Visit):
    with tab(board, "text", "tf-text-dashboard") as dashboard:
        card(dashboard, "tf-markdown-view pre", '"batch_size"').wait_for()
        card(dashboard, "tf-markdown-view table", "test").wait_for()
        dashboard.locator("tf-markdown-view ol").first.wait_for()  # what the diagnosis advises


def test_hparams_shows_a_row_with_the_scores(board: Visit):
    with tab(board, "hparams", "tf-hparams-dashboard") as dashboard:
        cells = dashboard.locator("vaadin-grid-cell-content")
        for text in ("digits", "batch_size", "64.000", "val/accuracy"):
            cells.get_by_text(text, exact=True).first.wait_for()


def test_report_opens_without_a_network(browser: "Browser", folder: Path):
    assert open_offline(browser, folder / "digits/report.html") == ([], [])


def test_report_of_eight_members_opens_without_a_network_and_is_small(browser: "Browser", tmp_path: Path):
    options = ["--members", "8", "--model.hidden", "16", "--epochs", "2", "--workdir", "eight"]
    status, _, err = run("train", "--config", ROOT / "configs/digits.py", *options, cwd=tmp_path)
    assert status == 0, err
    page = tmp_path / "eight" / "report.html"
    assert open_offline(browser, page) == ([], []) and page.stat().st_size < 3e6
    assert "95 % interval" in page.read_text(encoding="utf-8")
