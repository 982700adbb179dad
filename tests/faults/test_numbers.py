"""NaN and infinity: what the config says is done, nothing else is touched, and the last good checkpoint stands."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import server

import jaxtrain as jt
from jaxtrain.checkpoint import Store
from jaxtrain.data import Data, compiled_order
from jaxtrain.errors import NonFiniteError
from jaxtrain.leaves import digest, named_leaves
from jaxtrain.log import Log, Logs
from jaxtrain.members import make_group
from jaxtrain.step import MAX_BAD_STEPS, init_state, make_setting, train_step
from jaxtrain.terminal import Terminal
from jaxtrain.train import train
from jaxtrain.types import Array, Batch, Hyper, TrainState

ROOT = Path(__file__).parents[2]
MARK = 255.0  # no other pixel is as bright

numbers = pytest.mark.faults("NaN injected at a chosen step and member, overflow, NaN in the metric", ci=10, full=10)


class Poison(nn.Module):
    """NaN where the network is trained on a batch that holds the marked image."""

    @nn.compact
    def __call__(self, x: Array, found: Array) -> Array:
        return jnp.where(found, jnp.nan, x)


class Net(nn.Module):
    @nn.compact
    def __call__(self, image: Array, *, train: bool, hyper: Hyper) -> Array:
        x = nn.relu(jt.BatchNorm()(nn.Dense(16, use_bias=False)(image.reshape(image.shape[0], -1) / 255), train=train))
        x = Poison()(x, train & (image.max() == MARK) & (hyper.extra["poison"] > 0))
        x = nn.relu(jt.BatchNorm()(nn.Dense(12, use_bias=False)(x), train=train))
        return nn.Dense(4)(jt.Dropout()(x, hyper.dropout_rate, train=train))


CONFIG = jt.Config(epochs=4, batch_size=12, log_every_steps=3, ema_decay=0.9)
HYPER = Hyper(learning_rate=1e-2, weight_decay=1e-2, dropout_rate=0.2, extra={"poison": 1.0})
HEALTHY = dataclasses.replace(HYPER, extra={"poison": 0.0})


@pytest.fixture
def data(tiny) -> Data:
    """The tiny data, the first image of its training split marked: an epoch has it in one batch, or leaves it over."""
    image, label = tiny
    data = jt.from_arrays(np.minimum(image, 240).astype(np.float32), label, preprocess="none")
    marked = np.array(data.image)
    marked[0, 0, 0, 0] = MARK
    return dataclasses.replace(data, image=marked)


def poisoned_steps(data: Data, seed: int = 0, epochs: int = CONFIG.epochs) -> list[int]:
    """The steps whose batch holds the marked image."""
    per_epoch, steps = data.num_train // CONFIG.batch_size, []
    for epoch in range(epochs):
        order = np.asarray(compiled_order(jax.random.key(seed), epoch, data.num_train))
        at = int(np.flatnonzero(order == 0)[0]) // CONFIG.batch_size
        steps += [epoch * per_epoch + at] if at < per_epoch else []
    return steps


def fit(data: Data, hyper: Hyper = HYPER, *, config: dict[str, Any] | None = None, **request: Any) -> Any:
    chosen = dataclasses.replace(CONFIG, **(config or {}))
    return jt.fit(Net(), data, chosen, hyper, quiet=True, **request)


@numbers
def test_stop_names_the_step_and_the_layer_and_the_newest_checkpoint_is_good(data, tmp_path):
    step = poisoned_steps(data)[0]
    with pytest.raises(NonFiniteError) as caught:
        fit(data, workdir=tmp_path)
    said = str(caught.value)
    assert f"step {step} (epoch {step // 9}) gave NaN" in said
    assert "the outputs of Poison_0 are the first that are not finite" in said
    assert "at learning rate" in said and "jax_debug_nans" in said
    with Store(tmp_path / "checkpoints", read_only=True) as store:
        assert 0 <= max(store.steps()) <= step
        held = store.restore_part(["state/0/params", "state/0/batch_stats", "state/0/opt_state", "best"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(held))
    # A resumed run comes to the same end, for it is the same run.
    with pytest.raises(NonFiniteError, match=rf"step {step} \(epoch"):
        fit(data, workdir=tmp_path, resume=True)


def test_a_nan_whose_cause_cannot_be_sought_is_told_and_the_state_before_it_kept(data, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr("jaxtrain.train.find_cause", full)
    with pytest.raises(NonFiniteError, match="the loss or a weight became NaN or infinite between steps"):
        fit(data, workdir=tmp_path)
    assert "could not be repeated: JaxRuntimeError: RESOURCE_EXHAUSTED" in capsys.readouterr().out
    with Store(tmp_path / "checkpoints", read_only=True) as store:
        assert 0 <= max(store.steps()) <= poisoned_steps(data)[0]


@numbers
@pytest.mark.parametrize("parallel", ["loop", "vmap"])
def test_mark_leaves_one_member_behind_and_the_others_are_bit_for_bit_undisturbed(data, parallel):
    def trained(hypers):
        setting = make_setting(Net(), data, CONFIG)
        group = make_group(setting, data, range(3), hypers, parallel)
        train(group, log=Logs(Log(None, Terminal(quiet=True))), mark=True)
        return group

    def bits(group, index):
        state = group.pick([lane.state for lane in group.lanes], index)
        return digest({"params": state.params, "batch_stats": state.batch_stats, "opt": state.opt_state})

    marked, clean = trained([HEALTHY, HYPER, HEALTHY]), trained([HEALTHY] * 3)
    assert [member.reason for member in marked.members] == ["done", "diverged", "done"]
    assert [bits(marked, i) for i in (0, 2)] == [bits(clean, i) for i in (0, 2)]
    last_good = marked.weights(1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last_good))


@numbers
def test_a_skipped_step_changes_nothing_but_the_counts_of_steps(data):
    setting = make_setting(Net(), data, dataclasses.replace(CONFIG, nonfinite="skip"))
    state = init_state(setting, jax.random.key(0), HYPER)
    step = jax.jit(train_step, static_argnums=0)
    clean = Batch(jnp.asarray(data.image[1:13]), jnp.asarray(data.label[1:13]), jnp.ones(12))
    state, _ = step(setting, state, clean)
    after, metrics = step(setting, state, clean._replace(image=jnp.asarray(data.image[:12])))
    counts = {"step": 1, "control/bad_steps": 1, "control/skipped": 1}
    assert changes(state, after) == counts and float(metrics.count) == 0
    again, metrics = step(setting, after, clean)
    assert int(again.control.bad_steps) == 0 and int(again.control.skipped) == 1 and float(metrics.count) == 12


def changes(before: TrainState, after: TrainState) -> dict[str, Any]:
    """What differs, and by how much; NaN differs from everything."""
    old, new = named_leaves(before), named_leaves(after)
    plain = {path for path in old if not jnp.issubdtype(old[path].dtype, jax.dtypes.prng_key)}
    return {path: new[path] - old[path] for path in plain if not np.array_equal(old[path], new[path])}


@numbers
def test_skip_goes_on_past_each_bad_step_and_says_how_many_there_were(data, tmp_path, capsys):
    run = fit(data, config={"nonfinite": "skip"}, workdir=tmp_path)
    expected = len(poisoned_steps(data))
    assert expected >= 2 and run.summary["skipped_steps"] == expected and run.summary["status"] == "done"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((run.params, run.batch_stats, run.state.ema)))
    assert capsys.readouterr().out.count("were not finite and were skipped") >= 1
    # Skipping nothing is the same run as without the guard, up to the rounding of another program.
    guarded, plain = fit(data, HEALTHY, config={"nonfinite": "skip"}), fit(data, HEALTHY)
    assert guarded.summary["skipped_steps"] == 0
    np.testing.assert_allclose(
        guarded.params["Dense_2"]["kernel"], plain.params["Dense_2"]["kernel"], rtol=1e-4, atol=1e-5
    )


@numbers
def test_skip_ends_after_ten_in_a_row_wherever_chunks_fall(data):
    everywhere = dataclasses.replace(data, image=np.where(data.image == MARK, MARK, data.image))
    everywhere.image[:, 0, 0, 0] = MARK
    with pytest.raises(NonFiniteError, match=f"{MAX_BAD_STEPS} steps in a row were not finite and were skipped"):
        fit(everywhere, config={"nonfinite": "skip"})
    setting = make_setting(Net(), data, dataclasses.replace(CONFIG, nonfinite="skip"))
    state, step = init_state(setting, jax.random.key(0), HYPER), jax.jit(train_step, static_argnums=0)
    bad = Batch(jnp.asarray(everywhere.image[:12]), jnp.asarray(data.label[:12]), jnp.ones(12))
    for _ in range(MAX_BAD_STEPS):
        state, _ = step(setting, state, bad)
    clean = bad._replace(image=jnp.asarray(data.image[1:13]))
    after, metrics = step(setting, state, clean)  # in the same chunk, before anybody has looked
    assert int(after.control.bad_steps) == MAX_BAD_STEPS + 1 and float(metrics.count) == 0


@numbers
@pytest.mark.parametrize("members", [1, 3])
def test_a_huge_rate_is_exit_status_3_and_one_message(tmp_path, members):
    flags = [f"--members={members}"] if members > 1 else []
    command = ["--config", ROOT / "configs/digits.py", "--hyper.learning_rate=1e30", "--workdir", "run", "--epochs=2"]
    status, text = server().script("train", *command, "--quiet", "--no-report", *flags, cwd=tmp_path).end()
    assert status == 3, text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in text
    assert re.search(r"step \d+ \(epoch 0\) gave NaN|members diverged", errors[0])
    assert not (tmp_path / "run" / "summary.json").exists() or members > 1


@dataclasses.dataclass(frozen=True)
class Scored(jt.Classification):
    """With a score that is NaN for half of the classes."""

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        own = super().metrics(outputs, batch)
        return {**own, "score": jnp.full_like(own["loss"], jnp.nan)}


@numbers
def test_a_metric_that_is_nan_is_never_the_best_and_ends_no_run(data):
    early = jt.EarlyStopping(patience=2)
    run = fit(data, HEALTHY, config={"watch": "+score", "early_stopping": early}, task=Scored(4))
    assert run.summary["status"] == "early stopping" and run.summary["epochs"] == 2
    assert run.summary["best"] is None and int(run.state.control.best_step) == 0
    assert np.isnan(run.summary["val"]["score"]) and np.isfinite(run.summary["val"]["loss"])


@numbers
def test_nan_is_the_answer_of_no_class(data):
    task, label = jt.Classification(4), jnp.asarray([0, 1, 2, 3])
    outputs = jnp.full((4, 4), jnp.nan)
    scores = task.metrics(outputs, Batch(jnp.zeros((4, 1)), label, jnp.ones(4)))
    assert scores["accuracy"].tolist() == [0, 0, 0, 0]
    assert task.predict(outputs).label.tolist() == [-1, -1, -1, -1]
