"""A damaged checkpoint is never continued from: the newest or the one before, bit for bit, or an error that lists them.

The state is that of a real training: parameters, moments, averages, statistics, counters, sums and best weights.
"""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from damage import FAULTS, bare, contents, files_of, strike
from processes import server

import jaxtrain as jt
from jaxtrain.checkpoint import Restored, Store
from jaxtrain.errors import WorldError
from jaxtrain.leaves import digest
from jaxtrain.members import make_group
from jaxtrain.train import checkpoint_tree

EXPERIMENT: dict[str, Any] = {
    "model": jt.MLP(hidden=(64,)),
    "data": jt.DataConfig(name="digits"),
    "config": jt.Config(epochs=3, checkpoint_every_seconds=0.001, log_every_steps=5, ema_decay=0.9, swa_start=0.5),
    "hyper": jt.Hyper(dropout_rate=0.1, clip_norm=1.0),
}


class Saved(NamedTuple):
    """A stopped run with two checkpoints."""

    run: Path
    before: str  # the older one's name, and the newer one's
    newest: str
    digests: dict[str, str]  # of the trees that they hold
    wanted: Any

    @property
    def folder(self) -> Path:
        """Of the checkpoints."""
        return self.run / "checkpoints"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder, asked = tmp_path_factory.mktemp("saved") / "run", iter((False, True))
    with bare():
        run = jt.fit(**EXPERIMENT, workdir=folder, quiet=True, stop=lambda: next(asked))
    group = make_group(run.setting, jt.load_data(EXPERIMENT["data"]), [0], EXPERIMENT["hyper"])
    wanted = jax.eval_shape(lambda: checkpoint_tree(group))
    with Store(folder / "checkpoints", read_only=True) as store:
        held = {f"{step:08d}": store.restore(wanted, step) for step in store.steps()}
    digests = {name: digest(restored.tree) for name, restored in held.items() if restored}
    before, newest = digests
    return Saved(folder, before, newest, digests, wanted)


def copied(saved: Saved, to: Path) -> tuple[Path, Path, Path]:
    """A copy of the folder, and in it the newest checkpoint and the one before."""
    folder = Path(shutil.copytree(saved.folder, to / "checkpoints"))
    return folder, folder / saved.newest, folder / saved.before


def restore(folder: Path, saved: Saved) -> Restored | None:
    with Store(folder) as store:
        return store.restore(saved.wanted)


