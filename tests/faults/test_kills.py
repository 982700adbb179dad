"""Real runs, killed with SIGKILL anywhere and resumed: at the end every bit and every point is there, once.

Imports the processes, the records of runs, and jaxtrain to read what a run wrote. The fact that surprises: the run that
a killed one is compared with has chunks of another length and saves at other moments, and differs in nothing.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from processes import Child, server, until
from records import MEMBERS, RUN, SEARCH, differences, record, record_search

KINDS = {
    "single": ["train"],
    "loop": ["train", *MEMBERS, "loop"],
    "vmap": ["train", *MEMBERS, "vmap"],
    "search": ["search"],
}
LONG = ("--max_chunk_seconds", 5, "--checkpoint_every_seconds", 1000)
EARLY = 0.15
"""Share of the kills that come before the process has saved anything: while it compiles, restores or opens files."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Kind -> the record of an uninterrupted run."""
    made = {}

    def get(kind):
        if kind not in made:
            cwd = tmp_path_factory.mktemp(kind)
            write_configs(cwd)
            status, text = start(kind, cwd, *LONG).end()
            assert status == 0, text
            made[kind] = recorded(kind, cwd)
        return made[kind]

    return get


def write_configs(cwd: Path) -> None:
    (cwd / "small.py").write_text(RUN)
    (cwd / "small_search.py").write_text(SEARCH)


def start(kind: str, cwd: Path, *changes: object) -> Child:
    """The same command for a new run and for one that goes on, but for --resume."""
    script, *args = KINDS[kind]
    if script == "search":
        args = ["--config", "small_search.py", "--workdir", "run", *changes]
        return server().script("search", *args, cwd=cwd, without=["jaxtrain.run:_report"])  # the winner's
    known = (cwd / "run" / "config.json").exists()
    args = args[:0] if known else args  # config.json has them
    reference = ["--resume"] if known else ["--config", "small.py"]
    return server().script("train", *reference, "--workdir", "run", "--no-report", *args, *changes, cwd=cwd)


def recorded(kind: str, cwd: Path):
    return (record_search if kind == "search" else record)(cwd / "run")


@pytest.mark.faults("real runs killed with SIGKILL", ci=12, full=60)
def test_a_run_that_was_killed_ends_as_one_that_was_not(case, tmp_path, whole, record_property):
    random = np.random.default_rng((123, case))
    kind = list(KINDS)[case % len(KINDS)]
    expected, folder = whole(kind), tmp_path / "run"
    write_configs(tmp_path)
    kills = saves = 0
    for _ in range(random.integers(1, 4)):
        child = start(kind, tmp_path, *changes(random))
        status = kill(child, folder, expected.get("checkpoints/step"), random)
        if status == 0:
            break  # it was done before its time had come
        assert status == -9, child.text
        kills += 1
        saves += is_in_a_save(folder)
    status, text = start(kind, tmp_path, *LONG).end()
    assert status == 0 and "Traceback" not in text, text
    assert not is_in_a_save(folder), "what a killed save left lies there for ever"
    found = recorded(kind, tmp_path)
    parted = differences(expected, found)
    assert not parted, "\n".join(parted)
    record_property("kills", kills)
    record_property("kills while saving", saves)
    record_property("arrays compared", sum(name.endswith("bits") for name in found))
    record_property("points compared", sum(len(value) for name, value in found.items() if name.endswith("points")))


@pytest.mark.faults("members killed between their scores and the result", ci=2, full=4)
def test_members_that_were_killed_before_their_result_have_each_score_once(case, tmp_path, whole):
    kind, folder = ("loop", "vmap")[case // 2], tmp_path / "run"
    rows, last_member = folder / "metrics.jsonl", folder / "members" / "002" / "summary.json"
    write_configs(tmp_path)
    child = start(kind, tmp_path, *LONG)
    until(lambda: newest(folder), child)  # with these flags the last one
    until(lambda: last_member.exists() if case % 2 else "test/" in rows.read_text(), child)
    child.send(signal.SIGKILL)
    assert child.wait() == -9, child.text
    status, text = start(kind, tmp_path, *LONG).end()
    assert status == 0, text
    parted = differences(whole(kind), recorded(kind, tmp_path))
    assert not parted, "\n".join(parted)


def changes(random: np.random.Generator) -> list[object]:
    """What may differ from process to process: how long chunks are, and how often it is saved."""
    chunk, every = random.choice([0.002, 0.01, 5]), random.uniform(0.05, 0.3)
    return ["--max_chunk_seconds", float(chunk), "--checkpoint_every_seconds", round(float(every), 3)]


def kill(child: Child, folder: Path, last: int | None, random: np.random.Generator) -> int:
    """Kill the child at a random moment, and return its exit status.

    The moment is before it has saved anything, or any other until the run, or the search, is at its end; in a part of
    the cases it is amid a save.
    """
    if random.random() < EARLY:
        child.run_for(random.uniform(0, 3))
    elif last is None:
        before = num_asked(folder)
        asked = (
            before + 1 + (9 - before) * random.random() ** 2
        )  # rather early: what is lost early may move what follows
        until(lambda: num_asked(folder) >= asked or (folder / "winner" / "config.json").exists(), child)
        child.run_for(random.uniform(0, 0.4))
    else:
        step = random.integers(min(newest(folder), last - 1), last) + 1
        until(lambda: newest(folder) >= step, child)
        child.run_for(random.uniform(0, 0.5))
        if random.random() < 0.4:
            until(lambda: is_in_a_save(folder), child)
            child.run_for(random.uniform(0, 0.02))
    child.send(signal.SIGKILL)
    return child.wait()


def num_asked(folder: Path) -> int:
    """How many trials of a search have been given out: each says once who trains it."""
    journal = folder / "study.journal"
    return journal.read_text().count('"worker":') if journal.exists() else 0


def newest(folder: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none yet."""
    try:
        names = os.listdir(folder / "checkpoints")
    except FileNotFoundError:
        return 0
    return max([0, *(int(name) for name in names if name.isdecimal())])


def is_in_a_save(folder: Path) -> bool:
    """Whether something is half written, or half deleted."""
    names = [name for _, folders, files in os.walk(folder) for name in (*folders, *files)]
    return any(".orbax-checkpoint-tmp" in name or name.startswith(".trash-") or name.endswith(".tmp") for name in names)
