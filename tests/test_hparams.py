"""The HPARAMS tab: what was written is what TensorBoard's own plugin reads, and its table is filled from the curves."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import charts, hparams
from jaxtrain.errors import RequestError
from jaxtrain.events import EventWriter

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "batch_size": {"values": [64, 128]},
    "nesterov": {"values": [True, False]},
    "dropout_rate": {"values": [None, 0.1, 0.3]},
    "hidden": {"values": [(64,), (256, 256)]},
}
TRIAL = {"learning_rate": 1e-3, "batch_size": 64, "nesterov": True, "dropout_rate": None, "hidden": (64,)}


def tensorboard_of(folder: Path):
    """TensorBoard's back end on a folder, without a server."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder)))


def table_of(folder: Path, **request):
    """The rows of the table, by trial."""
    from tensorboard.context import RequestContext
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.backend_context import Context
    from tensorboard.plugins.hparams.list_session_groups import Handler

    asked = api_pb2.ListSessionGroupsRequest(allowed_statuses=range(4), slice_size=100, **request)
    rows = Handler(RequestContext(), Context(tensorboard_of(folder)), "", asked).run().session_groups
    return {row.name: row for row in rows}


def put(folder: Path, *summaries) -> None:
    with EventWriter(folder) as writer:
        for summary in summaries:
            writer.put(summary)


