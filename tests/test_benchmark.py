"""The contest of the benchmarks: turns, failures, ratios, with contestants of a few lines; traces; wrong requests."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxtrain as jt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its files are scripts, no package, and so come after this line

from contest import Entry, Result, contest, last_words, ratios, whole_programs  # noqa: E402
from conv_forms import FORMS, FormCNN  # noqa: E402
from jaxtrain_loop import CONVOLUTIONS  # noqa: E402
from pooling import POOLS, make_steps  # noqa: E402
from profile_step import MOST_EVENTS, read_trace, summary  # noqa: E402
from tables import LIMIT, speed_table, step_table, whole_table  # noqa: E402

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


def test_the_last_words_are_those_of_the_exception():
    noted = ["Traceback", "jaxlib._jax.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory", "----", "JAX has removed"]
    assert last_words(noted) == noted[1]
    assert last_words(["a warning", "no folder mnist", ""]) == "no folder mnist" and last_words([]) == ""


def lane(kind, name, pid, tid):
    return {"ph": "M", "name": f"{kind}_name", "pid": pid, "tid": tid, "args": {"name": name}}


def event(name, ts, dur, pid, tid, **args):
    return {"ph": "X", "name": name, "ts": ts, "dur": dur, "pid": pid, "tid": tid, "args": args}


HOST = [
    lane("process", "/host:CPU", 1, 0),
    lane("thread", "python", 1, 1),
    lane("thread", "tf_XLAEigen", 1, 2),
    event("while", 0, 100, 1, 1, hlo_op="while"),
    event("dot.1", 0, 30, 1, 1, hlo_op="dot.1"),
    event("call.2", 30, 60, 1, 1, hlo_op="call.2"),
    event("dot.1", 35, 50, 1, 1, hlo_op="dot.1"),
    event("end: dot.1", 85, 1, 1, 1),
    event("copy", 40, 20, 1, 2, hlo_op="copy"),  # at the same time in another thread, and so not within dot.1
]


def test_operations_of_a_cpu_count_once_where_they_are_wrapped():
    found = summary({"traceEvents": HOST}, steps=2)
    assert found["kind"] == "operations" and found["count"] == 1.5 and found["us"] == 50 and found["copies"] == 0
    assert found["longest"] == [
        {"name": "dot.1", "share": 0.8, "us": 40, "count": 1},
        {"name": "copy", "share": 0.2, "us": 10, "count": 0.5},
    ]


@pytest.mark.parametrize("details", [True, False], ids=["reported by the driver", "by lanes alone"])
def test_kernels_of_a_gpu_are_those_of_its_streams(details):
    def kernel(name, ts, dur, tid, kind, **args):
        return event(name, ts, dur, 2, tid, **args, **({f"{kind}_details": "..."} if details else {}))

    device = [
        lane("process", "/device:GPU:0", 2, 0),
        lane("thread", "Stream #14(Compute)", 2, 14),
        lane("thread", "Stream #15(MemcpyD2H)", 2, 15),
        lane("thread", "XLA Ops", 2, 90),
        event("while", 0, 100, 2, 14, hlo_op="while"),
        kernel("fusion_1", 0, 30, 14, "kernel", hlo_op="fusion.1"),
        kernel("sm90_gemm", 30, 10, 14, "kernel", hlo_op="custom-call.3"),
        kernel("Memset", 40, 2, 14, "Memset"),
        kernel("MemcpyD2H", 42, 4, 15, "memcpy"),
        event("fusion.1", 0, 30, 2, 90, hlo_op="fusion.1"),  # the same once more, by operation
    ]
    found = summary({"traceEvents": HOST + device}, steps=2)
    assert found["kind"] == "kernels" and found["count"] == 1 and found["us"] == 20
    assert found["copies"] == 1 and found["copies_us"] == 3
    assert [(row["name"], row["share"]) for row in found["longest"]] == [
        ("fusion.1", 0.75),
        ("custom-call.3: sm90_gemm", 0.25),
    ]


def test_kernels_that_overlap_in_a_stream_all_count():
    lanes = [lane("process", "/device:GPU:0", 2, 0), lane("thread", "Stream #14(Compute)", 2, 14)]
    both = [event(name, ts, dur, 2, 14, kernel_details="...") for name, ts, dur in (("long", 0, 30), ("short", 5, 5))]
    assert summary({"traceEvents": lanes + both}, steps=1)["us"] == 35


def test_a_trace_that_is_missing_or_full_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"left 0 files \*\.trace\.json\.gz"):
        read_trace(tmp_path)
    (tmp_path / "vm.trace.json.gz").write_bytes(gzip.compress(json.dumps({"traceEvents": [0] * MOST_EVENTS}).encode()))
    with pytest.raises(SystemExit, match="give fewer --examples"):
        read_trace(tmp_path)


def test_the_table_of_steps_names_the_longest(capsys):
    step_table({"mlp": {**summary({"traceEvents": HOST}, 2), "wall_us": 70.0, "traced_wall_us": 2000.0}})
    row = "| mlp | 1.5 operations | 50.0 | 0.0 | 0.0 | 70.0 | 2,000.0 | dot.1 80%, copy 20% |"
    assert row in capsys.readouterr().out


def test_forms_of_convolution_are_the_cnn_of_the_framework():
    assert tuple(FORMS) == CONVOLUTIONS
    image = np.random.default_rng(0).normal(size=(2, 28, 28)).astype("float32")
    theirs = jt.CNN(features=(32, 64), hidden=128)
    weights = theirs.init(jax.random.key(0), image, train=False)
    expected = theirs.apply(weights, image, train=False)
    ours = jax.eval_shape(lambda key: FormCNN("lax").init(key, image, train=False), jax.random.key(0))
    assert jax.tree.structure(ours) == jax.tree.structure(weights)
    for form in FORMS:
        np.testing.assert_allclose(FormCNN(form).apply(weights, image, train=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("members", [1, 2])
def test_the_forms_of_pooling_that_are_timed_have_one_gradient(members):
    weights = [make_steps(pool, members, batch=16)() for pool in POOLS.values()]
    for others in weights[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), weights[0], others)


@pytest.mark.parametrize("fitting, asked", [(256, [256, 512]), (4096, [256, 512, 1024])])
def test_members_are_doubled_until_one_contestant_fails(fitting, asked, monkeypatch, capsys):
    benchmark = load_benchmark()
    seen = []

    def contest_of_one(entries, rounds, say):
        count = int(entries[0].command[entries[0].command.index("--members") + 1])
        seen.append(count)
        rows = [{"images": 100, "wall": 1.0, "cpu": 1.0, "foreign": 0.0}]
        return [Result(entries[0].name, rows) if count <= fitting else Result(entries[0].name, failure="no memory")]

    monkeypatch.setattr(benchmark, "contest", contest_of_one)
    bench = benchmark.Bench(Path("data"), 2, "wall", None, ["mlp"])
    found = benchmark.until_full(bench, "mlp", 256)
    end = "512 members: no memory" if fitting == 256 else None
    assert seen == asked and found["end"] == end and not bench.failed
    assert (end or "1024 members fit") in capsys.readouterr().out


def load_benchmark():
    """scripts/benchmark.py as a module."""
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "scripts" / "benchmark.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module  # where dataclasses look for the types of fields
    spec.loader.exec_module(module)
    return module


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
