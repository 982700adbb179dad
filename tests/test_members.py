"""Laws of the member axis: a looped member is the single run, a stacked one does not know its neighbours."""

import dataclasses
import math
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain import layout as layout_module
from jaxtrain import train as loop
from jaxtrain.data import Resident, take
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.events import read_scalars
from jaxtrain.files import read_json_lines
from jaxtrain.finish import finish
from jaxtrain.layout import Layout, num_parts_that_fit, plan
from jaxtrain.leaves import digest
from jaxtrain.log import Log, Logs
from jaxtrain.members import make_group, places
from jaxtrain.step import make_setting
from jaxtrain.terminal import Terminal
from jaxtrain.train import train
from jaxtrain.types import Hyper

HYPER = Hyper(learning_rate=3e-3, weight_decay=1e-2, dropout_rate=0.3)


class UsersNet(nn.Module):
    """A network with Flax's own convolution, which is stepped on a CPU."""

    @nn.compact
    def __call__(self, image, *, train, hyper):
        x = nn.relu(jt.BatchNorm()(nn.Conv(4, (3, 3), use_bias=False)(image), train=train))
        return nn.Dense(10)(jt.Dropout()(x.reshape(x.shape[0], -1), hyper.dropout_rate, train=train))


NETS = {
    "mlp": jt.MLP(hidden=(32,)),
    "cnn": jt.CNN(features=(4, 8), hidden=16),
    "resnet": jt.ResNet(widths=(4, 8)),
    "nn.Conv": UsersNet(),
}


@pytest.fixture(scope="module")
def digits():
    whole = jt.load_data(jt.DataConfig(name="digits"))
    return jt.from_arrays(whole.image[:640], whole.label[:640], test=(whole.image[640:700], whole.label[640:700]))


@pytest.fixture(scope="module")
def noisy():
    """640 images of ten prototypes under noise: no pixel is constant."""
    random, label = np.random.default_rng(0), np.arange(640) % 10
    prototypes = random.integers(0, 120, (10, 8, 8, 1))
    image = (prototypes[label] + random.integers(0, 130, (640, 8, 8, 1))).astype(np.uint8)
    return jt.from_arrays(image, label)


def make_config(**changes):
    return dataclasses.replace(jt.Config(epochs=2, batch_size=64, log_every_steps=5, eval_batch_size=100), **changes)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def full(*values):
    return pytest.param(*values, marks=[pytest.mark.slow, pytest.mark.full])


def silent():
    return Logs(Log(None, Terminal(quiet=True)))


def trained(net, data, seeds, parallel, *, config=None, hypers=HYPER, devices=1, until=None, mark=True):
    """A group at its end (or after `until` steps), and its timing."""
    setting = make_setting(net, data, config or make_config())
    group = make_group(setting, data, seeds, hypers, parallel, devices=jax.devices()[:devices])
    timing = train(group, log=silent(), until=until, mark=mark)
    return group, timing


def state_of(group, index):
    lane, place = group.where(index)
    return lane.state if place is None else places(lane.state, place)


def bits(group, index):
    """Everything of a member: parameters, statistics, optimizer, hyper-parameters, key, control, best weights."""
    best = group.pick([lane.best for lane in group.lanes], index)
    return digest({"state": state_of(group, index), "best": best})


# ---- loop


@pytest.mark.parametrize(
    ("net", "devices"),
    [("mlp", 2), slow("mlp", 1), slow("cnn", 1), slow("cnn", 2), slow("nn.Conv", 1), slow("nn.Conv", 2)],
)
def test_every_looped_member_is_its_single_run_bit_for_bit(digits, net, devices):
    seeds = range(8)
    group, timing = trained(NETS[net], digits, seeds, "loop", devices=devices)
    runs = finish(group, timing, silent(), [None] * 8)
    for index, seed in enumerate(seeds):
        alone = jt.fit(NETS[net], digits, make_config(), HYPER, seed=seed, quiet=True)
        assert digest({"state": alone.state}) == digest({"state": state_of(group, index)})
        assert alone.history == group.members[index].history
        for split in ("train", "val", "test", "digest"):
            assert alone.summary[split] == runs[index].summary[split]


