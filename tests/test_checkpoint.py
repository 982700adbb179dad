"""Nothing lost, nothing wrong returned: what comes back is bit for bit what was saved last, or before it."""

import contextlib
import errno
import hashlib
import importlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints.write import make
from test_files import largest_file

from jaxtrain import checkpoint
from jaxtrain.checkpoint import Restored, Store, read_meta
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.leaves import Mismatch, digest, named_leaves, to_host
from jaxtrain.train import checkpoint_tree, take_up

KEPT = sorted((Path(__file__).parent / "checkpoints").glob("format-*"))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Point:
    x: Any
    y: Any = None


class Pair(NamedTuple):
    first: Any
    second: Any


TREES = {
    "nested": {"params": {"Dense_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}, "empty": {}},
    "containers": Point((np.float32(1), [np.int8(2)]), Pair(np.full(1, 3, np.uint8), {"a": None})),
    "scalars": {"i": jnp.int32(-7), "b": jnp.bool_(True), "nan": jnp.float32(math.nan), "zero": jnp.float32(-0.0)},
    "no elements": {"none": np.zeros((0, 3), np.float32), "some": np.ones(2), "keys": jax.random.key(0).reshape(1)[:0]},
    "only no elements": (np.zeros((2, 0), bool), {}),
    "no leaves": {"a": {}, "b": None},
    "half precision": [jnp.arange(5, dtype=jnp.bfloat16) / 3, jnp.float16(0.1)],
    "keys": {"one": jax.random.key(1), "some": jax.random.split(jax.random.key(2, impl="rbg"), (2, 2))},
    "one leaf": np.arange(4, dtype=np.uint32),
    "names": {"a.b": np.ones(1, np.float32), "ü / ": np.zeros(2, np.float32), "": np.ones(3, bool)},
    "double": {"x": np.float64(0.1) * np.ones(3), "i": np.int64(2**40)},  # NumPy's own: x64 is off
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T[::2],
    "members": Point(jnp.ones((8, 3, 2)), jax.random.split(jax.random.key(0), 8)),
}


def content(step: int, size: int = 1000) -> dict[str, Any]:
    """A tree that no other step has."""
    draw = np.random.default_rng(step)
    params = {f"Dense_{i}": {"kernel": draw.normal(size=size).astype(np.float32)} for i in range(3)}
    return {"step": np.int32(step), "params": params, "opt_state": (draw.integers(0, 9, 50), draw.random(7) < 0.5)}


def save(folder: Path, *steps: int, **options: Any) -> None:
    with Store(folder, **options) as store:
        for step in steps:
            store.save(step, content(step), {"epoch": step})


def restore(folder: Path, step: int | None = None) -> Restored | None:
    with Store(folder) as store:
        return store.restore(content(0), step)


def same_bits(one: Any, other: Any) -> bool:
    return digest(one) == digest(other) and jax.tree.structure(one) == jax.tree.structure(other)


# ---- what comes back is what was saved


@pytest.mark.parametrize("name", TREES)
def test_restored_tree_is_the_saved_one(tmp_path: Path, name: str) -> None:
    tree, abstract = TREES[name], jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), TREES[name])
    with Store(tmp_path) as store:
        store.save(3, tree, {})
        restored = store.restore(abstract)
    assert restored and restored.notes == [] and same_bits(restored.tree, tree)
    dtypes = [(leaf.dtype, leaf.shape) for leaf in jax.tree.leaves(tree)]
    assert [(leaf.dtype, leaf.shape) for leaf in jax.tree.leaves(restored.tree)] == dtypes


def test_restored_arrays_are_on_the_device_and_keys_draw_the_same(tmp_path: Path) -> None:
    state = {"w": jnp.ones(3), "key": jax.random.key(7)}
    with Store(tmp_path) as store:
        store.save(0, state, {})
        restored = store.restore(jax.eval_shape(lambda: state))
    assert restored and isinstance(restored.tree["w"], jax.Array)
    assert jax.random.normal(restored.tree["key"]) == jax.random.normal(state["key"])


def test_restored_state_may_be_donated(tmp_path: Path) -> None:
    save(tmp_path, 1)
    restored = restore(tmp_path)
    assert restored
    jax.jit(lambda tree: jax.tree.map(lambda x: ~x, tree), donate_argnums=0)(restored.tree["opt_state"][1:])
    again = restore(tmp_path)
    assert again and same_bits(again.tree, content(1))


