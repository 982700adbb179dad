"""Looks at a run: at the same steps whatever the chunks, and never in a run that nobody reads."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import jaxtrain as jt
from jaxtrain import train as loop
from jaxtrain.events import read_scalars
from jaxtrain.look import look_at
from jaxtrain.probe import make_probe
from jaxtrain.step import make_setting
from tests.test_probe import prepared

pytestmark = pytest.mark.whole_runs
CONFIG = jt.Config(epochs=3, batch_size=16, log_every_steps=4)


@pytest.fixture
def data(tiny):
    return jt.from_arrays(*tiny, test=tiny, class_names=["north", "east", "south", "west"])


def fit(data, folder, **request):
    return jt.fit(jt.MLP(4, hidden=(8,)), data, CONFIG, workdir=folder, quiet=True, **request)


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_a_short_run_has_ten_looks_and_a_long_one_one_every_so_many_steps(data):
    def every(**config):
        return make_setting(jt.Linear(4), data, dataclasses.replace(CONFIG, **config)).probe_every_steps

    assert every(epochs=100) == 600 // 10 and every(epochs=100_000) == 500
    assert every() == 2 and every(probe_every_steps=None) is None and every(epochs=100, probe_every_steps=7) == 7


def test_a_run_shows_its_layers_filters_and_batch(data, tmp_path):
    fit(data, tmp_path)
    seen = read(tmp_path)
    tags = seen.Tags()
    assert {"params/Dense_0/kernel", "gradients/outputs/bias", "activations/BatchNorm_0"} <= set(tags["histograms"])
    assert {"first_layer_filters", "batch"} <= set(tags["images"]) and tags["graph"]
    steps = list(range(0, 19, 2))  # before the first step, and ten in three epochs of six
    assert [point.step for point in seen.Scalars("gradient_norm")] == steps
    assert [point.step for point in seen.Histograms("params/Dense_0/kernel")] == steps
    assert [image.step for image in seen.Images("batch")] == [0]
    assert read(tmp_path / "graph_train_step").Tags()["graph"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    looks = [row for row in rows if row.get("kind") == "look"]
    assert [row["step"] for row in looks] == steps and looks[0]["update_ratio/Dense_0"] > 0


def test_looks_do_not_depend_on_chunks_kills_or_whether_there_are_any(data, tmp_path, monkeypatch):
    whole = fit(data, tmp_path / "whole")
    monkeypatch.setattr(loop, "FIRST_CHUNK", 5)
    asked = iter([False, False, True])
    fit(data, tmp_path / "parts", stop=lambda: next(asked))
    parts = fit(data, tmp_path / "parts", resume=True)
    blind = jt.fit(jt.MLP(4, hidden=(8,)), data, dataclasses.replace(CONFIG, probe_every_steps=None), quiet=True)
    assert whole.summary["digest"] == parts.summary["digest"] == blind.summary["digest"]
    sides = [read_scalars(tmp_path / name) for name in ("whole", "parts")]
    for name, points in sides[0].items():
        if name not in ("speed/images_per_second", "speed/compile_seconds"):
            assert points == sides[1][name], name
    sides = [read(tmp_path / name) for name in ("whole", "parts")]
    for tag in sides[0].Tags()["histograms"]:
        first, second = ([(p.step, p.histogram_value.bucket) for p in side.Histograms(tag)] for side in sides)
        assert first == second


def test_members_have_their_own_looks_and_the_run_their_mean(data, tmp_path):
    fit(data, tmp_path, seeds=range(2), parallel="vmap")
    members = [read_scalars(tmp_path / "members" / f"00{i}")["gradient_norm"] for i in range(2)]
    mean = read_scalars(tmp_path)["gradient_norm"]
    assert members[0] != members[1] and len(mean) == 10
    for (step, value), *own in zip(mean, *members, strict=True):
        assert {point[0] for point in own} == {step}
        assert value == pytest.approx(np.mean([point[1] for point in own]), rel=1e-5)
    alone = fit(data, tmp_path / "alone", seed=1)
    assert alone.summary["seed"] == 1
    single = dict(read_scalars(tmp_path / "alone")["gradient_norm"])
    assert dict(members[1])[0] == pytest.approx(single[0], rel=1e-4)


def test_nothing_is_probed_where_nothing_is_written(data, monkeypatch):
    monkeypatch.setattr(loop, "look_at", lambda *_, **__: pytest.fail("a probe that nobody reads"))
    jt.fit(jt.MLP(4, hidden=(8,)), data, CONFIG, quiet=True)


def test_values_that_are_not_finite_are_left_out(data):
    net = jt.MLP(4, hidden=(8,))
    state, batch, config = prepared(net, data)
    kernel = state.params["Dense_0"]["kernel"].at[0, 0].set(jnp.nan)
    state = dataclasses.replace(state, params={**state.params, "Dense_0": {"kernel": kernel}})
    seen = look_at(make_probe(net, data, config)(state, batch), state.params, (8, 8, 1), data.info, first=True)
    assert not any(name.startswith("gradient_norm") for name in seen.scalars)
    assert "params/Dense_0/kernel" not in seen.histograms and "params/outputs/kernel" in seen.histograms
    assert set(seen.figures) == {"batch"}


def test_a_constant_array_has_edges_that_ascend(data):
    net = jt.MLP(4, hidden=(8,))
    state, batch, config = prepared(net, data)
    seen = look_at(make_probe(net, data, config)(state, batch), state.params, (8, 8, 1), data.info, first=False)
    edges, counts = seen.histograms["params/BatchNorm_0/scale"]
    assert (np.diff(edges) > 0).all() and counts.sum() == 8 and not seen.figures
