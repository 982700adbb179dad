"""Experiments from files and to JSON: a config file is Python and is executed, a run's config.json never is.

May import `config`, `fields`, `models` and `space`. The fact that surprises: a config file is compiled here
and not imported, so that nothing is written beside it; it is in `sys.modules` all the same, where dataclasses look for
the names in their annotations.
"""

import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxtrain.config import Adam, Augment, Config, DataConfig, EarlyStopping, Experiment, Muon, Plateau, Schedule, Sgd
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.fields import (
    check_types,
    describe,
    did_you_mean,
    field_names,
    fields_of,
    fits,
    is_instance_of_dataclass,
)
from jaxtrain.models import CNN, MLP, Airbench, Linear, ResNet
from jaxtrain.space import Search
from jaxtrain.types import Hyper, Model


def load_config(reference: str) -> Experiment:
    """The experiment that a file describes. Only name Python files that you trust: they are executed.

    Args:
      reference: "configs/mnist.py", "configs/mnist.py:cnn" for get_config("cnn"), or the config.json of a run.

    Raises:
      RequestError: for a missing file, a file that raises (with its line), an unknown variant, or another result.
      WorldError: for a file that cannot be read.
    """
    returned = _load(reference)
    if isinstance(returned, Search):
        raise RequestError(f"{reference} describes a search; run it with scripts/search.py --config {reference}")
    if not isinstance(returned, Experiment):
        raise RequestError(f"{reference}: get_config returned {returned!r:.60}; expected an Experiment")
    _check(returned)
    return returned


def load_search(reference: str) -> Search:
    """The search that a config file describes: its get_config returns a Search. Otherwise as `load_config`."""
    returned = _load(reference)
    if isinstance(returned, Experiment):
        raise RequestError(f"{reference} describes one experiment; a search is Search(experiment, space)")
    if not isinstance(returned, Search) or not isinstance(returned.experiment, Experiment):
        raise RequestError(f"{reference}: get_config returned {returned!r:.60}; expected Search(experiment, space)")
    _check(returned.experiment)
    return returned


def _load(reference: str) -> Any:
    """What a config file returns, or a run's config.json holds, as it is."""
    name, _, variant = reference.partition(".py:")
    path = Path(f"{name}.py" if variant else reference.removesuffix(":"))
    if not os.path.isfile(path):
        raise RequestError(f"config file {str(path)!r} {_missing(path)}")
    if path.suffix == ".json":
        return _load_json(path)
    if path.suffix != ".py":
        raise RequestError(f"config file {str(path)!r} is neither a .py file nor the config.json of a run")
    return _call_get_config(path, variant)


def to_json(experiment: Experiment) -> dict[str, Any]:
    """`experiment` as JSON values: each dataclass as {"type": name, ...fields}, tuples as lists, floats exactly.

    What is not part of jaxtrain (a user's network, an optimizer function) is only named: {"type": "user", ...}.
    """
    return encode(experiment)


