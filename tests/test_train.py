"""Laws of the loop: chunks, traces, fetches, resumption, and what ends a run."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain as jt
from jaxtrain import program as program_module
from jaxtrain import train as loop
from jaxtrain.checkpoint import Store
from jaxtrain.data import Resident, take
from jaxtrain.errors import NonFiniteError, RequestError
from jaxtrain.events import read_scalars
from jaxtrain.leaves import digest
from jaxtrain.log import Log, Logs
from jaxtrain.members import make_group
from jaxtrain.program import compile_program
from jaxtrain.step import make_setting, train_step
from jaxtrain.terminal import Terminal
from jaxtrain.types import Hyper

NET = jt.MLP(hidden=(32,))
HYPER = Hyper(learning_rate=3e-3, weight_decay=1e-2, dropout_rate=0.3)


@pytest.fixture(scope="module")
def digits():
    return jt.load_data(jt.DataConfig(name="digits"))


def make_config(**changes):
    return dataclasses.replace(jt.Config(epochs=3, batch_size=64, log_every_steps=7, eval_batch_size=100), **changes)


def stop_after(chunks):
    """A `stop` that says yes at the end of the given chunk."""
    asked = iter(range(1, 10**9))
    return lambda: next(asked) >= chunks


def tiny_chunks(monkeypatch, steps):
    monkeypatch.setattr(loop, "FIRST_CHUNK", steps)
    monkeypatch.setattr(loop, "_next_limit", lambda limit, *_: limit)


def test_where_chunks_fall_changes_no_bit(digits, monkeypatch):
    digests = set()
    for steps in (1, 5, 1000):
        tiny_chunks(monkeypatch, steps)
        digests.add(jt.fit(NET, digits, make_config(), HYPER, quiet=True).summary["digest"])
    assert len(digests) == 1


def test_the_step_is_traced_once_in_a_run_and_not_at_all_in_the_next(digits, monkeypatch):
    tiny_chunks(monkeypatch, 3)
    traces, config = [], make_config(batch_size=50)

    def counted(*args):
        traces.append(args)
        return train_step(*args)

    monkeypatch.setattr(program_module, "train_step", counted)
    jt.fit(NET, digits, config, HYPER, quiet=True)
    assert len(traces) == 1
    other = dataclasses.replace(HYPER, learning_rate=1e-2, dropout_rate=0.1, weight_decay=0.5)
    jt.fit(NET, digits, config, other, seed=7, quiet=True)
    assert len(traces) == 1
    jt.fit(NET, digits, config, dataclasses.replace(HYPER, dropout_rate=None), quiet=True)
    assert len(traces) == 2  # None is another program


def test_one_fetch_a_chunk_and_no_callback_in_the_step(digits, monkeypatch):
    tiny_chunks(monkeypatch, 4)
    calls = {"fetch": 0, "chunk": 0}
    fetch, compiled = loop.fetch, compile_program(make_setting(NET, digits, make_config()))

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(loop, "fetch", counted("fetch", fetch))
    group = make_group(compiled.setting, digits, [0], HYPER)
    (lane,) = group.lanes

    def guarded(*args):
        with jax.transfer_guard_device_to_host("disallow"):  # never fires on a CPU, whose memory is the host's
            return compiled.run_steps(*args)

    lane.program = dataclasses.replace(compiled, run_steps=counted("chunk", guarded))
    loop.train(group, log=Logs(Log(None, Terminal(quiet=True))))
    assert calls["fetch"] == calls["chunk"] - 1 > 10  # one of the chunks is the call that compiles

    setting, state = compiled.setting, lane.state
    batch = take(Resident(digits).arrays, jnp.arange(64))
    text = str(jax.make_jaxpr(lambda s, b: train_step(setting, s, b))(state, batch))
    assert "callback" not in text and "infeed" not in text


def test_a_run_stopped_and_resumed_is_the_uninterrupted_one(digits, tmp_path, monkeypatch):
    config = make_config(ema_decay=0.99, augment=jt.Augment(crop=1))
    whole = jt.fit(NET, digits, config, HYPER, workdir=tmp_path / "whole", quiet=True)
    tiny_chunks(monkeypatch, 3)
    for chunks in (4, 2, 5):  # in the middle of an epoch and of a log interval
        resume = (tmp_path / "parts").exists()
        part = jt.fit(
            NET, digits, config, HYPER, workdir=tmp_path / "parts", resume=resume, quiet=True, stop=stop_after(chunks)
        )
        assert part.summary["status"] == "stopped" and "test" not in part.summary
    ended = jt.fit(NET, digits, config, HYPER, workdir=tmp_path / "parts", resume=True, quiet=True)
    assert ended.summary["digest"] == whole.summary["digest"]
    assert digest(dataclasses.replace(ended.state, key=None)) == digest(dataclasses.replace(whole.state, key=None))
    assert ended.history == whole.history
    for split in ("train", "val", "test"):
        assert read_scalars(tmp_path / "parts" / split) == read_scalars(tmp_path / "whole" / split)
    clocks = ("images_per_second", "compile_seconds")
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    first, second = ([{k: v for k, v in json.loads(x).items() if k not in clocks} for x in side] for side in lines)
    assert first == second


def test_a_resumed_run_may_be_longer_and_nothing_else(digits, tmp_path):
    jt.fit(NET, digits, make_config(epochs=1), HYPER, workdir=tmp_path / "run", quiet=True)
    longer = jt.fit(NET, digits, make_config(epochs=2), HYPER, workdir=tmp_path / "run", resume=True, quiet=True)
    assert longer.summary["epochs"] == 2 and len(longer.history) == 2
    other = dataclasses.replace(HYPER, learning_rate=1e-2)
    with pytest.raises(RequestError, match="hyper.learning_rate is 0.01, was 0.003"):
        jt.fit(NET, digits, make_config(epochs=3), other, workdir=tmp_path / "run", resume=True, quiet=True)


def test_a_finished_run_is_not_trained_or_scored_again(digits, tmp_path):
    first = jt.fit(NET, digits, make_config(epochs=2), HYPER, workdir=tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = jt.fit(NET, digits, make_config(epochs=2), HYPER, workdir=tmp_path / "run", resume=True, quiet=True)
    assert again.summary == first.summary and (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(RequestError, match="has done 2 epochs"):
        jt.fit(NET, digits, make_config(epochs=1), HYPER, workdir=tmp_path / "run", resume=True, quiet=True)


def test_a_finished_run_that_goes_on_is_unfinished_until_its_new_end(digits, tmp_path, capsys):
    folder = tmp_path / "run"
    jt.fit(NET, digits, make_config(epochs=1), HYPER, workdir=folder, quiet=True)
    jt.fit(NET, digits, make_config(epochs=3), HYPER, workdir=folder, resume=True, stop=stop_after(1))
    assert "not the shorter run continued bit for bit" in " ".join(capsys.readouterr().out.split())
    assert not (folder / "summary.json").exists()
    jt.fit(NET, digits, make_config(epochs=3), HYPER, workdir=folder, resume=True, quiet=True)
    assert [len(points) for points in read_scalars(folder / "test").values()] == [1, 1]


def test_a_run_is_not_resumed_on_other_data(digits, tmp_path):
    jt.fit(NET, digits, make_config(epochs=1), HYPER, workdir=tmp_path / "run", quiet=True)
    config = (tmp_path / "run" / "config.json").read_text()
    other = jt.from_arrays(255 - digits.image, digits.label, name=digits.info.name)
    (tmp_path / "run" / "config.json").write_text(config.replace(digits.info.sha256, other.info.sha256))
    with pytest.raises(RequestError, match="trained on other data"):
        jt.fit(NET, other, make_config(epochs=2), HYPER, workdir=tmp_path / "run", resume=True, quiet=True)


def test_a_run_killed_before_its_first_checkpoint_leaves_no_double_points(digits, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(Store, "save", lambda *args: None)
    monkeypatch.setattr(Store, "steps", lambda self: range(10**6))
    jt.fit(NET, digits, make_config(), HYPER, workdir=folder, quiet=True, stop=stop_after(3))
    monkeypatch.undo()
    jt.fit(NET, digits, make_config(), HYPER, workdir=folder, resume=True, quiet=True)
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[0] == 7


def test_streamed_and_resident_data_give_the_same_run(digits):
    runs = [jt.fit(NET, digits, make_config(stream=stream), HYPER, quiet=True) for stream in ("never", "always")]
    assert runs[0].summary["digest"] == runs[1].summary["digest"]
    assert runs[0].val.loss == pytest.approx(runs[1].val.loss, rel=1e-6)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_any_evaluation_batch_size_gives_the_same_result(digits, size):
    config = make_config(epochs=1)
    if size == 1:
        config = dataclasses.replace(config, train_eval_examples=50)
    runs = [jt.fit(NET, digits, dataclasses.replace(config, eval_batch_size=n), HYPER, quiet=True) for n in (100, size)]
    assert runs[0].test.accuracy == runs[1].test.accuracy
    assert runs[0].test.loss == pytest.approx(runs[1].test.loss, rel=1e-5)


def test_a_loop_of_ones_own_is_what_fit_does(digits):
    config = make_config(epochs=2)
    run = jt.fit(NET, digits, config, HYPER, seed=3, quiet=True)
    state = jt.make_init(NET, digits, config)(jax.random.key(3), HYPER)
    step = jax.jit(jt.make_train_step(NET, digits, config), donate_argnums=0)
    for epoch in range(2):
        for batch in jt.epoch(digits, jax.random.key(3), epoch, batch_size=64):
            state, _ = step(state, batch)
    # Outputs are compared: weights of constant pixels follow rounding noise (Adam divides it by itself), and BatchNorm
    # cancels them.
    own = dataclasses.replace(run, params=state.params, batch_stats=state.batch_stats)
    a, b = (r.predict(digits.image[:200]).probability for r in (run, own))
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_early_stopping_ends_the_run_and_scores_the_best_weights(digits):
    config = make_config(epochs=50, early_stopping=jt.EarlyStopping(patience=2), watch="loss")
    run = jt.fit(NET, digits, config, dataclasses.replace(HYPER, learning_rate=0.1), quiet=True)
    assert run.summary["status"] == "early stopping" and run.summary["final"] == "best"
    assert run.summary["epochs"] < 50
    losses = [row["val/loss"] for row in run.history]
    assert run.val.loss == pytest.approx(min(losses), rel=1e-5)
    assert len(losses) - 1 - int(np.argmin(losses)) == 2


def test_plateau_reduces_the_rate_that_is_logged(digits):
    config = make_config(
        epochs=6, plateau=jt.Plateau(factor=0.1, patience=1, min_delta=10.0), schedule=jt.Schedule("constant")
    )
    rates = [row["learning_rate"] for row in jt.fit(NET, digits, config, HYPER, quiet=True).history]
    assert rates[-1] < 0.05 * rates[0] and all(b <= a for a, b in zip(rates, rates[1:], strict=False))


def test_a_loss_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint(digits, tmp_path, monkeypatch):
    tiny_chunks(monkeypatch, 1)
    config = make_config(epochs=5, optimizer=jt.Sgd(), checkpoint_every_seconds=1e-9, keep_checkpoints=100)
    net = jt.MLP(hidden=(32,), batch_norm=False)
    with pytest.raises(NonFiniteError, match="gave NaN or infinity, at learning rate|NaN or infinite between steps"):
        jt.fit(net, digits, config, Hyper(learning_rate=1e20), workdir=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "summary.json").exists()
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "diverged" and "NaN" in last["note"]  # for who reads the run later
    with Store(tmp_path / "run" / "checkpoints", read_only=True) as store:
        assert store.steps()
        for step in store.steps():
            held = store.restore_part(["state/0/params", "sums"], step)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(held))


def test_an_update_that_spoils_the_weights_is_seen_though_the_loss_before_it_was_fine(digits):
    config = make_config(epochs=1, batch_size=digits.num_train, optimizer=jt.Sgd())  # a single step
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        jt.fit(jt.MLP(hidden=(32,), batch_norm=False), digits, config, Hyper(learning_rate=1e38), quiet=True)


@pytest.mark.parametrize("final", ["last", "best", "ema", "swa"])
def test_each_choice_of_final_weights_is_scored(digits, final):
    config = make_config(final=final, ema_decay=0.95, swa_start=0.3, epochs=4)
    run = jt.fit(NET, digits, config, HYPER, quiet=True)
    assert run.summary["final"] == final and run.val.accuracy > 0.6
    own = run.evaluate(digits.image[slice(*digits.val)], digits.label[slice(*digits.val)])
    assert own.accuracy == pytest.approx(run.val.accuracy, abs=1e-6)


def test_averaged_weights_get_population_statistics(digits):
    config = make_config(final="swa", swa_start=0.3, epochs=3)
    run = jt.fit(NET, digits, config, HYPER, quiet=True)
    found = run.batch_stats["BatchNorm_0"]
    batches = jt.epoch(digits, jax.random.key(0), 3, 64)  # the order of an epoch that was not trained on
    expected = jt.recalibrate(NET, run.params, run.batch_stats, batches, hyper=run.hyper)["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"], expected["mean"], atol=1e-4)
    np.testing.assert_allclose(found["var"], expected["var"], rtol=1e-4)


def test_the_test_split_is_scored_once_at_the_end(digits, tmp_path):
    run = jt.fit(NET, digits, make_config(), HYPER, workdir=tmp_path / "run", quiet=True)
    points = read_scalars(tmp_path / "run" / "test")
    assert {tag: [step for step, _ in values] for tag, values in points.items()} == {
        "accuracy": [run.summary["steps"]],
        "loss": [run.summary["steps"]],
    }
    assert [len(read_scalars(tmp_path / "run" / split)["loss"]) for split in ("train", "val")] == [3, 3]


class Convolved(nn.Module):
    """A user's network with Flax's own convolution."""

    @nn.compact
    def __call__(self, image, *, train):
        x = nn.relu(nn.Conv(4, (3, 3))(image))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


def test_a_users_convolution_is_stepped_on_a_cpu_with_the_same_result(digits, monkeypatch, capsys):
    config = make_config(epochs=1)
    stepped = jt.fit(Convolved(), digits, config, HYPER)
    assert ("one at a time" in capsys.readouterr().out) is (jax.default_backend() == "cpu")
    monkeypatch.setattr(program_module, "_convolves", lambda *args: False)
    compile_program.cache_clear()
    looped = jt.fit(Convolved(), digits, config, HYPER, quiet=True)
    compile_program.cache_clear()
    assert stepped.test.loss == pytest.approx(looped.test.loss, rel=1e-3)


@pytest.mark.parametrize("seeds, parallel", [((0,), "auto"), ((0, 1), "loop"), ((0, 1), "vmap")])
def test_the_loop_is_compiled_once_for_each_device(digits, seeds, parallel, caplog):
    compile_program.cache_clear()
    with jax.log_compiles():
        jt.fit(NET, digits, make_config(), HYPER, seeds=seeds, parallel=parallel, quiet=True)
    messages = [record.getMessage() for record in caplog.records]
    compiled = [text for text in messages if text.startswith("Finished XLA compilation of jit(loop)")]
    assert len(compiled) == (min(2, jax.local_device_count()) if parallel == "loop" else 1)


def test_our_convolution_is_not_stepped(digits):
    program = compile_program(make_setting(jt.CNN(features=(4,), hidden=8), digits, make_config()))
    assert not program.stepped(HYPER)


@dataclasses.dataclass(frozen=True)
class Reconstruct:
    """A task of the user's own: the outputs are the image, whatever the labels."""

    def loss(self, outputs, batch, hyper):
        return hyper.extra["weight"] * jnp.square(outputs - batch.image.reshape(outputs.shape)).mean(1)

    def metrics(self, outputs, batch):
        squared = jnp.square(outputs - batch.image.reshape(outputs.shape)).mean(1)
        return {"loss": squared, "rmse": jnp.sqrt(squared)}

    def predict(self, outputs):
        return outputs


