"""A folder that is no run, a damaged one, or one that was begun otherwise is named; nothing goes on with it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_answers import BARE, DIGITS, ROOT, faults, go_nowhere, refusal, row_of, script, trained
from bad_files import all_names, write
from bad_requests import USAGE, WORLD
from processes import server

from jaxtrain.configfile import to_json
from jaxtrain.errors import RequestError


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_nowhere(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run."""
    return trained(tmp_path_factory.mktemp("finished") / "run").folder


def _rewrite(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda run: (run / name).write_bytes(content)


def _edit(name: str, **changes: Any) -> Callable[[Path], Any]:
    """The JSON in a file with keys changed, or removed where the value is ..."""

    def edit(run: Path) -> None:
        value = {**json.loads((run / name).read_text()), **changes}
        (run / name).write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))

    return edit


def _halve(name: str) -> Callable[[Path], Any]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:100])


def _strike_weights(run: Path) -> None:
    file = max((path for path in (run / "weights").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(bytes(content))


def _make_folder(name: str) -> Callable[[Path], Any]:
    return lambda run: ((run / name).unlink(), (run / name).mkdir())


def _damage_first_line(run: Path) -> None:
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(content.replace(b'"', b"", 1))


LOADS, READS, RESUMES = ("evaluate", "predict", "report", "init"), ("compare", "reports"), ("resume",)
DAMAGES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "missing": (shutil.rmtree, LOADS + READS + RESUMES),
    "empty": (lambda run: (shutil.rmtree(run), run.mkdir()), LOADS + READS + RESUMES),
    "a file": (lambda run: (shutil.rmtree(run), run.write_text("")), LOADS + READS + RESUMES),
    "unfinished": (lambda run: (run / "summary.json").unlink(), LOADS + READS),
    "no config": (lambda run: (run / "config.json").unlink(), ("evaluate", "compare", "resume")),
    "no weights": (lambda run: shutil.rmtree(run / "weights"), LOADS),
    "weights are a file": (lambda run: (shutil.rmtree(run / "weights"), (run / "weights").write_text("")), LOADS),
    "weights are struck": (_strike_weights, LOADS),
    "summary cut": (_halve("summary.json"), (*LOADS[:3], *READS, *RESUMES)),
    "summary a list": (_rewrite("summary.json", b"[]"), (*LOADS[:3], *READS, *RESUMES)),
    "summary null": (_rewrite("summary.json", b"null"), (*LOADS[:3], *READS, *RESUMES)),
    "summary nested": (_rewrite("summary.json", b"[" * 100_000), (*LOADS[:3], *READS, *RESUMES)),
    "summary is bytes": (_rewrite("summary.json", b"\xff\xfe\0"), (*LOADS[:3], *READS, *RESUMES)),
    "summary a folder": (_make_folder("summary.json"), (*LOADS, *READS, *RESUMES)),
    "summary without steps": (_edit("summary.json", steps=...), (*LOADS[:3], "reports")),
    "summary with text": (_edit("summary.json", steps="ten"), (*LOADS[:3], "reports")),
    "summary without data": (_edit("summary.json", data=...), ("report", *READS)),
    "summary of no members": (_edit("summary.json", members=3), (*LOADS[:3], *READS)),
    "summary of strange scores": (_edit("summary.json", val="high"), ("report", "reports")),
    "config cut": (_halve("config.json"), (*LOADS[:3], *READS, *RESUMES)),
    "config a list": (_rewrite("config.json", b"[1]"), (*LOADS[:3], *READS, *RESUMES)),
    "config text": (_rewrite("config.json", b'"x"'), (*LOADS[:3], *READS, *RESUMES)),
    "config nested": (_rewrite("config.json", b"[" * 100_000), (*LOADS[:3], *READS, *RESUMES)),
    "config of another type": (_edit("config.json", model={"type": "Net"}), (*LOADS[:3], *RESUMES)),
    "config without epochs": (_edit("config.json", config={"type": "Config"}), (*LOADS[:3], *RESUMES)),
    "config of another network": (
        _edit("config.json", model={**to_json(DIGITS)["model"], "hidden": [9]}),
        RESUMES,
    ),
    "manifest cut": (_halve("manifest.json"), ("report", "resume")),
    "manifest text": (_rewrite("manifest.json", b'"x"'), ("report", "resume")),
    "manifest missing": (lambda run: (run / "manifest.json").unlink(), RESUMES),
    "manifest of nothing": (_rewrite("manifest.json", b"{}"), RESUMES),
    "manifest of strange members": (_edit("manifest.json", members={"width": 0}), RESUMES),
    "manifest of a strange origin": (_edit("manifest.json", init_from=3), RESUMES),
    "metrics damaged": (_damage_first_line, (*LOADS[:3], *RESUMES)),
    "manifest of other data": (_edit("manifest.json", data={"sha256": "0" * 64}), RESUMES),
    "metrics a folder": (_make_folder("metrics.jsonl"), ("evaluate", "report", "resume")),
    "checkpoints a file": (
        lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").write_text("")),
        RESUMES,
    ),
}
"""What is wrong with a run's folder, and the commands that must say so; all others may work, as on a good one."""


def _commands(other: Path) -> dict[str, Callable[[], Any]]:
    config, image = str(ROOT / "configs/digits.py"), "image.ppm"
    Path(image).write_bytes(b"P5 8 8 255\n" + bytes(range(64)))
    start = ["--config", config, "--model.hidden", "8", "--workdir", "new", "--epochs=1", *BARE]
    return {
        "evaluate": lambda: script("evaluate", "run"),
        "predict": lambda: script("predict", "run", image),
        "report": lambda: script("report", "run", "--no-baseline"),
        "init": lambda: script("train", *start, "--init-from", "run"),
        "compare": lambda: script("compare", "run", str(other)),
        "reports": lambda: script("report", str(other), "run", "--output", "out"),
        "resume": lambda: script("train", "--resume", "--workdir", "run", "--epochs=2", *BARE),
    }


@faults(ci=16, full=len(DAMAGES))
def test_a_folder_that_is_no_run_or_a_damaged_one_is_named(case: int, finished: Path, record_property: Any) -> None:
    _, (spoil, commands) = row_of(DAMAGES, case)
    for command in commands:
        run = Path("run")
        shutil.copytree(finished, run)
        spoil(run)
        before = set(all_names([Path()]))
        error = refusal(_commands(finished)[command])
        assert "run" in str(error), f"{command}: {error}"
        new = set(all_names([Path()])) - before - {"image.ppm", "run", "run/checkpoints"}
        assert not {path for path in new if not path.endswith(".lock")}, f"{command}: {error}"
        _clear(run)
    record_property("commands", len(commands))


def _clear(run: Path) -> None:
    if run.is_dir():
        shutil.rmtree(run)
    else:
        run.unlink(missing_ok=True)


RESUMED = [
    ("--hyper.learning_rate=0.5", "hyper.learning_rate is 0.5, was 0.001"),
    ("--batch_size=32", "config.batch_size is 32, was 64"),
    ("--seed=1", "seed is 1, was 0"),
    ("--model.hidden=9", "model.hidden"),
    ("--data.val_share=0.2", "data.val_share is 0.2, was 0.1"),
    ("--epochs=0", "config.epochs is 0"),
    ("--members=2", "seeds"),
    ("--optimizer.decay=paper", "config.optimizer.decay"),
    ("--data.name=mnist --data.fallback=digits", "data.name"),
    ("--plateau", "config.plateau"),
    ("--data.split_seed=1", "data.split_seed"),
    ("--ema_decay=0.9", "config.ema_decay"),
]


@faults(ci=6, full=len(RESUMED))
def test_a_run_is_resumed_with_what_it_was_begun_with_or_not_at_all(case: int, finished: Path) -> None:
    flag, field = RESUMED[case % len(RESUMED)]
    shutil.copytree(finished, "run")
    before = _state(Path("run"))
    config = ["--config", str(finished / "config.json")] if case % 2 else []
    args = ["--resume", "--workdir", "run", "--epochs=2", *config, *BARE, *flag.split()]
    error = refusal(lambda: script("train", *args))
    assert isinstance(error, RequestError) and field in str(error), error
    assert _state(Path("run")) == before


def _state(run: Path) -> dict[str, bytes]:
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"hidden": 9}, "f32[8], the config wants f32[9]"),
        ({"seed": 1}, "are of seeds [0], this run is of [1]"),
    ],
)
def test_a_checkpoint_of_another_run_is_not_resumed_from(
    finished: Path, tmp_path: Path, other: dict[str, int], said: str
) -> None:
    run = tmp_path / "other"
    trained(run, **other)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(finished / "checkpoints", run / "checkpoints")
    error = refusal(lambda: script("train", "--resume", "--workdir", str(run), "--epochs=2", *BARE))
    assert isinstance(error, RequestError) and said in str(error)