def test_groups_of_any_width_are_the_same_looped_members(digits):
    config = make_config()
    digests = [
        [run.summary["digest"] for run in jt.fit(NETS["mlp"], digits, config, HYPER, seeds=range(5), **how).members]
        for how in ({"parallel": "loop", "quiet": True}, {"parallel": "loop", "quiet": True, "width": 2})
    ]
    assert digests[0] == digests[1]


# ---- vmap


@pytest.mark.parametrize("net", ["mlp", slow("cnn")])
def test_a_stacked_member_does_not_know_its_place_or_its_neighbours(digits, net):
    width = [trained(NETS[net], digits, seeds, "vmap")[0] for seeds in ([0, 1, 2, 3], [3, 0, 2, 1], [9, 8, 2, 7])]
    first, permuted, others = width
    assert [bits(first, i) for i in (0, 1, 2, 3)] == [bits(permuted, i) for i in (1, 3, 2, 0)]
    assert bits(first, 2) == bits(others, 2)


@pytest.mark.slow
def test_members_on_several_devices_do_not_know_their_place_either(digits):
    first, permuted = (trained(NETS["mlp"], digits, seeds, "vmap", devices=2)[0] for seeds in ([0, 1, 2], [2, 0, 1]))
    assert first.layout.slots == 4  # two on each device; the place over is filled and not looked at
    assert [bits(first, i) for i in (0, 1, 2)] == [bits(permuted, i) for i in (1, 2, 0)]


@pytest.mark.parametrize(
    ("net", "devices"), [("mlp", 1), slow("mlp", 2), slow("cnn", 1), full("cnn", 2), full("resnet", 1)]
)
def test_stacked_members_are_the_single_runs_up_to_rounding(noisy, net, devices):
    # A pixel that is the same in every image is a bias before BatchNorm: its gradient is rounding noise, which Adam
    # divides by itself. With such pixels the logits differ by up to 1e-2 after 50 steps (MNIST); here there is none.
    config = make_config(epochs=6)
    stacked, _ = trained(NETS[net], noisy, range(4), "vmap", config=config, devices=devices, until=50)
    looped, _ = trained(NETS[net], noisy, range(4), "loop", config=config, until=50)
    assert stacked.step == looped.step == 50
    image = take(Resident(noisy).arrays, jnp.arange(256)).image
    for index in range(4):
        states = state_of(stacked, index), state_of(looped, index)
        model = stacked.setting.model
        logits = [model.apply(s.params, s.batch_stats, image, train=False, hyper=s.hyper).outputs for s in states]
        np.testing.assert_allclose(*logits, rtol=0, atol=1e-5)


def test_nothing_is_communicated_between_devices(digits):
    group, _ = trained(NETS["mlp"], digits, range(4), "vmap", devices=2, until=1)
    (lane,) = group.lanes
    assert len(lane.state.step.sharding.device_set) == 2
    arrays, order, _ = lane.feed.chunk(lane.key, 0, 0, 1, 64)
    looped = jax.jit(lambda *args: lane.program.run_steps(*args, 0, 3))
    text = looped.lower(lane.state, lane.sums, arrays, order).compile().as_text()
    assert not re.search("all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter", text)


def test_what_is_taken_from_a_stack_is_taken_on_one_device(digits):
    group, _ = trained(NETS["mlp"], digits, range(3), "vmap", devices=2, until=1)
    (lane,) = group.lanes
    assert len(lane.state.step.devices()) == 2 and group.is_padded
    taken = group.weights(2), loop.checkpoint_tree(group), places(lane.state, np.array([2, 0]))
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(taken)} == {1}  # else they talk, and may wait for ever
    kernel, held = (
        lane.state.params["outputs"]["kernel"],
        [part["outputs"]["kernel"] for part in (taken[0]["params"], taken[1]["state"][0].params, taken[2].params)],
    )
    for part, index in zip(held, (2, slice(3), [2, 0]), strict=True):
        np.testing.assert_array_equal(part, np.asarray(kernel)[index])
    np.testing.assert_array_equal(
        jax.random.key_data(taken[2].key), jax.random.key_data(lane.state.key)[np.array([2, 0])]
    )


def test_the_cause_of_a_nan_is_found_in_a_stack_over_devices(digits):
    config, hyper = jt.Config(epochs=1, batch_size=64, nonfinite="stop"), jt.Hyper(learning_rate=1e30)
    with pytest.raises(NonFiniteError, match="the outputs of .* are the first that are not finite"):
        jt.fit(NETS["mlp"], digits, config, hyper, seeds=(0, 1, 2), parallel="vmap", quiet=True)