@pytest.mark.faults("damaged checkpoints", ci=60, full=300)
def test_damage_yields_the_newest_or_the_one_before_bit_for_bit(
    saved: Saved,
    tmp_path: Path,
    case: int,
    record_property: Callable[[str, object], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, newest, before = copied(saved, tmp_path)
    what = strike(np.random.default_rng((123, case)), newest, before, by_bytes=case % 2 == 0)
    restored = restore(folder, saved)
    name = {found: name for name, found in saved.digests.items()}.get(digest(restored.tree) if restored else "")
    record_property("garbage", name is None)
    record_property("fell_back", name == saved.before)
    assert restored and name is not None, what
    if name == saved.newest:
        assert restored.notes == [] and newest.exists(), what
        return
    (note,) = restored.notes
    assert f"{newest} is damaged and was renamed to damaged-{newest.name}: " in note, what
    assert any(part in note for part in ("meta/metadata", "state/", "leaf ")), (what, note)
    assert (folder / f"damaged-{newest.name}").is_dir() and not newest.exists(), what
    again = restore(folder, saved)
    assert again and again.notes == [] and digest(again.tree) == saved.digests[name], what
    assert capfd.readouterr().err == "", what  # in particular none of Orbax's tracebacks


@pytest.mark.faults("every checkpoint damaged", ci=2, full=18)
def test_damage_of_all_is_an_error_that_lists_them_and_changes_nothing(
    saved: Saved, tmp_path: Path, case: int, record_property: Callable[[str, object], None]
) -> None:
    folder, newest, before = copied(saved, tmp_path)
    random = np.random.default_rng((123, case))
    damaged = [damage_surely(random, path, saved) for path in (newest, before)]
    as_it_was = contents(folder)
    for _ in range(2):
        with pytest.raises(WorldError) as raised:
            restore(folder, saved)
        message = str(raised.value)
        assert message.startswith(f"no usable checkpoint in {folder}, nothing was changed: {saved.newest}: "), damaged
        assert f"; {saved.before}: " in message, damaged
    record_property("changed", contents(folder) != as_it_was)
    assert contents(folder) == as_it_was, damaged


def damage_surely(random: np.random.Generator, checkpoint: Path, saved: Saved) -> str:
    """Faults of one checkpoint until it is no longer what was saved; some strike what nobody reads."""
    done = []
    for _ in range(20):
        names = [name for name in FAULTS if not name.startswith("older")]
        done.append(strike(random, checkpoint, checkpoint, by_bytes=bool(random.integers(2)), names=names))
        try:
            with Store(checkpoint.parent, read_only=True) as store:
                store.restore(saved.wanted, int(checkpoint.name))
        except WorldError:
            return "; ".join(done)
    raise AssertionError(f"twenty faults have damaged nothing: {done}")


@pytest.fixture(scope="module")
def bereft(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a whole checkpoint: of each some files lack their last byte."""
    folder = Path(shutil.copytree(saved.run, tmp_path_factory.mktemp("bereft") / "run"))
    for part in (f"{saved.newest}/meta", f"{saved.before}/state"):
        for path in files_of(folder / "checkpoints" / part):
            path.write_bytes(path.read_bytes()[:-1])
    return folder


@pytest.mark.faults("every checkpoint damaged", ci=1, full=1)
def test_fit_does_not_begin_afresh_where_every_checkpoint_is_damaged(bereft: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bereft, tmp_path / "run"))
    with pytest.raises(WorldError, match=r"no usable checkpoint in .*, nothing was changed: 000000.*; 000000"):
        jt.fit(**EXPERIMENT, workdir=folder, resume=True, quiet=True)
    assert contents(folder) == contents(bereft)


@pytest.mark.faults("every checkpoint damaged", ci=1, full=1)
def test_script_says_so_in_one_line_and_leaves_with_1(bereft: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bereft, tmp_path / "run"))
    status, text = server().script("train", "--resume", "--workdir", folder, "--quiet", cwd=tmp_path).end()
    assert status == 1 and text.startswith("error: no usable checkpoint in ") and text.count("\n") == 1, text
    assert contents(folder) == contents(bereft)


# What tensorstore 0.1.86 says where `pread` fails with EIO.
_EIO = 'UNKNOWN: Error reading "best/0/params/Dense_0/kernel/0.0": Failed to read 15168 bytes: Input/output error'
TROUBLE = {
    "disk, small file": OSError(errno.EIO, "Input/output error"),
    "disk, array": ValueError(_EIO),
    "memory": MemoryError(),
    "memory, array": ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes"),
}


@pytest.mark.faults("unreadable disk", ci=4, full=4)
def test_good_checkpoint_that_cannot_be_read_now_stays_where_it_is(
    saved: Saved, tmp_path: Path, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import orbax.checkpoint as ocp

    folder, newest, _ = copied(saved, tmp_path)
    as_it_was = contents(folder)

    def fail(*_: Any, **__: Any) -> None:
        raise list(TROUBLE.values())[case]

    monkeypatch.setattr(ocp.Checkpointer, "restore", fail)
    with pytest.raises(WorldError, match=f"cannot read checkpoint {newest}: .*nothing was changed"):
        restore(folder, saved)
    monkeypatch.undo()
    assert contents(folder) == as_it_was
    restored = restore(folder, saved)
    assert restored and digest(restored.tree) == saved.digests[saved.newest] and restored.notes == []


@pytest.mark.faults("unreadable disk", ci=2, full=2)
@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose first byte cannot be read")
def test_small_file_that_cannot_be_read_is_not_called_damaged(saved: Saved, tmp_path: Path, case: int) -> None:
    folder, newest, _ = copied(saved, tmp_path)
    path = newest / ("meta/metadata", "state/_METADATA")[case]
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading it is EIO, in truth
    with pytest.raises(WorldError, match=f"cannot read checkpoint {newest}: input/output error; nothing was changed"):
        restore(folder, saved)
    assert newest.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax, where it does refuse
def test_orbax_alone_fails_this_harness(saved: Saved, tmp_path: Path) -> None:
    """A fault test that nothing fails is none: without digests a flipped bit comes back as a number."""
    import orbax.checkpoint as ocp

    def restored(state: Path) -> dict[str, np.ndarray]:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as plain:
            return plain.restore(state)

    truth, found = digest(restored(saved.folder / saved.newest / "state")), {"whole": 0, "garbage": 0, "refused": 0}
    for case in range(20):
        _, newest, before = copied(saved, tmp_path / str(case))
        strike(np.random.default_rng((123, case)), newest, before, by_bytes=True, names=["flip"])
        try:
            found["whole" if digest(restored(newest / "state")) == truth else "garbage"] += 1
        except (ValueError, KeyError):
            found["refused"] += 1
    assert found["garbage"] >= 5, found