class Autoencoder(nn.Module):
    @nn.compact
    def __call__(self, image, *, hyper):
        x = nn.relu(nn.Dense(16)(image.reshape(image.shape[0], -1))) * hyper.extra["weight"]
        return nn.Dense(64)(x)


def test_a_task_and_numbers_of_the_users_own(digits, tmp_path):
    hyper = Hyper(learning_rate=1e-2, extra={"weight": 1.0})
    config = make_config(epochs=5, watch="-rmse")
    run = jt.fit(Autoencoder(), digits, config, hyper, task=Reconstruct(), workdir=tmp_path / "run", quiet=True)
    assert run.val.rmse < 0.95 * run.history[0]["val/rmse"]
    assert run.summary["best"]["val/rmse"] == min(row["val/rmse"] for row in run.history)
    with pytest.raises(RequestError, match="task of your own"):
        jt.load_run(tmp_path / "run", model=Autoencoder())
    again = jt.load_run(tmp_path / "run", model=Autoencoder(), task=Reconstruct())
    image, label = digits.image[slice(*digits.val)], digits.label[slice(*digits.val)]
    assert again.evaluate(image, label).rmse == pytest.approx(run.val.rmse, rel=1e-5)


def test_a_task_that_gives_one_number_for_a_batch_is_refused(digits):
    class Scalar(Reconstruct):
        def loss(self, outputs, batch, hyper):
            return jnp.mean(outputs)

    with pytest.raises(RequestError, match="expected one number per example"):
        jt.fit(Autoencoder(), digits, make_config(), Hyper(extra={"weight": 1.0}), task=Scalar(), quiet=True)