def test_state_may_be_donated_or_changed_once_save_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, changed = Store._write, threading.Event()
    monkeypatch.setattr(Store, "_write", lambda *args: changed.wait(60) and write(*args))
    state = {"jax": jnp.ones((1000, 100)), "key": jax.random.key(1), "numpy": np.ones(5, np.float32)}
    abstract, saved = jax.eval_shape(lambda: state), digest(state)
    with Store(tmp_path) as store:
        store.save(0, state, {})
        jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(state["jax"]).block_until_ready()
        state["key"].delete()
        state["numpy"][:] = -1
        changed.set()
        restored = store.restore(abstract)
    assert restored and digest(restored.tree) == saved


def test_meta_comes_back_and_is_read_without_orbax(tmp_path: Path) -> None:
    meta = {"epoch": 3, "config": {"name": "ü", "rates": [0.1, 1e-30]}, "2": None, "10": True}
    with Store(tmp_path) as store:
        store.save(5, content(5), meta)
        store.wait()
        assert store.meta(5) == meta
    code = f"""
import sys
from jaxtrain.checkpoint import read_meta
assert read_meta({str(tmp_path)!r}) == {meta!r}
assert "orbax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_numbers_in_meta_may_be_of_numpy_and_not_finite(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(0, {}, {"1": np.float32(0.5), "2": math.nan, "10": (jnp.int32(3),)})
    assert read_meta(tmp_path) == {"1": 0.5, "2": "NaN", "10": [3]}


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert restore(tmp_path) is None
    with Store(tmp_path / "absent", read_only=True) as store:
        assert store.steps() == [] and store.restore(content(0)) is None
    with pytest.raises(WorldError, match="holds no checkpoint"):
        read_meta(tmp_path)


# ---- the newest few


def test_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 5, 20, 300, keep=3)
    assert Store(tmp_path, read_only=True).steps() == [5, 20, 300]
    assert sorted(os.listdir(tmp_path)) == [".lock", "00000005", "00000020", "00000300"]
    restored = restore(tmp_path, 5)
    assert restored and same_bits(restored.tree, content(5)) and restored.meta == {"epoch": 5}


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for epoch in range(4):
            store.save(7, {"w": np.full(3, epoch)}, {"epoch": epoch})
        restored = store.restore({"w": np.zeros(3, int)})
        assert store.steps() == [7] and len(os.listdir(tmp_path)) == 2
    assert restored and restored.meta == {"epoch": 3} and restored.tree["w"].tolist() == [3, 3, 3]


def test_after_a_rollback_the_newest_is_the_last_saved(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30, keep=3)
    save(tmp_path, 15, keep=3)
    restored = restore(tmp_path)
    assert restored and same_bits(restored.tree, content(15))
    assert sorted(os.listdir(tmp_path))[1:] == ["00000010", "00000015", "superseded-00000020", "superseded-00000030"]


def test_step_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    with pytest.raises(WorldError, match="holds no checkpoint of step 3; it holds 1, 2"):
        restore(tmp_path, 3)


# ---- requests that cannot be met

_KEY = jax.random.key(0)
MISMATCHES: dict[str, tuple[Any, Any, str]] = {
    "shape": (np.zeros((784, 512)), np.zeros((784, 256)), "has params/w f64[784,512], the config wants f64[784,256]"),
    "dtype": (np.zeros(3, np.float32), jnp.zeros(3, jnp.bfloat16), "has params/w f32[3], the config wants bf16[3]"),
    "kind of key": (_KEY, jax.random.key(0, impl="rbg"), "has params/w key<fry>[], the config wants key<rbg>[]"),
    "key data": (_KEY, np.zeros(2, np.uint32), "has params/w key<fry>[], the config wants u32[2]"),
    "absent": (None, np.zeros(2, bool), "has no params/w, the config wants bool[2]"),
    "too many": (np.zeros((), np.int8), None, "has params/w i8[], the config has no such leaf"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_mismatch_names_the_leaf_and_changes_nothing(tmp_path: Path, name: str) -> None:
    saved, wanted, expected = MISMATCHES[name]
    with Store(tmp_path) as store:
        store.save(1, {"params": {"w": saved}}, {})
        with pytest.raises(Mismatch) as raised:
            store.restore({"params": {"w": wanted}})
        assert str(raised.value) == f"{tmp_path}: the checkpoint {expected}"
        assert store.steps() == [1] and raised.value.exit_status == 2


def test_first_of_many_mismatches_is_by_path(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(1, {name: np.zeros(2, np.int8) for name in "bca"}, {})
        with pytest.raises(Mismatch, match=r"has a i8\[2\], the config wants i8\[3\] \(and 2 more leaves differ\)"):
            store.restore({name: np.zeros(3, np.int8) for name in "cab"})


@pytest.mark.parametrize(
    ("tree", "meta", "message"),
    [
        ({"a": {"rate": 0.1}}, {}, "leaf a/rate is 0.1, a float; it must be an array"),
        ({"name": np.array("text")}, {}, "leaf name has dtype <U4"),
        ({"a": {"b": np.ones(1)}, "a/b": np.ones(1)}, {}, "two leaves have the path a/b"),
        ({}, {"x": object()}, "as JSON"),
    ],
)
def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path, tree: Any, meta: Any, message: str) -> None:
    with Store(tmp_path) as store, pytest.raises(RequestError, match=message):
        store.save(0, tree, meta)


# ---- what earlier versions have written


@pytest.mark.parametrize("kept", KEPT, ids=lambda folder: folder.name)
def test_kept_checkpoint_is_restored_bit_for_bit(kept: Path) -> None:
    group, expected = make(), dict(np.load(kept / "expected.npz"))
    with Store(kept, read_only=True) as store:
        restored = store.restore(jax.eval_shape(lambda: checkpoint_tree(group)))
    assert restored and restored.notes == [] and restored.meta == {"epoch": 0, "seeds": [7]}
    found = to_host(named_leaves(restored.tree))
    assert _bits(found) == _bits(expected) and len(found) > 40
    take_up(group, restored.tree)
    group.lanes[0].advance(0, group.step, 1)  # and it can be trained on
    assert group.steps_done() == [4]


def _bits(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {path: (array.dtype, array.shape, array.tobytes()) for path, array in arrays.items()}


# ---- a part alone


def test_part_is_nested_numpy_without_the_rest(tmp_path: Path) -> None:
    save(tmp_path, 4)
    with Store(tmp_path, read_only=True) as store:
        part = store.restore_part("params")
        assert part.keys() == {"params"} and same_bits(part["params"], content(4)["params"])
        some = store.restore_part(["params/Dense_1", "opt_state/0"])
    assert some["params"].keys() == {"Dense_1"} and some["opt_state"].keys() == {"0"}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(some))


def test_part_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    save(tmp_path, 4)
    expected = "nothing under 'param'; it holds opt_state, params, step"
    with Store(tmp_path) as store, pytest.raises(RequestError, match=expected):
        store.restore_part("param")


def test_part_of_a_damaged_checkpoint_comes_from_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 4, 5)
    shutil.rmtree(tmp_path / "00000005" / "state" / "d")
    with Store(tmp_path, read_only=True) as store, pytest.warns(UserWarning, match="00000005 is damaged"):
        part = store.restore_part("params")
    assert same_bits(part["params"], content(4)["params"])
    assert (tmp_path / "00000005").exists()  # read-only: nothing is renamed


# ---- damage

Fault = Callable[[random.Random, Path, Path], None]
"""(random, newest checkpoint, the one before): damages the newest."""


def _file(draw: random.Random, newest: Path) -> Path:
    """A file of the checkpoint: half the time any, half the time by its size."""
    files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
    sizes = [path.stat().st_size for path in files] if draw.random() < 0.5 else [1] * len(files)
    return draw.choices(files, sizes)[0]


def _flip(draw: random.Random, newest: Path, _: Path) -> None:
    path = _file(draw, newest)
    data = bytearray(path.read_bytes() or b"\0")
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _overwrite(draw: random.Random, newest: Path, _: Path) -> None:
    path = _file(draw, newest)
    data = bytearray(path.read_bytes())
    at, length = draw.randrange(len(data) or 1), draw.choice([1, 8, 64, 512])
    data[at : at + length] = draw.choice([bytes(length), draw.randbytes(length)])
    path.write_bytes(data)


def _truncate(draw: random.Random, newest: Path, _: Path) -> None:
    path = _file(draw, newest)
    os.truncate(path, draw.choice([0, draw.randint(0, path.stat().st_size)]))


def _delete(draw: random.Random, newest: Path, _: Path) -> None:
    path = draw.choice(sorted(newest.rglob("*")))
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _swap_part(draw: random.Random, newest: Path, before: Path) -> None:
    part = draw.choice(["state", "meta"])
    _swap_whole(draw, newest / part, before / part)


def _swap_whole(_: random.Random, newest: Path, before: Path) -> None:
    newest.rename(newest.parent / "x")
    before.rename(newest)
    (newest.parent / "x").rename(before)


FAULTS: dict[str, Fault] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "truncate": _truncate,
    "delete": _delete,
    "swap part": _swap_part,
    "swap whole": _swap_whole,
}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    save(folder, 10, 20)
    return folder


def _check_damaged(folder: Path, seed: str) -> None:
    """Newest or previous, bit for bit, with a note; both lost only where a swap has damaged both."""
    try:
        restored = restore(folder)
    except WorldError as fault:
        assert "swap" in seed and "no usable checkpoint" in str(fault), seed
        return
    assert restored and restored.meta["epoch"] in (10, 20), seed
    assert same_bits(restored.tree, content(restored.meta["epoch"])), seed
    if restored.meta["epoch"] == 10:
        assert "00000020 is damaged and was renamed to damaged-00000020" in restored.notes[0], seed
        assert (folder / "damaged-00000020").exists(), seed
    assert restored.meta["epoch"] == 20 or len(restored.notes) == 1, seed


@pytest.mark.parametrize("trials", [10, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", FAULTS)
def test_damage_yields_the_newest_or_the_one_before_bit_for_bit(
    two_steps: Path, tmp_path: Path, fault: str, trials: int
) -> None:
    for trial in range(trials):
        folder, seed = tmp_path / str(trial), f"{fault} {trials} {trial}"
        shutil.copytree(two_steps, folder)
        FAULTS[fault](random.Random(seed), folder / "00000020", folder / "00000010")
        _check_damaged(folder, seed)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_orbax_alone_restores_a_flipped_bit_without_a_word(two_steps: Path, tmp_path: Path) -> None:
    """Why there are digests: if this fails, Orbax has learnt to check, and the digests may go."""
    import orbax.checkpoint as ocp

    silent = 0
    for trial in range(10):
        shutil.copytree(two_steps / "00000020" / "state", tmp_path / str(trial))
        files = [path for path in (tmp_path / str(trial)).rglob("*") if path.is_file()]
        blob = max(files, key=lambda path: path.stat().st_size)
        data = bytearray(blob.read_bytes())
        data[random.Random(trial).randrange(len(data))] ^= 1
        blob.write_bytes(data)
        # Which arrays share the largest file differs from one save to the next, and a flip may hit a frame's header.
        with contextlib.suppress(ValueError), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as plain:
            restored = plain.restore(tmp_path / str(trial))
            silent += any((array != restored[f"params/{name}/kernel"]).any() for name, array in _kernels(20))
    assert silent >= 1


def _kernels(step: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, layer in content(step)["params"].items():
        yield name, layer["kernel"]


def test_all_damaged_is_an_error_each_time_and_never_a_fresh_start(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"{step:08d}" / "meta" / "metadata").unlink()
    for _ in range(2):
        with pytest.raises(WorldError, match="no usable checkpoint in .*: 00000002: .*; 00000001: "):
            restore(tmp_path)
    assert Store(tmp_path, read_only=True).steps() == [1, 2]


def test_damaged_step_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "00000002" / "state")
    with pytest.raises(WorldError, match="no usable checkpoint .*00000002"):
        restore(tmp_path, 2)
    assert (tmp_path / "00000002").exists()


def test_second_damage_of_a_step_is_set_aside_too(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for _ in range(2):
        save(tmp_path, 2)
        shutil.rmtree(tmp_path / "00000002" / "state")
        assert (restored := restore(tmp_path)) and same_bits(restored.tree, content(1))
    assert sorted(os.listdir(tmp_path))[1:] == ["00000001", "damaged-00000002", "damaged-00000002-1"]


@pytest.mark.parametrize("fault", [MemoryError(), OSError(errno.EIO, "Input/output error"), PermissionError(13, "no")])
def test_trouble_of_the_machine_sets_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    save(tmp_path, 1, 2)
    monkeypatch.setattr(Store, "_read_arrays", lambda *_: (_ for _ in ()).throw(fault))
    with pytest.raises(WorldError, match="cannot read checkpoint .*00000002.*nothing was changed"):
        restore(tmp_path)
    assert Store(tmp_path, read_only=True).steps() == [1, 2]


def test_format_of_another_version_is_refused_and_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_FORMAT", 2)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(RequestError, match="has format 2, expected 1"):
        restore(tmp_path)
    with pytest.raises(RequestError, match="has format 2, expected 1"):
        read_meta(tmp_path)


def test_meta_of_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "00000002" / "meta" / "metadata"
    document = json.loads(path.read_text())
    document["payload"]["meta"]["epoch"] = 99  # well-formed, and not what was saved
    path.write_text(json.dumps(document))
    assert read_meta(tmp_path) == {"epoch": 1}
    with pytest.raises(WorldError, match="00000002: .*not what was saved"):
        read_meta(tmp_path, 2)


# ---- the folder


def test_second_writer_is_refused_with_the_owner_named(tmp_path: Path) -> None:
    with Store(tmp_path):
        with pytest.raises(WorldError, match=f"{tmp_path} is in use by process {os.getpid()}"):
            Store(tmp_path)
    Store(tmp_path).close()


def test_reader_sees_what_a_live_writer_has_saved(tmp_path: Path) -> None:
    with Store(tmp_path) as writer, Store(tmp_path, read_only=True) as reader:
        for step in range(1, 4):
            writer.save(step, content(step), {})
            writer.wait()
            assert (restored := reader.restore(content(0))) and same_bits(restored.tree, content(step))
        with pytest.raises(RequestError, match="read-only"):
            reader.save(9, content(9), {})


def test_reader_follows_a_writer_that_deletes_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, keep=1)
    read, overtaken = Store._read, []

    def read_late(self: Store, *args: Any) -> Any:
        if self.read_only and not overtaken:
            overtaken.append(True)
            save(tmp_path, 2, keep=1)
        return read(self, *args)

    monkeypatch.setattr(Store, "_read", read_late)
    with Store(tmp_path, read_only=True) as reader:
        restored = reader.restore(content(0))
    assert restored and same_bits(restored.tree, content(2)) and restored.notes == []


def test_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(WorldError, match=f"{tmp_path}/run is a file"):
        Store(tmp_path / "run" / "checkpoints")


def test_full_disk_costs_that_save_alone(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(1, content(1), {})
        store.wait()
        with largest_file(4000), pytest.warns(UserWarning, match="checkpoint 2 in .* was not written"):
            store.save(2, content(2), {})
            store.wait()
        assert store.steps() == [1] and sorted(os.listdir(tmp_path)) == [".lock", "00000001"]
        store.save(3, content(3), {})
        restored = store.restore(content(0))
    assert restored and same_bits(restored.tree, content(3)) and len(store.errors) == 1


def test_failure_at_the_first_moment_is_told_like_a_later_one(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with Store(folder) as store:
        shutil.rmtree(folder)
        folder.touch()  # a file where the folder was
        with pytest.warns(UserWarning, match="checkpoint 1 in .* was not written"):
            store.save(1, content(1), {})
            store.wait()
        folder.unlink()
        with pytest.warns(UserWarning, match="was deleted while it was in use"):
            store.save(2, content(2), {})
            store.wait()
        assert store.steps() == [2] and len(store.errors) == 2


def test_failure_is_one_warning_or_note_without_orbaxs_tracebacks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Store(tmp_path) as store:
        with largest_file(4000), pytest.warns(UserWarning, match="was not written"):
            store.save(1, content(1), {})
            store.wait()
        for step in (2, 3):
            store.save(step, content(step), {})
        store.wait()
        blob = max((tmp_path / "00000003" / "state").rglob("*"), key=lambda path: path.stat().st_size)
        os.truncate(blob, 10)
        restored = store.restore(content(0))
    assert restored and len(restored.notes) == 1 and "state/: " in restored.notes[0]
    assert capfd.readouterr().err == ""


def test_save_in_flight_is_known_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, ready = Store._write, threading.Event()
    monkeypatch.setattr(Store, "_write", lambda *args: ready.wait(60) and write(*args))
    with Store(tmp_path) as store:
        assert not store.saving
        store.save(1, content(1), {})
        assert store.saving
        ready.set()
        store.wait()
        assert not store.saving and store.steps() == [1]


def test_failed_last_save_is_told_by_close(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with largest_file(4000):
        store.save(2, content(2), {})
        with pytest.warns(UserWarning, match="was not written"):
            store.close()
    store.close()
    assert "file too large" in store.errors[0].lower()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_checkpoint_that_may_not_be_read_is_not_called_damaged() -> None:
    # Not under tmp_path: its parents are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), 1)
        os.chmod(folder, 0o755)
        for path in Path(folder, "00000001", "state").rglob("*"):
            os.chmod(path, 0o755 if path.is_dir() else 0)
        with Store(folder, read_only=True) as store:
            os.seteuid(65534)
            try:
                with pytest.raises(WorldError, match="cannot read checkpoint .*nothing was changed"):
                    store.restore(content(0))
            finally:
                os.seteuid(0)


def test_save_that_nobody_waits_for_is_told(tmp_path: Path) -> None:
    code = "import sys, numpy; from jaxtrain.checkpoint import Store; Store(sys.argv[1]).save(1, numpy.ones(9), {})"
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert Store(tmp_path, read_only=True).steps() == [1] or "checkpoint 1 in" in child.stderr


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in ("00000002.orbax-checkpoint-tmp", ".trash-00000000-1"):
        shutil.copytree(tmp_path / "00000001", tmp_path / name)
    Store(tmp_path).close()
    assert sorted(os.listdir(tmp_path)) == [".lock", "00000001"]


# ---- kill -9


def serve_savers() -> None:
    """For each folder on stdin, fork a process that saves in it for ever; print its pid, and a line when it is dead."""
    importlib.import_module("orbax.checkpoint")  # once, before the forks
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _save_for_ever(Path(line.strip()))
        os.waitpid(pid, 0)
        print("dead", flush=True)


def _save_for_ever(folder: Path) -> None:
    with Store(folder) as store:
        for step in range(max([0, *store.steps()]) + 1, 10**6):
            store.save(step, content(step, 20_000), {"epoch": step})
            if step % 3 == 0:
                store.wait()
                print(os.getpid(), step, flush=True)


@pytest.fixture(scope="module")
def savers() -> Iterator[subprocess.Popen[str]]:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_checkpoint; test_checkpoint.serve_savers()"
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = threading.Timer(120, server.kill)  # a read below then ends instead of waiting for ever
    deadline.start()
    yield server
    deadline.cancel()
    server.kill()
    server.wait()


def _kill_once(server: subprocess.Popen[str], folder: Path, delay: float) -> int:
    """Let a process save, kill it `delay` seconds after it told of a save, and return that step."""
    assert server.stdin and server.stdout
    server.stdin.write(f"{folder}\n")
    server.stdin.flush()
    pid, step = map(int, server.stdout.readline().split())
    timer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
    timer.start()
    while (line := server.stdout.readline()) != "dead\n":
        step = int(line.split()[1])
    return step


@pytest.mark.parametrize("kills", [3, pytest.param(15, marks=pytest.mark.slow)])
def test_kill_9_loses_at_most_the_save_in_flight(savers: subprocess.Popen[str], tmp_path: Path, kills: int) -> None:
    draw = random.Random(0)
    for _ in range(kills):
        told = _kill_once(savers, tmp_path, draw.uniform(0, 0.3))
        with Store(tmp_path) as store:
            steps = store.steps()
            assert steps and steps[-1] >= told
            for step in steps:
                restored = store.restore(content(0, 20_000), step)
                assert restored and same_bits(restored.tree, content(step, 20_000)) and restored.meta == {"epoch": step}
        assert sorted(os.listdir(tmp_path)) == [".lock", *(f"{step:08d}" for step in steps)]


# ---- digest


def test_digest_is_the_documented_formula() -> None:
    kernel, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(3, np.float16)
    told = b'["a/kernel", "float32", [2, 3]]\n' + kernel.tobytes() + b'["b", "float16", [3]]\n' + bias.tobytes()
    assert digest({"b": bias, "a": {"kernel": kernel}}) == hashlib.sha256(told).hexdigest()


def test_digest_goes_by_path_and_not_by_the_order_of_a_container() -> None:
    numbers = [np.int8(number) for number in range(11)]
    assert digest(tuple(numbers)) == digest({str(index): number for index, number in enumerate(numbers)})
    assert digest(Pair(*numbers[:2])) == digest({"second": numbers[1], "first": numbers[0]})


def test_digest_is_the_same_for_jax_and_numpy_and_another_layout() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    same = [array, jnp.asarray(array), np.asfortranarray(array), array[::-1][::-1]]
    assert len({digest({"w": one}) for one in same}) == 1
    assert digest(jax.random.key(3)) == digest(jax.random.key_data(jax.random.key(3)))


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros(4, np.int32)},
        {"w": np.zeros((2, 2), np.float32)},
        {"v": np.zeros(4, np.float32)},
        {"w": np.array([0, 0, 0, -0.0], np.float32)},
        {"w": np.zeros(4, np.float32), "x": np.zeros(0)},
    ],
)
def test_digest_sees_each_difference(other: Any) -> None:
    assert digest(other) != digest({"w": np.zeros(4, np.float32)})
