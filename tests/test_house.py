"""The drawing of the house is true: a file imports only from lower levels, and says in a docstring what it is for."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Bottom to top. A folder is one room, whose files may import one another; a new file is given a level here.
LEVELS = [
    {"types", "errors", "config", "files"},
    {
        "losses",
        "augment",
        "leaves",
        "quiet",
        "events",
        "charts",
        "graph",
        "hparams",
        "fields",
        "device",
        "terminal",
        "scores",
        "trace",
    },
    {"checkpoint", "metrics", "data", "models", "optim", "overrides", "folder", "log", "ensemble", "space"},
    {"tasks", "plots", "configfile", "seeds", "diagnose"},
    {"step", "kernel_ridge"},
    {"probe"},
    {"program", "layout", "look"},
    {"members", "request", "result"},
    {"nonfinite"},
    {"train", "runs", "checks", "overview"},
    {"finish", "finetune"},
    {"gather", "lr_range", "verify"},
    {"job"},
    {"report"},
    {"run", "script"},
    {"search", "tryout"},
    {"__init__"},
]
WORDS = {"types", "errors", "config"}  # what everything speaks, and may import
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FILES = sorted((ROOT / "jaxtrain").rglob("*.py"))
PROGRAMS = sorted(path for folder in ("scripts", "configs", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """jaxtrain/data/arrays.py -> data.arrays; the package's own __init__.py keeps its name."""
    parts = path.relative_to(ROOT / "jaxtrain").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imports_of(path: Path) -> Iterator[str]:
    """Names of the jaxtrain modules that a file imports anywhere in it, without `jaxtrain.`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "jaxtrain" or name.startswith("jaxtrain."):
                yield nearest_module(name.split(".")[1:])


def nearest_module(parts: list[str]) -> str:
    """The longest beginning that is a module: losses.cross_entropy -> losses; of the root itself, __init__."""
    for stop in range(len(parts), 0, -1):
        path = ROOT.joinpath("jaxtrain", *parts[:stop])
        if path.with_suffix(".py").is_file() or path.is_dir():
            return ".".join(parts[:stop])
    return "__init__"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_only_from_lower_levels(path: Path):
    room = room_of(module_of(path))
    assert room in LEVEL, f"{path.name} stands on no level; give it one here and in the README's drawing"
    for imported in map(room_of, imports_of(path)):
        if imported != room and imported not in WORDS:
            assert LEVEL[imported] < LEVEL[room], f"{module_of(path)} imports {imported}, which is not below it"


def test_the_words_import_only_words():
    for word in WORDS:
        assert set(imports_of(ROOT / "jaxtrain" / f"{word}.py")) <= WORDS


def test_imports_have_no_cycle():
    graph = {module_of(path): set(imports_of(path)) for path in FILES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", FILES + PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no module docstring"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_heavy_import_at_module_level(path: Path):
    heavy = {
        "orbax",
        "matplotlib",
        "tensorboardX",
        "PIL",
        "tyro",
        "tensorboard",
        "optuna",
        "scipy",
        "sqlalchemy",
        "jinja2",
    }
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not heavy & {name.partition(".")[0] for name in names}
