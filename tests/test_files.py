"""Small files are whole or absent, JSON is always JSON, and a full disk leaves no hole."""

import json
import math
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import (
    JsonLines,
    jsonable,
    lock_folder,
    probe_writable,
    read_json_lines,
    remove_unfinished,
    write_json,
    write_text,
)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """A disk that takes no more than this of any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_written_text_is_read_back_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "one")
    write_text(tmp_path / "a", "zwei ü\n")
    assert (tmp_path / "a").read_text() == "zwei ü\n"
    assert os.listdir(tmp_path) == ["a"]


def test_failed_write_leaves_old_contents_and_no_leftover(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with largest_file(1000), pytest.raises(WorldError, match=f"cannot write {tmp_path}/a: file too large"):
        write_text(tmp_path / "a", "new" * 1000)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (np.float32(math.inf), "Infinity"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (jnp.asarray(2, jnp.int32), 2),
        (jnp.asarray([1.5, math.nan], jnp.bfloat16), [1.5, "NaN"]),
        (np.zeros((2, 1), np.uint8), [[0], [0]]),
        ({1: (Path("a/b"), None)}, {"1": ["a/b", None]}),
    ],
)
def test_jsonable_is_plain_and_valid_json(value: object, expected: object) -> None:
    assert jsonable(value) == expected
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == expected


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.1])
def test_float_of_a_written_number_is_that_number(tmp_path: Path, number: float) -> None:
    write_json(tmp_path / "a.json", {"x": number})
    assert repr(float(json.loads((tmp_path / "a.json").read_text())["x"])) == repr(number)


def test_what_has_no_json_form_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="a object, as JSON"):
        jsonable({"x": object()})


def test_probe_makes_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    probe_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("under", ["", "deeper/still"])
def test_probe_names_a_file_in_the_way(tmp_path: Path, under: str) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(WorldError, match=f"{tmp_path}/runs is a file; choose another folder"):
        probe_writable(tmp_path / "runs" / under)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user, and needs to: permissions bind others")
def test_probe_refuses_a_folder_of_another_user() -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(WorldError, match="cannot write in /usr: permission denied; choose another folder"):
            probe_writable("/usr")
    finally:
        os.seteuid(0)


def test_probe_refuses_what_does_not_exist_and_cannot_be_made() -> None:
    with pytest.raises(WorldError, match="cannot write in /proc/jaxtrain"):
        probe_writable("/proc/jaxtrain")


def test_json_lines_are_on_disk_at_once(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "log") as lines:
        lines.append({"step": 1, "loss": jnp.float32(0.5)})
        assert read_json_lines(tmp_path / "log") == [{"step": 1, "loss": 0.5}]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_resumed_json_lines_equal_uninterrupted_ones(tmp_path: Path, cut: int) -> None:
    with JsonLines(tmp_path / "whole") as lines:
        for step in range(10):
            lines.append({"step": step})
    written = (tmp_path / "whole").read_bytes()
    (tmp_path / "log").write_bytes(written[:-cut])  # killed in the middle of a line
    with JsonLines(tmp_path / "log", keep_until_step=5) as lines:
        for step in range(6, 10):
            lines.append({"step": step})
    assert (tmp_path / "log").read_bytes() == written


def test_lines_without_a_step_are_kept(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"event": "start"}\n{"step": 3}\n')
    JsonLines(tmp_path / "log", keep_until_step=2).close()
    assert read_json_lines(tmp_path / "log") == [{"event": "start"}]


def test_reader_leaves_out_a_line_that_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"step": 1}\n{"step": 2, "name": "\xc3')
    assert read_json_lines(tmp_path / "log") == [{"step": 1}]
    assert read_json_lines(tmp_path / "absent") == []


def test_a_line_that_is_damaged_is_named_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"step": 1}\n{"step: 2}\n{"step": 3}\n')
    with pytest.raises(WorldError, match="log: line 2 is damaged, .*delete that line to go on"):
        read_json_lines(tmp_path / "log")
    with pytest.raises(WorldError, match="line 2"):
        JsonLines(tmp_path / "log", keep_until_step=5)
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_full_disk_is_told_once_and_leaves_no_hole(tmp_path: Path) -> None:
    records = [{"step": step, "text": "x" * 80} for step in range(40)]
    with JsonLines(tmp_path / "log") as lines:
        with largest_file(1000):
            for record in records[:30]:
                lines.append(record)
        assert len(read_json_lines(tmp_path / "log")) < 30
        assert lines.errors == [f"cannot write {tmp_path}/log: file too large"]
        for record in records[30:]:
            lines.append(record)
    assert read_json_lines(tmp_path / "log") == records


def test_closed_lines_refuse_more(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "log")
    lines.close()
    lines.close()
    with pytest.raises(RequestError, match="is closed"):
        lines.append({})


def test_lines_whose_folder_was_deleted_go_on_in_a_new_one_and_it_is_told(tmp_path: Path) -> None:
    place = tmp_path / "run" / "lines.jsonl"
    place.parent.mkdir()
    with JsonLines(place) as lines:
        lines.append({"step": 1})
        shutil.rmtree(place.parent)
        lines.append({"step": 2})
        lines.flush()
        lines.append({"step": 3})
        assert [error for error in lines.errors if "deleted while it was in use" in error]
    assert read_json_lines(place) == [{"step": 3}]


def test_a_folder_is_locked_for_one_at_a_time_and_the_other_is_named(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(WorldError, match=f"in use by process {os.getpid()}; wait"):
        lock_folder(tmp_path)
    lock_folder(tmp_path).close()


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "best").mkdir()
    left = [tmp_path / ".manifest.json.13dfcc96ec8d.tmp", tmp_path / "best" / ".summary.json.0123456789ab.tmp"]
    others = [tmp_path / ".my.tmp", tmp_path / "manifest.json", tmp_path / ".notes.13dfcc96ec8d.txt"]
    for path in left + others:
        path.write_text("")
    remove_unfinished(tmp_path)
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)
