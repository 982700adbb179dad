"""Runs that are asked to stop: they save, say so by their exit status, and go on later as if nothing had been.

Imports the processes and the records of runs. The fact that surprises: a stop is only as good as its last save, so a
run whose last save fails ends as a failure, whatever signal it was sent.
"""

import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from processes import Child, server, until
from records import MEMBERS, RUN, differences, record

from jaxtrain.checkpoint import Store
from jaxtrain.files import read_json_lines

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}
KINDS = {"single": [], "loop": [*MEMBERS, "loop"], "vmap": [*MEMBERS, "vmap"]}
LOG_EVERY = 20  # steps, as RUN has it
LONG = ["--epochs", "100000", "--early_stopping", "None"]
SLOW = [*LONG, "--batch_size", "8", "--model.hidden", "1400", "1400", "--probe_every_steps", "None"]
"""Chunks of a second and more."""
HEAVY = [*LONG, "--batch_size", "512", "--model.hidden", "5000", "5000", "--probe_every_steps", "None"]
"""A first chunk, of the two steps of an epoch, that takes a second and more."""
PATIENCE = 30
"""Seconds that schedulers wait before they kill, the one bound on a stop. How long each took is in the table."""


def start(cwd: Path, *args: object) -> Child:
    """A run in `cwd`/run, or its continuation."""
    (cwd / "small.py").write_text(RUN)
    known = (cwd / "run" / "config.json").exists()
    reference = ["--resume"] if known else ["--config", "small.py"]
    return server().script("train", *reference, "--workdir", "run", "--no-report", *args, cwd=cwd)


def has_begun(folder: Path) -> bool:
    """Whether the loop has come to its first point; before its first chunk there is nothing to save."""
    return shown(folder) > 0


def stop(child: Child, number: int) -> tuple[int, float]:
    """Send a signal: the exit status, and the seconds it took."""
    sent = time.monotonic()
    child.send(number)
    return child.wait(), time.monotonic() - sent


def newest(folder: Path) -> int:
    """The step of the newest checkpoint; -1 where there is none."""
    with Store(folder / "checkpoints", read_only=True) as store:
        return max([-1, *store.steps()])