# ---- members end apart


@pytest.mark.parametrize("parallel", [slow("vmap"), "loop"])
def test_early_stopping_is_each_members_own(digits, parallel):
    config = make_config(epochs=12, early_stopping=jt.EarlyStopping(patience=1), watch="loss")
    hypers = [dataclasses.replace(HYPER, learning_rate=rate) for rate in (0.3, 1e-3, 0.1)]
    group, timing = trained(NETS["mlp"], digits, [0, 1, 2], parallel, config=config, hypers=hypers)
    runs = finish(group, timing, silent(), [None] * 3)
    steps = [run.summary["steps"] for run in runs]
    assert len(set(steps)) > 1 and runs[0].summary["status"] == "early stopping"
    for index, run in enumerate(runs):
        losses = [row["val/loss"] for row in run.history]
        assert run.val.loss == pytest.approx(min(losses), rel=1e-5)
        assert run.history[-1]["step"] == steps[index]
        # What came after its end has not touched it: it is what it was when the others were not yet further.
        until, _ = trained(NETS["mlp"], digits, [0, 1, 2], parallel, config=config, hypers=hypers, until=steps[index])
        assert digest({"x": state_of(until, index)}) == digest({"x": state_of(group, index)})


def test_the_checkpoint_of_a_stack_with_a_stopped_member_does_not_depend_on_the_chunks(digits, monkeypatch):
    config = make_config(epochs=12, early_stopping=jt.EarlyStopping(patience=1), watch="loss", log_every_steps=1000)
    hypers = [dataclasses.replace(HYPER, learning_rate=rate) for rate in (0.3, 1e-3)]
    request = dict(config=config, hypers=hypers, until=88)
    long, _ = trained(NETS["mlp"], digits, [0, 1], "vmap", **request)
    monkeypatch.setattr(loop, "FIRST_CHUNK", 3)
    monkeypatch.setattr(loop, "_next_limit", lambda limit, *_: limit)
    short, _ = trained(NETS["mlp"], digits, [0, 1], "vmap", **request)
    assert [member.running for member in long.members] == [False, True]
    assert digest(loop.checkpoint_tree(long)) == digest(loop.checkpoint_tree(short))


@pytest.mark.parametrize("parallel", ["vmap", "loop"])
def test_a_diverged_member_is_marked_and_disturbs_no_other(digits, parallel):
    net, config = jt.MLP(hidden=(32,), batch_norm=False), make_config(optimizer=jt.Sgd())
    calm = [Hyper(learning_rate=1e-2)] * 3
    wild = [calm[0], Hyper(learning_rate=1e30), calm[2]]
    group, timing = trained(net, digits, [0, 1, 2], parallel, config=config, hypers=wild)
    undisturbed, _ = trained(net, digits, [0, 1, 2], parallel, config=config, hypers=calm)
    assert [member.reason for member in group.members] == ["done", "diverged", "done"]
    assert "seed 1: the loss or a weight became NaN" in group.members[1].note
    assert [bits(group, i) for i in (0, 2)] == [bits(undisturbed, i) for i in (0, 2)]
    left = state_of(group, 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((left.params, left.batch_stats, left.opt_state)))
    assert not state_of(group, 1).control.alive
    runs = finish(group, timing, silent(), [None] * 3)
    ensemble = jt.Ensemble(runs)
    assert len(ensemble.living) == 2 and ensemble.outputs(digits.image[:5]).shape == (2, 5, 10)
    assert ensemble.val.accuracy == pytest.approx((runs[0].val.accuracy + runs[2].val.accuracy) / 2)


def test_a_run_whose_members_all_diverge_says_so(digits):
    net, config = jt.MLP(hidden=(32,), batch_norm=False), make_config(optimizer=jt.Sgd())
    with pytest.raises(NonFiniteError, match="all 2 members diverged; the first: member with seed 0"):
        jt.fit(net, digits, config, Hyper(learning_rate=1e30), seeds=range(2), quiet=True)