def written(folder: Path) -> dict:
    """What lies in the folder's metadata, by kind."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    found = EventAccumulator(str(folder)).Reload().PluginTagToContent("hparams")
    kinds = {
        metadata.EXPERIMENT_TAG: metadata.parse_experiment_plugin_data,
        metadata.SESSION_START_INFO_TAG: metadata.parse_session_start_info_plugin_data,
        metadata.SESSION_END_INFO_TAG: metadata.parse_session_end_info_plugin_data,
    }
    return {tag.rpartition("/")[2]: kinds[tag](content) for tag, content in found.items()}


def cells(message) -> dict:
    """Hyper-parameters of a message as Python has them."""
    from google.protobuf.json_format import MessageToDict

    return {name: MessageToDict(value) for name, value in message.hparams.items()}


def write_search(folder: Path, num_trials: int = 2) -> None:
    """A search as it leaves its folder: trial i ends with accuracy i / 10."""
    put(folder, hparams.experiment(SPACE, ["val/accuracy", "train/loss"]))
    for trial in range(num_trials):
        place = folder / f"trials/{trial:03d}"
        put(place, hparams.session_start(TRIAL), hparams.session_end(success=trial == 0))
        for split, tag in (("val", "accuracy"), ("train", "loss")):
            with EventWriter(place / split) as writer:
                for step in (1, 2):
                    writer.scalar(tag, trial * step / 20, step)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (0.1, 0.1),
        (3, 3),
        (True, True),
        ("cosine", "cosine"),
        (None, "none"),
        (np.float32(0.1), 0.1),
        (np.float64(1 / 3), 1 / 3),
        (np.int64(7), 7),
        (np.bool_(False), False),
        (np.str_("a"), "a"),
        (jnp.float32(1e-4), 1e-4),
        (jnp.bfloat16(1.5), 1.5),
        (jnp.int32(5), 5),
        (jnp.array(True), True),
        (np.array(0.25, np.float32), 0.25),
        (float("nan"), "nan"),
        (-float("inf"), "-inf"),
        ((64, None, 0.5), "[64, none, 0.5]"),
        ([], "[]"),
        (np.array([1, 2]), "[1, 2]"),
        (jnp.tanh, "tanh"),
        (Path("a/b"), "a/b"),
    ],
)
def test_value_becomes_what_a_cell_can_hold(value, plain):
    got = hparams.plain(value)
    assert got == plain and type(got) is type(plain)


def test_trial_comes_back_as_it_was_given(tmp_path):
    put(tmp_path, hparams.session_start(TRIAL, group="setting"))
    start = written(tmp_path)["session_start_info"]
    assert cells(start) == {**TRIAL, "dropout_rate": "none", "hidden": "[64]"}
    assert cells(start)["nesterov"] is True  # 1 would do for ==
    assert start.group_name == "setting" and start.start_time_secs > 1e9


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("batch_size", "FLOAT64", [64, 128]),
        ("nesterov", "BOOL", [True, False]),
        ("dropout_rate", "STRING", ["none", 0.1, 0.3]),
        ("hidden", "STRING", ["[64]", "[256, 256]"]),
    ],
)
def test_choice_is_a_column_with_its_values(tmp_path, name, kind, values):
    from tensorboard.plugins.hparams import api_pb2

    put(tmp_path, hparams.experiment(SPACE, ["val/accuracy"]))
    (column,) = (info for info in written(tmp_path)["experiment"].hparam_infos if info.name == name)
    assert api_pb2.DataType.Name(column.type) == f"DATA_TYPE_{kind}"
    assert list(column.domain_discrete) == values


def test_range_is_a_column_with_its_ends(tmp_path):
    put(tmp_path, hparams.experiment(SPACE, ["val/accuracy"]))
    column = written(tmp_path)["experiment"].hparam_infos[0]
    assert (column.domain_interval.min_value, column.domain_interval.max_value) == (1e-4, 1e-1)


@pytest.mark.parametrize("domain", [{}, {"low": 1}, {"values": []}])
def test_column_without_a_domain_is_refused_by_its_name(domain):
    with pytest.raises(RequestError, match="l2 varies in"):
        hparams.experiment({"l2": domain}, [])


def test_table_is_filled_from_the_last_points_of_the_curves(tmp_path):
    write_search(tmp_path)
    scores = {
        name: {f"{value.name.group}/{value.name.tag}": value.value for value in row.metric_values}
        for name, row in table_of(tmp_path).items()
    }
    assert scores == {
        "trials/000": {"val/accuracy": 0, "train/loss": 0},
        "trials/001": {"val/accuracy": pytest.approx(0.1), "train/loss": pytest.approx(0.1)},
    }


def test_trials_of_a_group_are_one_row_with_their_mean(tmp_path):
    write_search(tmp_path, num_trials=0)
    for seed in range(4):
        put(tmp_path / str(seed), hparams.session_start(TRIAL, group="setting"))
        with EventWriter(tmp_path / str(seed) / "val") as writer:
            writer.scalar("accuracy", seed, 1)
    (row,) = table_of(tmp_path, aggregation_type=1).values()
    assert row.name == "setting" and len(row.sessions) == 4 and row.metric_values[0].value == 1.5


def test_trial_that_ended_says_how(tmp_path):
    write_search(tmp_path)
    put(tmp_path / "trials/002", hparams.session_start(TRIAL))
    status = [row.sessions[0].status for row in table_of(tmp_path).values()]
    assert status == [1, 2, 0]  # success, failure, and one that has not ended


def test_first_end_of_a_trial_counts(tmp_path):
    put(tmp_path, hparams.session_start(TRIAL), hparams.session_end(success=False))
    put(tmp_path, hparams.session_start(TRIAL), hparams.session_end(success=True))
    assert written(tmp_path)["session_end_info"].status == 2


@pytest.mark.parametrize("given", [0.1, np.float32(0.1), jnp.float32(0.1)])
def test_filter_for_a_value_lets_it_pass_in_any_precision(tmp_path, given):
    put(tmp_path, hparams.experiment(SPACE, ["val/accuracy"]))
    put(tmp_path / "in", hparams.session_start({"dropout_rate": given}))
    put(tmp_path / "out", hparams.session_start({"dropout_rate": None}))
    (box,) = (value for value in SPACE["dropout_rate"]["values"] if value == 0.1)  # the one that the user ticks
    chosen = {"hparam": "dropout_rate", "filter_discrete": {"values": [{"number_value": box}]}}
    assert list(table_of(tmp_path, col_params=[chosen])) == ["in"]


@pytest.mark.slow
def test_a_real_server_shows_both_tabs(tmp_path):
    write_search(tmp_path / "search")
    put(tmp_path / "ensemble", charts.custom_scalars(charts.member_layout(["loss"])))
    # Loads all before it serves, on a port that is free.
    flags = "--port=0 --host=127.0.0.1 --load_fast=false --reload_interval=0 --reload_task=blocking".split()
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={tmp_path}", *flags]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = next(word for line in server.stderr for word in line.split() if word.startswith("http://127"))
        experiment = _ask(f"{address}data/plugin/hparams/experiment", {})
        rows = _ask(f"{address}data/plugin/hparams/session_groups", {"allowedStatuses": [0, 1, 2, 3], "sliceSize": 9})
        layout = _ask(f"{address}data/plugin/custom_scalars/layout")
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert {info["name"] for info in experiment["hparamInfos"]} == set(SPACE)
    assert [row["hparams"]["dropout_rate"] for row in rows["sessionGroups"]] == ["none", "none"]
    assert layout["category"][0]["chart"][0]["margin"]["series"][0]["value"] == "loss/mean"


def _ask(address: str, question: dict | None = None) -> dict:
    data = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