def shown(folder: Path) -> int:
    """The last step of which the run has told."""
    return max([-1, *(int(row["step"]) for row in read_json_lines(folder / "metrics.jsonl"))])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Kind -> the record of an uninterrupted run."""
    made = {}

    def get(kind):
        if kind not in made:
            cwd = tmp_path_factory.mktemp(kind)
            status, text = start(cwd, *KINDS[kind]).end()
            assert status == 0, text
            made[kind] = record(cwd / "run")
        return made[kind]

    return get


@pytest.mark.faults("SIGTERM, SIGINT, SIGUSR1", ci=6, full=40)
def test_a_stopped_run_has_lost_no_step_and_ends_as_one_that_was_not(case, tmp_path, whole, record_property):
    random = np.random.default_rng((123, case))
    number = list(STATUS)[case % 3]
    kind = ("single", "loop", "vmap", "single")[case // 3 % 4]
    expected, folder = whole(kind), tmp_path / "run"
    # A save at each chunk makes the run last; where none comes on the way, all hangs on the last one.
    every = 0.05 if random.random() < 0.7 else 1000
    child = start(tmp_path, *KINDS[kind], "--max_chunk_seconds", 0.01, "--checkpoint_every_seconds", every)
    assert until(lambda: has_begun(folder), child), child.text
    child.run_for(random.uniform(0, 0.8))
    status, seconds = stop(child, number)
    assert "Traceback" not in child.text, child.text
    stopped = not (folder / "summary.json").exists()  # else it was done before the signal came
    assert status == (STATUS[number] if stopped else 0), child.text
    assert seconds < PATIENCE
    step, told = newest(folder), shown(folder)
    if stopped:
        assert told <= step < told + LOG_EVERY
    status, text = start(tmp_path, "--max_chunk_seconds", 5, "--checkpoint_every_seconds", 1000).end()
    assert status == 0 and (f"resumed from step {step} " in text or not stopped), text
    parted = differences(expected, record(folder))
    assert not parted, "\n".join(parted)
    record_property("stopped in the loop", stopped)
    record_property("steps lost", max(0, told - step))
    record_property("seconds from the signal to the exit", round(seconds, 2))


@pytest.mark.faults("a signal before there is anything to save", ci=2, full=12)
def test_a_signal_before_the_end_of_the_first_chunk_ends_the_run_at_once(case, tmp_path, record_property):
    random = np.random.default_rng((123, case))
    number, after = list(STATUS)[case % 3], ("compiled in", "run folder")[case % 2]
    child = start(tmp_path, *HEAVY)
    assert until(lambda: after in child.text, child), child.text
    child.run_for(random.uniform(0, 0.5))
    status, seconds = stop(child, number)
    assert status == STATUS[number], child.text  # -11: the interpreter was taken down while a chunk was computed
    assert "at the end of this chunk" not in child.text and seconds < PATIENCE
    assert newest(tmp_path / "run") == shown(tmp_path / "run") == -1  # else it has waited for the chunk
    record_property("seconds from the signal to the exit", round(seconds, 2))


@pytest.mark.slow
def test_a_run_whose_minutes_have_passed_stops_as_if_it_had_been_told(tmp_path):
    began, minutes = time.monotonic(), 0.1
    status, text = start(tmp_path, *LONG, "--preempt-after", minutes).end()
    assert status == 143 and "the minutes of --preempt-after have passed" in text, text
    assert time.monotonic() - began > 60 * minutes
    assert shown(tmp_path / "run") <= newest(tmp_path / "run") and newest(tmp_path / "run") > 0


@pytest.mark.faults("a second signal ends a run at once", ci=1, full=3)
@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_does_not_wait_for_the_chunk(first, second, case, tmp_path, record_property):
    random = np.random.default_rng((123, case))
    child, folder = start(tmp_path, *SLOW), tmp_path / "run"
    assert until(lambda: has_begun(folder), child), child.text
    child.run_for(random.uniform(0, 1))
    child.send(first)
    assert until(lambda: "once more to end at once" in child.text, child), child.text
    status, seconds = stop(child, second)
    assert status == STATUS[first], child.text
    assert "stopped: " not in child.text and seconds < PATIENCE  # else it has waited for the chunk, and the save
    record_property("seconds from the signal to the exit", round(seconds, 2))
    record_property("ended before the save", newest(folder) < 0)


def take_the_folder(cwd: Path) -> None:
    """A file where the checkpoints were."""
    (cwd / "run" / "checkpoints").rename(cwd / "elsewhere")
    (cwd / "run" / "checkpoints").write_text("")


def fill_the_disk(cwd: Path) -> None:
    try:
        with open(cwd / "run" / "filler", "wb") as file:
            while file.write(b"\0" * 4096):
                file.flush()
    except OSError:
        return


@pytest.fixture
def small_disk(tmp_path):
    """A folder whose `run` is a disk of 4 MB, where this user may mount one."""
    (tmp_path / "run").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path / "run")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path / "run")], check=True)


def stop_without_a_save(cwd: Path, spoil, random: np.random.Generator, number: int) -> tuple[int, str]:
    """Begin a long run, spoil its disk, send it a signal: exit status and what it has printed."""
    child = start(cwd, *LONG)
    assert until(lambda: has_begun(cwd / "run"), child), child.text
    child.run_for(random.uniform(0, 1))
    spoil(cwd)
    return stop(child, number)[0], child.text


@pytest.mark.faults("a stop whose last save fails", ci=3, full=6)
def test_a_stop_without_its_checkpoint_is_a_failure_with_its_reason(case, tmp_path):
    number = list(STATUS)[case % 3]
    status, text = stop_without_a_save(tmp_path, take_the_folder, np.random.default_rng((123, case)), number)
    assert status == 1, text
    assert re.search(r"^error: the last checkpoint could not be written: .*file", text, re.MULTILINE), text
    assert "Traceback" not in text


@pytest.mark.faults("a stop on a full disk", ci=1, full=3)
def test_a_stop_on_a_full_disk_is_a_failure_with_its_reason(case, small_disk):
    random = np.random.default_rng((123, case))
    status, text = stop_without_a_save(small_disk, fill_the_disk, random, signal.SIGTERM)
    assert status == 1, text
    assert re.search(r"^error: the last checkpoint could not be written: .*no space", text, re.MULTILINE), text
    assert "Traceback" not in text