@pytest.mark.parametrize("parallel", [slow("vmap"), "loop"])
def test_survivors_go_on_in_a_narrower_group(digits, parallel):
    config = make_config(epochs=3)
    group, _ = trained(NETS["mlp"], digits, range(4), parallel, config=config, until=9)
    before = [bits(group, i) for i in range(4)]
    survivors = group.select([3, 1])
    assert [bits(survivors, i) for i in range(2)] == [before[3], before[1]]
    train(survivors, log=silent(), mark=True)
    assert survivors.step == survivors.setting.num_steps and [m.seed for m in survivors.members] == [3, 1]
    whole, _ = trained(NETS["mlp"], digits, range(4), parallel, config=config)
    for mine, theirs in ((0, 3), (1, 1)):
        if parallel == "loop":
            assert bits(survivors, mine) == bits(whole, theirs)
        assert survivors.members[mine].history[-1]["val/loss"] == pytest.approx(
            whole.members[theirs].history[-1]["val/loss"], rel=1e-3
        )


# ---- runs of members


def stop_after(chunks):
    asked = iter(range(1, 10**9))
    return lambda: next(asked) >= chunks


@pytest.mark.parametrize(
    "how", [{"parallel": "vmap"}, slow({"parallel": "loop"}), slow({"parallel": "loop", "width": 2})]
)
def test_members_stopped_and_resumed_are_the_uninterrupted_ones(digits, tmp_path, monkeypatch, how):
    config = make_config(epochs=3, early_stopping=jt.EarlyStopping(patience=1), ema_decay=0.9, final="ema")
    how = {"seeds": range(3), "quiet": True, **how}
    whole = jt.fit(NETS["mlp"], digits, config, HYPER, workdir=tmp_path / "whole", **how)
    monkeypatch.setattr(loop, "FIRST_CHUNK", 3)
    monkeypatch.setattr(loop, "_next_limit", lambda limit, *_: limit)
    for chunks in (2, 4, 5):
        resume = (tmp_path / "parts").exists()
        part = jt.fit(
            NETS["mlp"],
            digits,
            config,
            HYPER,
            workdir=tmp_path / "parts",
            resume=resume,
            stop=stop_after(chunks),
            **how,
        )
        assert part.summary["status"] == "stopped" and "test" not in part.summary
    ended = jt.fit(NETS["mlp"], digits, config, HYPER, workdir=tmp_path / "parts", resume=True, **how)
    assert ended.summary["digest"] == whole.summary["digest"]
    assert [run.history for run in ended.members] == [run.history for run in whole.members]
    for place in ("", "members/001"):
        for split in ("train", "val", "test"):
            sides = (read_scalars(tmp_path / name / place / split) for name in ("parts", "whole"))
            assert next(sides) == next(sides)


def test_a_run_killed_between_score_and_result_has_one_score(digits, tmp_path, monkeypatch):
    import jaxtrain.job as job_module

    def killed(*args):
        raise KeyboardInterrupt

    config = make_config(epochs=12, early_stopping=jt.EarlyStopping(patience=1), watch="loss")
    high = dataclasses.replace(HYPER, learning_rate=0.3)
    request = dict(seeds=range(3), parallel="loop", workdir=tmp_path, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "_write_member", killed)
        with pytest.raises(KeyboardInterrupt):
            jt.fit(NETS["mlp"], digits, config, high, **request)
    run = jt.fit(NETS["mlp"], digits, config, high, **request, resume=True)
    assert len({member.summary["steps"] for member in run.members}) > 1
    for index in range(3):
        folder = tmp_path / "members" / f"{index:03d}"
        assert [len(points) for points in read_scalars(folder / "test").values()] == [1, 1]
        assert (folder / "metrics.jsonl").read_text().count("test/loss") == 1


def test_members_that_diverged_before_a_kill_have_diverged_after_it(digits, tmp_path, monkeypatch):
    import jaxtrain.job as job_module

    def killed(*args):
        raise KeyboardInterrupt

    net, config = jt.MLP(hidden=(32,), batch_norm=False), make_config(optimizer=jt.Sgd())
    request = dict(seeds=range(2), workdir=tmp_path, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "_write_member", killed)
        with pytest.raises(KeyboardInterrupt):
            jt.fit(net, digits, config, Hyper(learning_rate=1e30), **request)
    with pytest.raises(NonFiniteError, match="seed 0: the loss or a weight became NaN"):
        jt.fit(net, digits, config, Hyper(learning_rate=1e30), **request, resume=True)


