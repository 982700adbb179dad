"""The checkpoint store alone, killed while it saves all the time; and Orbax's own manager, which does not stand it.

Imports the processes, the store and Orbax. The fact that surprises: what a kill breaks in Orbax is not the checkpoint
that is being written but an old one, which is deleted in place and stays listed while half of it is gone.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Child, server, until

from jaxtrain.checkpoint import Store

FIRST = 2
"""Checkpoints that are there before the first kill."""


def content(step: int) -> dict[str, Any]:
    """2 MB in 64 leaves, random bits that follow from the step."""
    bits = np.random.default_rng(step).integers(0, 2**32, (64, 8192), dtype=np.uint32)
    return {"step": np.int64(step), **{f"layer{i:02d}": {"kernel": row} for i, row in enumerate(bits)}}


def is_content(tree: Any, step: int) -> bool:
    wanted = content(step)
    return tree.keys() == wanted.keys() and all(
        np.array_equal(tree[name]["kernel"], part["kernel"]) if name != "step" else tree[name] == step
        for name, part in wanted.items()
    )


# ---- in the process that dies


def save_all_the_time(folder: str) -> None:
    """Save step after step in a `Store`; a line tells of each save that has begun, so that the one before is whole."""
    _delete_slowly()
    with Store(folder) as store:
        for step in range(max([0, *store.steps()]) + 1, 10**6):
            store.save(step, content(step), {"step": step})
            print(step, flush=True)


def save_all_the_time_with_orbax(folder: str) -> None:
    """The same with Orbax's CheckpointManager."""
    import orbax.checkpoint as ocp

    _delete_slowly()
    with _manager(folder) as manager:
        for step in range((manager.latest_step() or 0) + 1, 10**6):
            manager.wait_until_finished()
            manager.save(step, args=ocp.args.StandardSave(content(step)))
            print(step, flush=True)


def _delete_slowly() -> None:
    """Deletions as on a disk of the network, so that kills come amid them."""
    unlink = os.unlink

    def slow(*args: Any, **named: Any) -> None:
        time.sleep(0.003)
        unlink(*args, **named)

    os.unlink = slow


def _manager(folder: str | Path) -> Any:
    import orbax.checkpoint as ocp

    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=2))


# ---- the tests


def kill(function: Callable[[str], None], folder: Path, wait: Callable[[Child], Any]) -> int:
    """Let a process save in `folder`, and kill it after its first save has begun and `wait` is over: the last step of
    which it told."""
    child = server().call(f"test_store_kills:{function.__name__}", folder, cwd=folder.parent)
    assert until(lambda: "\n" in child.text, child), child.text  # ready
    wait(child)
    child.send(9)
    assert child.wait() == -9, child.text
    return int([line for line in child.text.splitlines() if line.isdecimal()][-1])  # others are Orbax's


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder with checkpoints."""
    place = tmp_path_factory.mktemp("begun")
    with Store(place) as store:
        for step in range(1, FIRST + 1):
            store.save(step, content(step), {"step": step})
    return place


@pytest.fixture
def folder(begun, tmp_path) -> Path:
    return shutil.copytree(begun, tmp_path / "checkpoints")


@pytest.mark.faults("the checkpoint store alone, killed while it saves all the time", ci=60, full=300)
def test_a_killed_store_has_every_checkpoint_that_it_lists(case, folder, record_property):
    random = np.random.default_rng((123, case))
    # Every third store opens a folder in which another was killed before.
    kills = 2 if case % 3 == 2 else 1
    told, amid = FIRST, {"saving": 0, "deleting": 0}
    for _ in range(kills):
        seconds = random.uniform(0.05, 1.2)
        told = kill(save_all_the_time, folder, lambda child, seconds=seconds: child.run_for(seconds))
        amid["saving"] += any(folder.glob("*.orbax-checkpoint-tmp*"))
        amid["deleting"] += any(folder.glob(".trash-*"))
    with Store(folder, read_only=True) as store:  # as a reader finds it
        assert_whole(store, told, 2 + kills)
    with Store(folder) as store:  # as the next writer does
        steps = assert_whole(store, told, 2 + kills)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", *(f"{step:08d}" for step in steps)]
    record_property("kills", kills)
    record_property("kills while saving", amid["saving"])
    record_property("kills while deleting", amid["deleting"])
    record_property("checkpoints restored", 2 * len(steps))


def assert_whole(store: Store, told: int, most: int) -> list[int]:
    """Every listed checkpoint is exactly what was saved, and at most the save in flight is lost: the steps.

    Two are kept, and each kill may have come after a save and before the oldest went.
    """
    steps = store.steps()
    assert told - 1 <= steps[-1] <= told + 1  # it may have been killed before it could tell
    assert steps == list(range(steps[0], steps[-1] + 1)) and 2 <= len(steps) <= most
    for step in steps:
        restored = store.restore(content(0), step)
        assert restored is not None and is_content(restored.tree, step) and restored.meta == {"step": step}
        assert not restored.notes
    newest = store.restore(content(0))
    assert newest is not None and newest.meta == {"step": steps[-1]}
    return steps


@pytest.mark.slow
def test_orbax_alone_lists_a_checkpoint_of_which_a_part_is_gone(tmp_path, record_property):
    """The harness sees what it is there to see. A random kill does it in one of ten; here it comes when it must."""
    folder = tmp_path / "checkpoints"

    def half_deleted() -> bool:
        return any(0 < len(list(step.rglob("*"))) < 10 for step in folder.glob("*") if step.name.isdecimal())

    for kills in range(1, 11):
        kill(save_all_the_time_with_orbax, folder, lambda child: until(half_deleted, child))
        if broken_in_orbax(folder):
            record_property("kills until Orbax lost a checkpoint", kills)
            return
    pytest.fail("Orbax stood 10 kills amid a deletion: it has been mended, and the store may be simpler")


def broken_in_orbax(folder: Path) -> list[int]:
    """Listed steps that are not what was saved."""
    import orbax.checkpoint as ocp

    broken = []
    with _manager(folder) as manager:
        for step in manager.all_steps():
            try:
                tree = manager.restore(step, args=ocp.args.StandardRestore())
            except Exception:  # of a half-deleted checkpoint Orbax raises whatever it comes upon
                broken.append(step)
            else:
                broken += [] if is_content(tree, step) else [step]
    return broken
