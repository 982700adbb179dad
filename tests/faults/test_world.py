"""The world fails under a training: it goes on, says so at once, tries again, and ends with the truth.

A full disk, a read-only one, a folder that is deleted, writes that fail or take for ever, another process in the same
folder, the lock of a dead one. Where the run ends with 0 it is the undisturbed one, bit for bit and point for point.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lockstep import FAILS, WAITS, Training, training
from processes import server
from records import differences, record

import jaxtrain as jt

CONFIG = """
import jaxtrain as jt

def get_config(variant=""):
    return jt.Experiment(
        model=jt.MLP(num_outputs=10, hidden=(16,)),
        data=jt.DataConfig(name="digits"),
        config=jt.Config(epochs=3, batch_size=64, ema_decay=0.9, log_every_steps=5, probe_every_steps=None),
        hyper=jt.Hyper(learning_rate=1e-2, dropout_rate=0.1),
    )
"""
NEW = ["--config", "small.py", "--workdir", "run", "--no-report", "--checkpoint_every_seconds", 0.001]
RESUME = ["--resume", "--workdir", "run", "--no-report"]

faults = pytest.mark.faults(
    "disk full, read-only, removed folder, failing and slow writes, two writers, stale lock", ci=8, full=8
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of the run that nothing befalls."""
    cwd = tmp_path_factory.mktemp("whole")
    (cwd / "small.py").write_text(CONFIG)
    status, text = server().script("train", *NEW[:-2], cwd=cwd).end()
    assert status == 0, text
    return record(cwd / "run")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Training]:
    """The same, halting, after its third chunk: with two checkpoints."""
    (tmp_path / "small.py").write_text(CONFIG)
    with training(tmp_path, *NEW) as started:
        started.advance(3)
        yield started


def mount(*args: Any) -> None:
    done = subprocess.run(["mount", *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a file system here: {done.stderr.strip() or 'not root'}")


@contextmanager
def mounted(place: Path, *args: Any) -> Iterator[None]:
    if os.geteuid():
        pytest.skip("only root may mount a file system")
    mount(*args, place)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False, timeout=60)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Nothing more goes onto this disk."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    yield
    filler.unlink()


def assert_told(text: str, why: str, times: int = 1) -> None:
    """Each save that failed, with the reason, in what was printed so far."""
    assert len(re.findall(rf"checkpoint \d+ in \S+ was not written: .*{why}", text, re.IGNORECASE)) >= times, text


def assert_honest_failure(status: int, text: str) -> None:
    """Exit 1 and a sentence, no trace."""
    assert status == 1 and "Traceback" not in text, text
    assert text.splitlines()[-1].startswith("error: "), text


def assert_whole(small: Training, status: int, whole: dict[str, Any]) -> None:
    assert status == 0, small.child.text
    assert differences(whole, record(small.folder)) == []
    assert "Traceback" not in small.child.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Training]:
    """A training on a disk of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=3m", "tmpfs"):
        (disk / "small.py").write_text(CONFIG)
        with training(disk, *NEW) as started:
            started.advance(3)
            yield started


@faults
def test_full_disk_costs_the_saves_of_that_time_alone(small_disk: Training, whole: dict[str, Any]) -> None:
    before = small_disk.checkpoints()
    with full(small_disk.cwd):
        small_disk.advance(4)
        assert_told(small_disk.child.text, "no space left on device", times=2)
        assert before[-1] in small_disk.checkpoints()
    small_disk.advance(3)
    assert small_disk.checkpoints()[-1] > before[-1]
    status, _ = small_disk.finish()
    assert_whole(small_disk, status, whole)


@faults
def test_run_whose_disk_stays_full_fails_and_can_go_on_when_there_is_room(
    small_disk: Training, whole: dict[str, Any]
) -> None:
    with full(small_disk.cwd):
        small_disk.advance(3)
        status, text = small_disk.finish()
        assert_told(text, "no space left on device", times=2)
        assert_honest_failure(status, text)
        assert small_disk.checkpoints()
    status, text = server().script("train", *RESUME, cwd=small_disk.cwd).end()
    assert status == 0, text
    assert differences(whole, record(small_disk.folder)) == []


@faults
def test_read_only_disk_costs_the_saves_of_that_time_alone(small: Training, whole: dict[str, Any]) -> None:
    small.advance()
    before = small.checkpoints()
    with mounted(small.folder, "--bind", small.folder):
        mount("-o", "remount,bind,ro", small.folder)
        small.advance(4)
        assert_told(small.child.text, "read-only file system", times=2)
        assert before[-1] in small.checkpoints()
    small.advance(3)
    assert small.checkpoints()[-1] > before[-1]
    status, _ = small.finish()
    assert_whole(small, status, whole)


@faults
def test_run_whose_folder_is_removed_goes_on_and_leaves_what_can_be_used(
    small: Training, whole: dict[str, Any]
) -> None:
    shutil.rmtree(small.folder)
    small.advance(3)
    assert "was deleted while it was in use" in small.child.text
    assert small.checkpoints()
    status, text = small.finish()
    assert status == 0, text
    assert jt.load_run(small.folder).summary["digest"] == whole["./summary.json"]["digest"]


@faults
def test_write_that_fails_is_told_and_tried_again(small: Training, whole: dict[str, Any]) -> None:
    before = small.checkpoints()
    (small.cwd / FAILS).touch()
    small.advance(2)
    assert_told(small.child.text, "input/output error")
    assert before[-1] in small.checkpoints()
    (small.cwd / FAILS).unlink()
    small.advance(3)
    assert small.checkpoints()[-1] > before[-1]
    status, _ = small.finish()
    assert_whole(small, status, whole)


@faults
def test_training_does_not_wait_for_a_slow_write_and_saves_do_not_pile_up(
    small: Training, whole: dict[str, Any]
) -> None:
    (small.cwd / WAITS).touch()
    small.advance(6, settled=False, timeout=20)
    assert small.saves().count("a") == small.saves().count("e") + 1
    (small.cwd / WAITS).unlink()
    status, _ = small.finish()
    assert_whole(small, status, whole)


@faults
def test_second_process_is_refused_and_the_first_knows_nothing_of_it(small: Training, whole: dict[str, Any]) -> None:
    status, text = server().script("train", *RESUME, cwd=small.cwd).end()
    assert_honest_failure(status, text)
    assert f"in use by process {small.child.pid}" in text
    status, _ = small.finish()
    assert_whole(small, status, whole)


@faults
def test_lock_of_a_killed_process_stops_nobody(small: Training, whole: dict[str, Any]) -> None:
    assert small.kill()[0] == -9
    locks = list(small.folder.rglob(".lock"))
    for lock in locks:
        lock.write_text(str(os.getpid()))  # which lives, and is another's: process numbers come again
    status, text = server().script("train", *RESUME, cwd=small.cwd).end()
    assert locks and status == 0, text
    assert differences(whole, record(small.folder)) == []