def in_groups(data, folder, stopped_after=None, **changes):
    """Three members, one at a time; `stopped_after` so many chunks."""
    config = make_config(**{"epochs": 1, **changes.pop("config", {})})
    stop = {} if stopped_after is None else {"stop": stop_after(stopped_after)}
    request = dict(seeds=range(3), width=1, workdir=folder, quiet=True, **stop, **changes)
    return jt.fit(jt.MLP(hidden=(8,)), data, config, HYPER, **request)


def test_a_run_in_groups_that_was_made_longer_ends_with_all_of_that_length(digits, tmp_path):
    in_groups(digits, tmp_path)
    stopped = in_groups(digits, tmp_path, 1, config={"epochs": 2}, resume=True)
    assert stopped.summary["status"] == "stopped"
    ended = in_groups(digits, tmp_path, config={"epochs": 2}, resume=True)
    assert [run.summary["epochs"] for run in ended.members] == [2, 2, 2]


def test_groups_that_begin_after_a_resumption_start_from_the_given_weights_too(digits, tmp_path):
    jt.fit(jt.MLP(hidden=(8,)), digits, make_config(epochs=4), HYPER, workdir=tmp_path / "origin", quiet=True)
    origin = {"init_from": tmp_path / "origin"}
    whole = in_groups(digits, tmp_path / "whole", **origin)
    assert in_groups(digits, tmp_path / "parts", 1, **origin).summary["status"] == "stopped"
    assert in_groups(digits, tmp_path / "parts", resume=True).summary["digest"] == whole.summary["digest"]


def test_weights_to_begin_with_that_are_gone_or_others_end_a_resumption_that_needs_them(digits, tmp_path):
    request = dict(workdir=tmp_path / "origin", quiet=True)
    jt.fit(jt.MLP(hidden=(8,)), digits, make_config(epochs=1), HYPER, **request)
    origin = {"init_from": tmp_path / "origin"}
    in_groups(digits, tmp_path / "parts", 1, **origin)
    with pytest.raises(RequestError, match="leave out --init-from to continue it"):
        other = jt.fit(jt.MLP(hidden=(8,)), digits, make_config(epochs=1), HYPER, seed=5, quiet=True)
        in_groups(digits, tmp_path / "parts", resume=True, init_from=other)
    jt.fit(jt.MLP(hidden=(8,)), digits, make_config(epochs=2), HYPER, **request, resume=True)
    with pytest.raises(WorldError, match="no longer holds the weights that the run began with"):
        in_groups(digits, tmp_path / "parts", resume=True)
    shutil.rmtree(tmp_path / "origin")
    for _ in range(2):  # the first attempt has forgotten nothing
        with pytest.raises(WorldError, match="cannot be read: .*origin holds no run; .* bring them back"):
            in_groups(digits, tmp_path / "parts", resume=True)


def test_a_run_that_has_a_checkpoint_needs_the_weights_it_began_with_no_more(digits, tmp_path):
    request = dict(quiet=True, workdir=tmp_path / "run")
    origin = jt.fit(jt.MLP(hidden=(8,)), digits, make_config(epochs=1), HYPER, workdir=tmp_path / "origin", quiet=True)
    model, config = jt.MLP(hidden=(8,)), make_config(epochs=2)
    whole = jt.fit(model, digits, config, HYPER, init_from=origin, quiet=True)
    jt.fit(model, digits, config, HYPER, init_from=origin, stop=stop_after(1), **request)
    shutil.rmtree(tmp_path / "origin")
    resumed = jt.fit(model, digits, config, HYPER, resume=True, **request)
    assert resumed.summary["digest"] == whole.summary["digest"]


def test_a_stop_in_a_later_group_is_a_stop(digits, tmp_path):
    def stop():
        return len(list((tmp_path / "members").glob("*/summary.json"))) == 1

    run = in_groups(digits, tmp_path, stop=stop)
    assert run.summary["status"] == "stopped" and len(run.members) == 2 and "test" not in run.summary
    assert in_groups(digits, tmp_path, resume=True).summary["status"] == "done"


def test_each_group_has_its_own_seconds(digits):
    run = in_groups(digits, None)
    first, *later = [member.summary["seconds"] for member in run.members]
    assert run.summary["seconds"] == pytest.approx(first + sum(later)) and max(later) < first