def test_regression_trains_and_watches_its_loss():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 3).astype(np.float32)
    data = jt.from_arrays(x, y)
    run = jt.fit(
        jt.Linear(num_outputs=1), data, make_config(epochs=40, batch_size=32), Hyper(learning_rate=0.1), quiet=True
    )
    assert run.val.mse < 1e-3 and math.isclose(run.summary["best"]["val/loss"], min(r["val/loss"] for r in run.history))
    np.testing.assert_allclose(np.asarray(run.predict(x[:5])).reshape(-1), y[:5], atol=0.1)


def test_programs_are_dropped_before_a_process_has_more_memory_maps_than_it_may(digits, monkeypatch):
    fitted = jt.fit(NET, digits, make_config(epochs=1), HYPER, quiet=True)
    program = compile_program(fitted.setting)
    monkeypatch.setattr(program_module, "memory_maps", lambda: (499, 1000))
    jt.fit(NET, digits, make_config(epochs=1), HYPER, quiet=True)
    assert compile_program(fitted.setting) is program
    monkeypatch.setattr(program_module, "memory_maps", lambda: (501, 1000))
    again = jt.fit(NET, digits, make_config(epochs=1), HYPER, quiet=True)
    assert compile_program(again.setting) is not program
    assert again.summary["digest"] == fitted.summary["digest"]
