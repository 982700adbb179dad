"""The settings of a run as rows: where each stands, its value, its default and its meaning.

Imports config, fields and runs. The fact that surprises: the meaning comes from the source of the config's own classes,
so the report explains a field in the words in which `--help` does.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain.config import DataConfig
from jaxtrain.fields import fields_of, is_instance_of_dataclass
from jaxtrain.result import Run


class Row(NamedTuple):
    """One field."""

    path: str  # hyper.learning_rate
    value: str
    default: str  # "" where there is none
    changed: bool
    meaning: str


def settings(run: Run, described: Mapping[str, Any] | None) -> tuple[Row, ...]:
    """Every field of the network, the data, the config and the hyper-parameters.

    Args:
      run: the run, or one of its members.
      described: what its config.json holds, for the part that a run does not know: where its data came from.
    """
    parts = {"model": run.setting.model.module, "hyper": run.hyper, "config": run.setting.config}
    rows = [row for path, part in parts.items() for row in rows_of(part, path)]
    stored = (described or {}).get("data", {})
    if stored.get("type") == "DataConfig":
        given = {field.name: stored[field.name] for field in dataclasses.fields(DataConfig) if field.name in stored}
        rows += rows_of(DataConfig(**given), "data")
    return tuple(rows)


def rows_of(value: Any, path: str) -> Iterator[Row]:
    """The fields of a dataclass or Linen module, and of the dataclasses in it."""
    defaults = {field.name: _default(field) for field in dataclasses.fields(value)}
    for field in fields_of(value):
        where, given, default = f"{path}.{field.name}", shown(field.value), defaults.get(field.name, "")
        yield Row(where, given, default, given != default, field.meaning)
        if is_instance_of_dataclass(field.value):
            yield from rows_of(field.value, where)


def shown(value: Any) -> str:
    """A value as it stands in a table: numbers short, a part by its class, a function by its name."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and not np.ndim(value):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}"  # hyper-parameters were cast to float32, which has no more digits
    if value is None or isinstance(value, bool | int | str):
        return str(value)
    if isinstance(value, tuple | list):
        return " ".join(map(shown, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {shown(member)}" for name, member in value.items()) or "none"
    return getattr(value, "__name__", type(value).__name__)


def _default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return shown(field.default)
    return shown(field.default_factory()) if field.default_factory is not dataclasses.MISSING else ""