def test_a_seed_beyond_31_bits_is_one_under_vmap_too(digits):
    seeds = (2**31 + 5, 1)
    group, _ = trained(jt.MLP(hidden=(8,)), digits, seeds, "vmap", until=1)
    alone, _ = trained(jt.MLP(hidden=(8,)), digits, seeds[:1], "loop", until=1)
    assert group.members[0].seed == seeds[0]
    assert jax.random.key_data(state_of(group, 0).key).tolist() == jax.random.key_data(state_of(alone, 0).key).tolist()


@pytest.mark.parametrize("parallel", ["vmap", "loop"])
def test_a_survivor_that_has_stopped_early_stays_where_it_stopped(digits, parallel):
    group, _ = trained(NETS["mlp"], digits, range(3), parallel, config=make_config(epochs=3), until=9)
    group.members[1].reason = "early stopping"
    survivors = group.select([0, 1])
    before = bits(survivors, 1)
    train(survivors, log=silent(), mark=True)
    assert bits(survivors, 1) == before and survivors.steps_done() == [survivors.setting.num_steps, 9]


def test_a_run_of_members_is_read_back_as_it_was_returned(digits, tmp_path):
    run = jt.fit(NETS["mlp"], digits, make_config(), HYPER, seeds=(5, 2), workdir=tmp_path / "run", quiet=True)
    again = jt.load_run(tmp_path / "run")
    assert isinstance(again, jt.Ensemble) and again.summary["members"][0]["seed"] == 5
    image = digits.image[:40]
    for name, value in run.predict(image)._asdict().items():
        np.testing.assert_array_equal(value, getattr(again.predict(image), name))
    member = jt.load_run(tmp_path / "run" / "members" / "001")
    assert member.seed == 2 and member.summary["digest"] == run.members[1].summary["digest"]
    np.testing.assert_array_equal(member.predict(image).probability, run.members[1].predict(image).probability)
    mean = np.mean([each.predict(image).probability for each in run.members], axis=0)
    np.testing.assert_allclose(run.predict(image).probability, mean, atol=1e-6)


