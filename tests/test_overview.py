"""What a run tells TensorBoard of itself: graphs, hyper-parameters, the result; no failure for want of a picture."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import jaxtrain as jt
from jaxtrain import overview
from jaxtrain.graph import GraphError
from jaxtrain.hparams import _plugin
from jaxtrain.log import Log
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.types import Hyper

HYPER = Hyper(learning_rate=3e-3, dropout_rate=None, extra={"mine": 0.5})
SUMMARY = {
    "status": "done",
    "val": {"loss": 0.25, "accuracy": 0.9375},
    "test": {"loss": 0.5, "accuracy": 0.875},
    "final": "last",
    "steps": 12,
    "epochs": 2,
    "seed": 7,
    "num_parameters": 40,
    "images_per_second": 1234.5,
    "digest": "0123456789abcdef0123",
}


@pytest.fixture
def setting(tiny):
    return make_setting(jt.MLP(4, hidden=(8,)), jt.from_arrays(*tiny), jt.Config(epochs=2, batch_size=16))


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def hparams_of(folder, tag):
    content = read(folder).SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return _plugin().HParamsPluginData.FromString(content)


def test_a_run_is_a_row_with_every_hyper_parameter_and_the_tasks_metrics(setting, tmp_path):
    with Log(tmp_path, Terminal(quiet=True)) as log:
        overview.log_hyper(log, setting, HYPER, 7)
        overview.log_result(log, SUMMARY)
    row = hparams_of(tmp_path, "session_start_info").session_start_info.hparams
    assert row["learning_rate"].number_value == 3e-3 and row["dropout_rate"].string_value == "none"
    assert (row["mine"].number_value, row["seed"].number_value, row["batch_size"].number_value) == (0.5, 7, 16)
    assert row["optimizer"].string_value == "Adam" and row["model"].string_value == "MLP"
    about = hparams_of(tmp_path, "experiment").experiment
    assert {info.name for info in about.hparam_infos} == set(row)
    assert [info.display_name for info in about.metric_infos] == list(overview.METRICS)
    assert hparams_of(tmp_path, "session_end_info").session_end_info.status == 1


def test_members_are_one_group_without_their_seeds(setting, tmp_path):
    with Log(tmp_path, Terminal(quiet=True)) as log:
        overview.log_hyper(log, setting, HYPER, 7, group="study")
    start = hparams_of(tmp_path, "session_start_info").session_start_info
    assert start.group_name == "study" and "seed" not in start.hparams


def test_the_result_is_a_table_and_a_stopped_run_has_none(tmp_path):
    table = overview.summary_table(SUMMARY)
    assert "| split | loss | accuracy |" in table and "| test | 0.5000 | 0.8750 |" in table and "| seed | 7 |" in table
    with Log(tmp_path, Terminal(quiet=True)) as log:
        overview.log_result(log, {**SUMMARY, "status": "stopped"})
    assert not read(tmp_path).Tags()["tensors"]


def test_both_graphs_are_drawn_from_shapes_alone(setting, tiny, tmp_path):
    with Log(tmp_path, Terminal(quiet=True)) as log:
        overview.log_graphs(log, setting, jt.from_arrays(*tiny), HYPER)
    names = [node.name for node in read(tmp_path).Graph().node]
    assert any(name.startswith("Dense_0/") for name in names) and not any("backward" in name for name in names)
    step = [node.name for node in read(tmp_path / overview.STEP_GRAPH).Graph().node]
    assert {"loss", "backward", "optimizer", "Dense_0"} <= {name.partition("/")[0] for name in step}


def test_a_graph_that_cannot_be_drawn_is_a_warning(setting, tiny, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise GraphError("a JAX of the future")

    monkeypatch.setattr(overview, "model_graph", fail)
    with Log(tmp_path, Terminal(quiet=True)) as log:
        overview.log_graphs(log, setting, jt.from_arrays(*tiny), Hyper())
    assert "the GRAPHS tab stays empty: a JAX of the future" in capsys.readouterr().out
