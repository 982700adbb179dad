"""The contest of the benchmarks: turns, failures, ratios, with contestants of a few lines; and wrong requests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its files are scripts, no package, and so come after this line

from contest import Entry, Result, contest, ratios, whole_programs  # noqa: E402
from tables import LIMIT, speed_table, whole_table  # noqa: E402

CONTESTANT = """
import sys
sys.path.insert(0, {peers!r})
from contestant import Contestant, serve

def make(work):
    print("noise of a framework, which is no answer")
    def epochs():
        for epoch in range(work.epochs):
            open("turns", "a").write(work.version)
            if work.version == "c" and epoch == 2:
                raise RuntimeError("out of memory, say")
            yield
    return Contestant(epochs(), lambda: 0.5)

serve(make, ("a", "b", "c"))
"""


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """a, b and c, which fails in its third epoch."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "contestant_of_a_test.py").write_text(CONTESTANT.format(peers=str(ROOT / "benchmarks" / "peers")))
    flags = ("--examples", "1280", "--epochs", "5")
    return [Entry(name, (sys.executable, "contestant_of_a_test.py", name, *flags)) for name in "abc"]


def test_contestants_take_turns_and_one_that_fails_is_left_out(entries):
    said = []
    results = contest(entries, 4, said.append)
    assert Path("turns").read_text() == "abcabcabcabab"
    assert [result.failure for result in results] == [None, None, "RuntimeError: out of memory, say"]
    assert any("c failed and is left out: RuntimeError" in text for text in said)
    for result in results[:2]:
        assert [row["images"] for row in result.rounds] == [1280] * 4  # the first round does not count
        assert result.facts["accuracy"] == 0.5 and result.facts["peak_bytes"] > 1e6
        assert all(row["wall"] > 0 and row["cpu"] >= 0 for row in result.rounds)


def test_whole_programs_are_run_in_turn_and_tell_their_accuracy(entries, capsys):
    results = {result.name: result for result in whole_programs(entries, 2, lambda text: None)}
    assert Path("turns").read_text() == "aaaaabbbbbccc" + "aaaaabbbbb"
    table = whole_table(results, "a", "wall")
    assert table.keys() == {"a", "b"} and table["a"]["accuracy"] == 0.5
    assert table["a"]["ratio"] == {"median": 1, "min": 1, "max": 1, "count": 2}
    assert (
        "| a |" in capsys.readouterr().out
        and results["c"].failure == "it ended with status 1: RuntimeError: out of memory, say"
    )


def test_ratios_are_of_neighbours(capsys):
    ours = Result("ours", [{"images": 100, "wall": wall, "cpu": wall, "foreign": 0.0} for wall in (1.0, 2.0, 10.0)])
    theirs = Result("theirs", [{"images": 100, "wall": wall, "cpu": wall, "foreign": 0.0} for wall in (2.0, 4.0, 20.0)])
    limit = Result(LIMIT, [{"flops": 400.0, "wall": wall, "cpu": wall, "bandwidth": 1.0} for wall in (1.0, 2.0, 10.0)])
    assert ratios(ours, theirs, "wall").median == 2  # though the machine slowed down tenfold
    table = speed_table({one.name: one for one in (limit, ours, theirs)}, "ours", 2.0, "title", "wall")
    assert table["theirs"]["ratio"]["min"] == table["theirs"]["ratio"]["max"] == 2
    assert table["ours"]["share_of_limit"]["median"] == 0.5 and table["theirs"]["share_of_limit"]["median"] == 0.25
    assert "| theirs | 25 (5 to 50) | 2 (2 to 2) | 25% |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "no suite was given; expected all, or some of single"),
        (("quick",), "quick was given; expected all"),
        (("all", "single"), "all single was given"),
        (("single", "--rounds", "0"), "--rounds is 0"),
        (("single", "--data", "nowhere"), "there is no folder mnist in nowhere"),
        (("single", "--pin", "4000"), "--pin is 4000; the cores of this process are"),
        (("single", "--peers", "nowhere/python"), "--peers is nowhere/python, which is no file"),
    ],
)
def test_a_wrong_request_is_one_sentence(flags, message, tmp_path):
    (tmp_path / "mnist").mkdir()
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *flags]
    environment = {**os.environ, "JAXTRAIN_DATA": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_suite_of_one_run_trains_and_says_how_fast(tmp_path, real_data):
    output = tmp_path / "found.json"
    flags = ["single", "--data", str(real_data), "--networks", "mlp", "--rounds", "1", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *flags], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["single"]["mlp"]
    assert found["jaxtrain"]["accuracy"] > 0.95 and found["jaxtrain"]["share_of_limit"]["median"] > 0
    assert "| jaxtrain |" in done.stdout and "| bare loop |" in done.stdout