def test_the_folder_shows_mean_band_and_every_member(digits, tmp_path):
    run = jt.fit(NETS["mlp"], digits, make_config(), HYPER, seeds=range(3), workdir=tmp_path, quiet=True)
    means = read_scalars(tmp_path / "val")
    members = [read_scalars(tmp_path / "members" / f"{i:03d}" / "val") for i in range(3)]
    assert {"accuracy", "accuracy/mean", "accuracy/low", "accuracy/high"} <= means.keys()
    for at, (step, value) in enumerate(means["loss"]):
        each = [member["loss"][at] for member in members]
        assert {point[0] for point in each} == {step} and value == pytest.approx(np.mean([p[1] for p in each]))
        deviation = np.std([p[1] for p in each], ddof=1)
        assert means["loss/high"][at][1] - means["loss/low"][at][1] == pytest.approx(2 * deviation, rel=1e-3)
    found = run.summary["interval"]["test"]["accuracy"]
    values = [member["test"]["accuracy"] for member in run.summary["members"]]
    assert found["mean"] == pytest.approx(np.mean(values)) and found["low"] <= found["mean"] <= found["high"]
    lines = (tmp_path / "members.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("seed,status,train/")
    assert {"curves.png", "ensemble.png", "summary.json", "config.json"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_snapshots_of_a_cyclic_schedule_are_an_ensemble(digits, tmp_path):
    config = make_config(epochs=4, snapshot_every_epochs=2, schedule=jt.Schedule("cosine_restarts", period=2.0))
    run = jt.fit(NETS["mlp"], digits, config, HYPER, workdir=tmp_path / "run", quiet=True)
    assert len(run.snapshots) == 2
    assert digest(run.snapshots[-1].params) == digest(run.params)
    half = jt.fit(NETS["mlp"], digits, dataclasses.replace(config, epochs=2), HYPER, quiet=True)
    image = digits.image[:30]
    np.testing.assert_allclose(run.snapshots[0].outputs(image), half.outputs(image), atol=1e-4)  # the first cycle's end
    again = jt.load_run(tmp_path / "run").snapshots
    assert jt.Ensemble(again).evaluate(image, digits.label[:30])["num_members"] == 2
    stacked = jt.fit(NETS["mlp"], digits, config, HYPER, seeds=range(2), parallel="vmap", quiet=True)
    assert len(jt.Ensemble([s for member in stacked.members for s in member.snapshots]).living) == 4


@pytest.mark.parametrize("parallel", [slow("vmap"), "loop"])
def test_members_start_from_a_finished_run(digits, parallel):
    old = jt.fit(NETS["mlp"], digits, make_config(), HYPER, quiet=True)
    still = dataclasses.replace(HYPER, learning_rate=0.0)
    tuned = jt.fit(
        NETS["mlp"], digits, make_config(epochs=1), still, seeds=(7, 8), parallel=parallel, init_from=old, quiet=True
    )
    for member in tuned.members:
        np.testing.assert_array_equal(member.params["Dense_0"]["kernel"], old.params["Dense_0"]["kernel"])


# ---- requests


def test_data_that_streams_is_looped_or_refused(digits):
    config = make_config(stream="always", epochs=1)
    with pytest.raises(RequestError, match="each has its own order; use --parallel loop"):
        jt.fit(NETS["mlp"], digits, config, HYPER, seeds=range(2), parallel="vmap", quiet=True)
    streamed = jt.fit(NETS["mlp"], digits, config, HYPER, seeds=range(3), quiet=True)
    resident = jt.fit(NETS["mlp"], digits, make_config(epochs=1), HYPER, seeds=range(3), parallel="loop", quiet=True)
    assert streamed.summary["digest"] == resident.summary["digest"] and streamed.summary["width"] <= 2


def test_more_members_than_memory_holds_go_through_in_groups_and_it_is_said(digits, monkeypatch, tmp_path, capsys):
    setting = make_setting(NETS["mlp"], digits, make_config(epochs=1))
    one = sum(layout_module._bytes_of_member(setting, HYPER))
    monkeypatch.setattr(layout_module, "memory_left", lambda device: 2 * 3.5 * one)
    layout = plan(setting, digits, HYPER, 7, "vmap", devices=jax.devices()[:1])
    assert layout == Layout("vmap", 3, 1, layout.why) and "MB of memory" in layout.why
    run = jt.fit(
        NETS["mlp"], digits, make_config(epochs=1), HYPER, seeds=range(5), parallel="vmap", workdir=tmp_path, width=99
    )
    out = capsys.readouterr().out
    assert "3 at a time (about" in out and "members 3 to 4 of 5" in out and len(run.members) == 5
    # The mean over all members, whatever group they were in, is written at the end.
    means = [value for _, value in read_scalars(tmp_path / "val")["accuracy"]]
    assert means == pytest.approx([np.mean([m.history[0]["val/accuracy"] for m in run.members])])


def test_a_group_that_the_device_cannot_hold_is_narrowed(digits, monkeypatch, capsys):
    import jaxtrain.job as job_module

    widths = []

    def full(group, **options):
        widths.append(group.layout.width)
        if group.layout.width > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return train(group, **options)

    monkeypatch.setattr(job_module, "train", full)
    run = jt.fit(NETS["mlp"], digits, make_config(epochs=1), HYPER, seeds=range(4), parallel="vmap")
    assert widths == [4, 2, 2] and len(run.members) == 4
    assert "4 members do not fit into the memory; trying 2 at a time" in capsys.readouterr().out


def test_a_group_that_is_narrowed_late_leaves_nothing_of_the_wider_one(digits, tmp_path, monkeypatch):
    import jaxtrain.job as job_module

    def full(group, *, log, store, **options):
        if group.layout.width > 2:  # it trains, and fails at its second evaluation
            train(group, log=log, store=store, until=2 * group.setting.steps_per_epoch, **options)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return train(group, log=log, store=store, **options)

    request = dict(seeds=range(3), parallel="vmap", quiet=True)
    config = make_config(epochs=3, checkpoint_every_seconds=1e-9, log_every_steps=5)
    jt.fit(NETS["mlp"], digits, config, HYPER, width=2, workdir=tmp_path / "narrow", **request)
    monkeypatch.setattr(job_module, "train", full)
    jt.fit(NETS["mlp"], digits, config, HYPER, workdir=tmp_path / "narrowed", **request)
    for place in ("", "members/000", "members/002"):
        sides = [read_json_lines(tmp_path / name / place / "metrics.jsonl") for name in ("narrowed", "narrow")]
        assert [line["step"] for line in sides[0]] == [line["step"] for line in sides[1]]
        for split in ("train", "val"):
            curves, expected = (read_scalars(tmp_path / name / place / split) for name in ("narrowed", "narrow"))
            assert {tag: points for tag, points in curves.items() if points} == expected  # the rest was purged
    assert not [path for path in (tmp_path / "narrowed/checkpoints").iterdir() if path.name[0] == "0"]


def test_a_single_run_that_does_not_fit_is_told_a_batch_that_does(digits, monkeypatch):
    def full(*args, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr("jaxtrain.job.train", full)
    with pytest.raises(WorldError, match="batch size 64; by estimate 32 fits: .* or --num_micro_batches 2, which"):
        jt.fit(NETS["mlp"], digits, make_config(), HYPER, quiet=True)


def test_the_parts_of_a_batch_that_fit_are_the_fewest_by_the_estimate(digits):
    setting = make_setting(NETS["cnn"], digits, make_config())
    quarter = make_setting(NETS["cnn"], digits, make_config(num_micro_batches=4))
    needed = sum(layout_module._bytes_of_member(quarter, HYPER))
    assert num_parts_that_fit(setting, HYPER, 1, needed) == 4
    assert num_parts_that_fit(setting, HYPER, 3, 3 * needed) == 4
    assert num_parts_that_fit(setting, HYPER, 1, needed - 1) == 8
    assert num_parts_that_fit(setting, HYPER, 1, 0) == 64


def test_a_stack_resumes_on_another_number_of_devices(digits, tmp_path, monkeypatch, capsys):
    config = make_config(epochs=3, max_chunk_seconds=1e-3)
    request = dict(seeds=range(3), parallel="vmap")
    whole = jt.fit(NETS["mlp"], digits, config, HYPER, **request, quiet=True)
    monkeypatch.setattr("jaxtrain.train.FIRST_CHUNK", 3)
    jt.fit(NETS["mlp"], digits, config, HYPER, **request, workdir=tmp_path, quiet=True, stop=stop_after(4))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    resumed = jt.fit(NETS["mlp"], digits, config, HYPER, **request, workdir=tmp_path, resume=True)
    assert "2 devices held the members, now 1" in capsys.readouterr().out
    assert [run.summary["status"] for run in resumed.members] == ["done"] * 3
    for run, other in zip(resumed.members, whole.members, strict=True):
        logits, expected = run.outputs(digits.image[:20]), other.outputs(digits.image[:20])
        np.testing.assert_allclose(logits, expected, rtol=0.02, atol=0.02)


REFUSED = {
    "no member": (dict(seeds=()), "0 members"),
    "a seed twice": (dict(seeds=(1, 1)), "seed 1 was given twice"),
    "no width": (dict(seeds=(1, 2), width=0), "a group of 0 members"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_request_leaves_no_folder(digits, tmp_path, name):
    changes, message = REFUSED[name]
    with pytest.raises(RequestError, match=message):
        jt.fit(NETS["mlp"], digits, make_config(), HYPER, workdir=tmp_path / "run", quiet=True, **changes)
    assert not (tmp_path / "run").exists()


def test_members_of_different_structure_are_refused(digits):
    setting = make_setting(NETS["mlp"], digits, make_config())
    with pytest.raises(RequestError, match="members 0 and 1 differ in which hyper-parameters are None"):
        make_group(setting, digits, [0, 1], [HYPER, dataclasses.replace(HYPER, dropout_rate=None)])


def test_a_test_split_on_which_the_answers_are_not_finite_does_not_cost_the_run(tmp_path):
    random = np.random.default_rng(0)
    table, label = random.normal(size=(120, 4)).astype(np.float32), np.arange(120) % 4
    huge = np.full((20, 4), 3e38, np.float32)
    data = jt.from_arrays(table, label, test=(huge, label[:20]), preprocess="none")
    folder = tmp_path / "run"
    run = jt.fit(
        jt.MLP(4, hidden=(8,)), data, jt.Config(epochs=1, batch_size=16), workdir=folder, seeds=(0, 1), quiet=True
    )
    assert math.isnan(run.test.loss) and math.isfinite(run.val.loss)
    assert set(run.summary["ensemble"]) == {"val"} and math.isnan(run.summary["interval"]["test"]["loss"]["mean"])
