"""Who is alive: by a lock on this machine, by a count on another, never by another machine's clock."""

import subprocess
import sys

import pytest

from jaxtrain.errors import WorldError
from jaxtrain.search.workers import Address, Heartbeat, Watch, Worker, alone, is_locked, lock


def test_a_worker_is_alive_until_it_closes(tmp_path):
    worker, watch = Worker(tmp_path), Watch()
    assert not watch.is_dead(worker.name, worker.address, 0)
    worker.close()
    assert watch.is_dead(worker.name, worker.address, 0)


CHILD = """
import sys
from pathlib import Path
from jaxtrain.search.workers import Worker
worker = Worker(Path(sys.argv[1]))
print(worker.address.lock, flush=True)
sys.stdin.read()
"""


def test_a_worker_that_is_killed_is_dead_at_once(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        address = Worker(tmp_path).address._replace(lock=child.stdout.readline().strip())
        watch = Watch()
        assert not watch.is_dead("child", address, 0)
        child.kill()
        child.wait()
        assert watch.is_dead("child", address, 0)


def test_a_worker_elsewhere_is_dead_when_its_count_has_stood_still_long_enough():
    now = [1000.0]
    watch, address = Watch(lambda: now[0], patience=120), Address("another machine", "/nowhere")
    assert not watch.is_dead("a", address, 7)  # seen for the first time
    now[0] += 100
    assert not watch.is_dead("a", address, 8)
    now[0] += 119
    assert not watch.is_dead("a", address, 8)
    now[0] += 1
    assert watch.is_dead("a", address, 8) and not watch.is_dead("b", address, 8)


def test_without_a_lock_file_the_count_decides(tmp_path):
    worker = Worker(tmp_path)
    address = worker.address._replace(lock=str(tmp_path / "another disk's file"))
    assert not Watch().is_dead("a", address, 1) and not Watch().is_dead("a", None, 1)


def test_a_heartbeat_beats_at_once_and_then_on():
    import threading

    counts, third = [], threading.Event()

    def beat(count):
        counts.append(count)
        if count == 2:
            third.set()

    heartbeat = Heartbeat(beat, every=0.001)
    assert counts[0] == 0 and third.wait(30)
    heartbeat.close()
    assert counts[:3] == [0, 1, 2]


def test_one_is_alone_with_a_lock_and_the_next_one_then(tmp_path):
    path = tmp_path / "lock"
    with alone(path) as first, alone(path) as second:
        assert first and not second and is_locked(path)
    with alone(path) as again:
        assert again
    assert not is_locked(path) and is_locked(tmp_path / "missing") is None


def test_a_lock_that_cannot_be_made_is_the_worlds_fault(tmp_path):
    with pytest.raises(WorldError, match="cannot write"):
        lock(tmp_path / "missing" / "lock")