# ---- real processes

_CONFIG = str(ROOT / "configs/digits.py")
PROCESSES: dict[str, tuple[str, list[str], int]] = {
    "nothing": ("train", [], USAGE),
    "typo": ("train", ["--config", _CONFIG, "--hyper.learning_rat=1"], USAGE),
    "config that raises": ("train", ["--config", "raises.py"], USAGE),
    "config without end": ("train", ["--config", "syntax.py", "--help"], USAGE),
    "members of no number": ("train", ["--config", _CONFIG, "--seeds=1,1"], USAGE),
    "config.json of bytes": ("train", ["--config", "garbage.json"], USAGE),
    "data that is damaged": (
        "train",
        ["--config", _CONFIG, "--data.name=npz", "--data.path=garbage.npz", "--workdir", "new"],
        WORLD,
    ),
    "workdir is a file": ("train", ["--config", _CONFIG, "--workdir", "raises.py"], WORLD),
    "no run to evaluate": ("evaluate", ["nowhere"], USAGE),
    "no image to predict": ("predict", ["RUN", "raises.py"], WORLD),
    "no run to report": ("report", ["raises.py"], USAGE),
    "a run against itself": ("compare", ["RUN", "RUN"], USAGE),
    "a search of nothing": ("search", ["--config", _CONFIG], USAGE),
    "a check of nothing": ("check", ["--config", "missing.py"], USAGE),
    "rates with a typo": ("lr_range", ["--config", _CONFIG, "--step", "3"], USAGE),
}


@faults(ci=10, full=len(PROCESSES))
def test_a_process_ends_with_the_status_and_one_message(case: int, finished: Path, tmp_path: Path) -> None:
    _, (name, args, expected) = row_of(PROCESSES, case)
    files = {"raises.py": b"1 / 0", "syntax.py": b"def get_config(:", "garbage.json": b"\xff", "garbage.npz": b"\xff"}
    write(tmp_path / "own", files)
    args = [str(finished) if arg == "RUN" else arg for arg in args]
    status, text = server().script(name, *args, cwd=tmp_path / "own").end()
    assert status == expected, text
    assert text.startswith("error: ") and text.count("\n") == 1 and "Traceback" not in text, text
    left = {path.name for path in (tmp_path / "own").iterdir()} - set(files)
    assert not [name for name in left if not re.fullmatch(r"output-\d+\.txt", name)]
