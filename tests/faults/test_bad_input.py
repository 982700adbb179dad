"""What is wrong with a config file, a flag or a config.json is one error that says so, and nothing is left behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_answers import BARE, DIGITS, ROOT, answer, explore, faults, go_nowhere, of_case, refusal, row_of, script
from bad_files import all_names, mishap
from bad_requests import CONFIG_FILES, FLAGS, HEADER, JSON_VALUES, LONG, NAMES, NO_JSON, VALUES
from hypothesis import strategies as st

import jaxtrain as jt
from jaxtrain.config import Experiment
from jaxtrain.configfile import from_json, load_config, to_json
from jaxtrain.errors import RequestError
from jaxtrain.fields import fields_of
from jaxtrain.overrides import parse_overrides
from jaxtrain.request import check_values


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_nowhere(tmp_path, monkeypatch)


@faults(ci=24, full=len(CONFIG_FILES))
def test_a_bad_config_file_is_one_error_with_its_place(case: int) -> None:
    _, (text, expected) = row_of(CONFIG_FILES, case)
    Path("bad.py").write_text(HEADER + text)
    error = refusal(lambda: script("train", "--config", "bad.py", "--workdir", "run", *BARE))
    assert isinstance(error, RequestError) and expected in str(error), error
    assert all_names([Path()]) == ["bad.py"]


@pytest.mark.parametrize("reference", ["bad.py:cnn", "bad.py:", "missing.py", "bad.txt", ".", LONG, "\0", ""])
def test_a_config_file_that_is_none_is_refused(reference: str) -> None:
    Path("bad.py").write_text(HEADER + "def get_config():\n    return None")
    Path("bad.txt").write_text("")
    refusal(lambda: load_config(reference))


@faults(ci=30, full=len(FLAGS))
def test_a_bad_flag_is_one_error_that_names_it(case: int) -> None:
    flags, (status, expected) = row_of(FLAGS, case)
    Path("file").write_text("")
    workdir = [] if flags.startswith("--workdir") else ["--workdir", "run"]
    args = ["--config", str(ROOT / "configs/digits.py"), "--model.hidden", "8", "--epochs=1", *BARE, *workdir]
    error = refusal(lambda: script("train", *args, *flags.split(" ")))
    assert error.exit_status == status and expected in str(error), error
    assert all_names([Path()]) == ["file"]


@faults(ci=4, full=40)
def test_any_text_is_a_value_of_its_field_or_an_error(case: int) -> None:
    names = [f"hyper.{f.name}" for f in fields_of(DIGITS.hyper)] + [f.name for f in fields_of(DIGITS.config)]
    names += [f"data.{f.name}" for f in fields_of(DIGITS.data)] + ["seed", "model.hidden", "schedule.period", "nothing"]
    value = st.one_of(st.sampled_from(VALUES), st.floats().map(str), st.integers().map(str), st.text(max_size=8))
    flag = st.tuples(st.sampled_from(names), st.sampled_from(["", "x", "_", "."]), value)

    def claim(given: tuple[str, str, str]) -> None:
        name, typo, text = given
        found = answer(lambda: parse_overrides(DIGITS, [f"--{name}{typo}={text}"], prog="train.py"))
        if isinstance(found, RequestError):
            return
        changed = set(_flat(to_json(found)).items()) ^ set(_flat(to_json(DIGITS)).items())
        assert typo == "" and {path.removeprefix("config.") for path, _ in changed} <= {name, f"{name}.type"}
        checked = answer(lambda: check_values(found.config, found.hyper))
        assert checked is None or name.rpartition(".")[2] in str(checked)

    explore(case, flag, claim, 10)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in _flat(part, f"{path}.{name}".lstrip(".")).items()}
    return {path: repr(value)}


@faults(ci=6, full=80)
def test_a_changed_config_json_is_the_same_experiment_or_an_error(case: int, record_property: Any) -> None:
    random, good = of_case(case), to_json(DIGITS)
    text, refused = json.dumps(good, indent=2).encode(), 0
    for number in range(48):
        changed = _changed(good, random) if number % 3 else mishap(text, random)[1]
        changed = NO_JSON[number // 3 % len(NO_JSON)] if number % 12 == 0 else changed
        Path("config.json").write_bytes(changed)
        found = answer(lambda: _loaded_and_checked("config.json"))
        refused += isinstance(found, RequestError)
        if isinstance(found, Experiment):  # it says what it holds
            assert from_json(json.loads(json.dumps(to_json(found)))) == found
    record_property("changed", 48)
    record_property("refused", refused)
    assert refused > 24


def _loaded_and_checked(reference: str) -> Experiment:
    experiment = load_config(reference)
    check_values(experiment.config, experiment.hyper)
    return experiment


def _changed(good: Any, random: np.random.Generator) -> bytes:
    """The JSON with a value replaced, removed, renamed or added."""
    value = json.loads(json.dumps(good))
    places = list(_places(value))
    holder, key = places[int(random.integers(len(places)))]
    what = int(random.integers(4))
    if what == 0 or isinstance(holder, list):
        holder[key] = JSON_VALUES[int(random.integers(len(JSON_VALUES)))]
    elif what == 1:
        del holder[key]
    elif what == 2:
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder["more"] = JSON_VALUES[int(random.integers(len(JSON_VALUES)))]
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    before = all_names([tmp_path])
    error = refusal(lambda: jt.fit(DIGITS.model, DIGITS.data, DIGITS.config, name=name, quiet=True))
    assert isinstance(error, RequestError) and all_names([tmp_path]) == before