def encode(value: Any) -> Any:
    """Any part of an experiment as `to_json` writes it."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0:
        return value.item()
    if isinstance(value, tuple | list):
        return [encode(member) for member in value]
    if isinstance(value, Mapping):
        return {name: encode(member) for name, member in value.items()}
    if type(value) in _shipped().values():
        return {"type": type(value).__name__} | {field.name: encode(field.value) for field in fields_of(value)}
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    encoded: dict[str, Any] = {"type": "user", "name": f"{named.__module__}:{named.__qualname__}"}
    if is_instance_of_dataclass(value):
        # Not enough to rebuild it, but enough to see that two runs differ.
        encoded["fields"] = {field.name: encode(field.value) for field in fields_of(value)}
    return encoded


def from_json(value: Any, *, model: Any = None, optimizer: Any = None, schedule: Any = None) -> Experiment:
    """The experiment that `to_json` wrote; nothing is imported or executed on its behalf.

    Args:
      value: what `to_json` returned.
      model, optimizer, schedule: stand for what the JSON can only name.

    Raises:
      RequestError: for an unknown or missing key, a wrong type, or a part that is only named and was not passed.
    """
    passed = {"model": model, "config.optimizer": optimizer, "config.schedule": schedule}
    if not isinstance(value, Mapping) or value.get("type") != "Experiment":
        raise RequestError('this JSON is no experiment; expected the config.json of a run, {"type": "Experiment", ...}')
    experiment = _decode(value, "", passed)
    _check(experiment)
    return experiment


def _shipped() -> dict[str, type]:
    """The closed table of what JSON can rebuild."""
    parts = (Experiment, DataConfig, Config, Schedule, Adam, Sgd, Muon, Augment, Plateau, EarlyStopping, Hyper, Model)
    return {cls.__name__: cls for cls in (*parts, Linear, MLP, CNN, ResNet, Airbench)}


def _missing(path: Path) -> str:
    if os.path.isdir(path):
        return "is a folder; name the config.json in it" if (path / "config.json").is_file() else "is a folder"
    if not os.path.isdir(path.parent):
        return f"is missing; there is no folder {str(path.parent)!r}"
    try:
        present = [str(other) for other in path.parent.iterdir() if other.suffix in (".py", ".json")]
    except OSError:  # a folder that may not be listed
        present = []
    return "is missing" + did_you_mean(str(path), present)


def _call_get_config(path: Path, variant: str) -> Any:
    get_config = getattr(_execute(path), "get_config", None)
    if not callable(get_config):
        raise RequestError(f"{path} defines no get_config; expected def get_config(variant='') -> Experiment")
    takes_variant = bool(_run(path, "get_config", lambda: inspect.signature(get_config).parameters))
    if variant and not takes_variant:
        raise RequestError(f"{path} has no variants: its get_config takes no argument, but {variant!r} was asked for")
    args = (variant,) if takes_variant else ()
    return _run(path, f"get_config({variant!r})" if variant else "get_config", lambda: get_config(*args))


def _execute(path: Path) -> ModuleType:
    """The config file as a module; no .pyc is written."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise WorldError(f"config file {str(path)!r} cannot be read: {error.strerror}") from None
    module = ModuleType(f"jaxtrain_config_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    _run(path, "the file", lambda: exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__))
    return module


def _run(path: Path, what: str, call: Callable[[], Any]) -> Any:
    """`call()`, with whatever the user's code raises as one sentence: its line, its type, its text."""
    try:
        return call()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines = [error.lineno]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        text = error.msg if isinstance(error, SyntaxError) and lines else " ".join(str(error).split())
        raise RequestError(f"{where}: {what} raised {type(error).__name__}{text and f': {text}'}") from error


def _check(experiment: Experiment) -> None:
    """Raise RequestError for values that the annotations refuse. A user's network is the user's business."""
    model = experiment.model
    if isinstance(model, type):
        raise RequestError(f"model is the class {model.__name__}; expected an instance, {model.__name__}()")
    if not isinstance(model, nn.Module | Model) and not callable(getattr(model, "make", None)):
        raise RequestError(f"model is {model!r:.60}; expected a Linen module or a frozen dataclass with make()")
    ours = type(model) in _shipped().values()
    for name in ("data", "config", "hyper") + (("model",) if ours else ()):
        part = getattr(experiment, name)
        expected = {"data": DataConfig, "config": Config, "hyper": Hyper}.get(name, object)
        if not isinstance(part, expected):
            raise RequestError(f"{name} is {part!r:.60}; expected {expected.__name__}(...)")
        check_types(part, name)
    for field in fields_of(experiment):
        if field.name in ("seed", "seeds", "parallel") and not fits(field.type, field.value):
            raise RequestError(f"{field.name} is {field.value!r:.60}; expected {describe(field.type)}")


def _load_json(path: Path) -> Experiment:
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise WorldError(f"config file {str(path)!r} cannot be read: {error.strerror}") from None
    except RequestError as error:  # a ValueError too
        raise RequestError(f"{path}: {error}") from None
    except RecursionError:
        raise RequestError(f"config file {str(path)!r} is nested too deep to be the config.json of a run") from None
    except ValueError as error:
        raise RequestError(f"config file {str(path)!r} is no JSON: {error}") from None


def _decode(value: Any, path: str, passed: dict[str, Any]) -> Any:
    if passed.get(path) is not None:
        return passed[path]
    if isinstance(value, list):
        return tuple(_decode(member, path, passed) for member in value)
    if not isinstance(value, Mapping):
        return value
    if not isinstance(value.get("type"), str):
        return dict(value)  # Hyper.extra
    if value["type"] == "user":
        name, keyword = str(value.get("name")), path.rpartition(".")[2]
        example = f"{keyword}={name.rpartition(':')[2]}{'()' if keyword == 'model' else ''}"
        raise RequestError(
            f"{path} is {name!r}, which is not part of jaxtrain and is only named here;"
            f" pass it, as in load_run(folder, {example}); a script takes the config file that has it, with --config"
        )
    return _rebuild(value, path, passed)


def _rebuild(value: Mapping[str, Any], path: str, passed: dict[str, Any]) -> Any:
    shipped = _shipped()
    if (path, value["type"]) == ("data", "arrays"):
        raise RequestError("the run's data was given as arrays, which JSON does not hold; repeat it with fit(...)")
    if value["type"] not in shipped:
        raise RequestError(f"{path}: unknown type {value['type']!r}{did_you_mean(value['type'], shipped)}")
    cls = shipped[value["type"]]
    known = field_names(cls)
    given = {name: member for name, member in value.items() if name != "type"}
    for name in given.keys() - set(known):
        raise RequestError(f"{_join(path, name)}: {cls.__name__} has no such field{did_you_mean(name, known)}")
    for name in known:
        if name not in given:
            raise RequestError(f"{_join(path, name)} is missing; expected every field of {cls.__name__}")
    return cls(**{name: _decode(member, _join(path, name), passed) for name, member in given.items()})


def _join(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")
