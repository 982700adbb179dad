"""How bad input is given and how its answer is judged: an error that a user can read, and nothing left behind.

Imports jaxtrain's errors and the tables. The fact that surprises: a script's `main` is called in this process, so that
an error of any other kind reaches the test as what it is.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import bad_files
import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

import jaxtrain as jt
from jaxtrain.config import DataConfig, Experiment
from jaxtrain.data import sources
from jaxtrain.errors import RequestError, WorldError

Row = TypeVar("Row")

ROOT = Path(__file__).resolve().parents[2]
DIGITS = Experiment(jt.MLP(hidden=(8,)), DataConfig(name="digits"), jt.Config(epochs=1, batch_size=64))
BARE = ("--quiet", "--no-report", "--probe_every_steps=None")
LONGEST = 1500
"""Characters of an answer; where data is looked for in several places it lists them."""


def faults(ci: int, full: int) -> pytest.MarkDecorator:
    """A row of the suite's table: they are all of one."""
    return pytest.mark.faults("bad inputs", ci=ci, full=full)


def go_nowhere(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with no data anywhere and no way out; small sets pass for the published ones."""
    (folder / "cwd").mkdir()
    patch.chdir(folder / "cwd")
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.delenv("JAXTRAIN_DATA", raising=False)
    patch.setattr(sources, "download", _no_network)
    bad_files.pass_for_published(patch)


def _no_network(urls: Sequence[str], path: Path, **_: Any) -> None:
    raise WorldError(f"{path.name} could not be downloaded: there is no network here")


def script(name: str, *args: str) -> Any:
    """Run the main of a script, without what it does to the process."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module, path = importlib.util.module_from_spec(spec), sys.path.copy()
    spec.loader.exec_module(module)
    sys.path[:] = path
    vars(module)["prepare"] = lambda **_: None
    return module.main(list(args))


def answer(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the error it raises, if that is one that a user can read."""
    try:
        return call()
    except (RequestError, WorldError) as error:
        assert 10 < len(str(error)) < LONGEST and "Traceback" not in str(error)
        return error


def refusal(call: Callable[[], Any]) -> RequestError | WorldError:
    """The error that `call` raises."""
    found = answer(call)
    assert isinstance(found, RequestError | WorldError), f"accepted: {found!r:.200}"
    return found


def explore(case: int, strategy: st.SearchStrategy[Any], claim: Callable[[Any], None], examples: int) -> None:
    """Hypothesis on a claim; the same for the same case."""
    config = settings(max_examples=examples, database=None, deadline=None, phases=(Phase.generate, Phase.shrink))
    seed(case)(config(given(strategy)(claim)))()


def of_case(case: int) -> np.random.Generator:
    """What draws the bits of a case."""
    return np.random.default_rng((123, case))


def row_of(table: Mapping[str, Row], case: int) -> tuple[str, Row]:
    """A row and its name; the rows are shuffled, so that the few of a quick run are of all sorts."""
    order = np.random.default_rng(123).permutation(len(table))
    return list(table.items())[order[case % len(table)]]


def trained(folder: Path, hidden: int = 8, seed: int = 0) -> Any:
    """A run of a small network on the digits, with nothing that takes long."""
    with pytest.MonkeyPatch.context() as patch:  # as tests/conftest.py has it for each test
        patch.setattr("jaxtrain.log.Logs.wants_looks", False)
        patch.setattr("jaxtrain.job.log_graphs", lambda *_: None)
        model = jt.MLP(hidden=(hidden,))
        return jt.fit(model, DIGITS.data, DIGITS.config, seed=seed, workdir=folder, quiet=True, report=False)
