"""Fields of frozen dataclasses and Linen modules: their types, meanings and values, read and replaced by dotted path.

Imports nothing of jaxtrain but `errors`. The fact that surprises: a field's meaning is its line under `Attributes:`,
or the string below it, which is read from the source of its class, for Python keeps no docstring of a field.
"""

import ast
import collections.abc
import dataclasses
import difflib
import functools
import inspect
import itertools
import operator
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Union

import flax.linen as nn
import jax
import numpy as np

from jaxtrain.errors import RequestError

SCALARS = (int, float, bool, str, type(None))


class Field(NamedTuple):
    """One field of a dataclass instance."""

    name: str
    type: Any  # its annotation, resolved; Any where that fails
    value: Any
    meaning: str  # the string below it, or ""


def fields_of(value: Any) -> Iterator[Field]:
    """The fields of a dataclass or Linen module, in order."""
    try:
        hints = typing.get_type_hints(type(value))
    except NameError:  # a user's annotation that only a type checker can see
        hints = {}
    meanings = _meanings(type(value))
    for name in field_names(type(value)):
        yield Field(name, hints.get(name, Any), getattr(value, name), meanings.get(name, ""))


def field_names(cls: type) -> list[str]:
    """Names of the fields that a caller of `cls` can set (a module's parent and name are Flax's own)."""
    hidden = {"parent", "name"} if issubclass(cls, nn.Module) else set()
    return [field.name for field in dataclasses.fields(cls) if field.init and field.name not in hidden]


def is_instance_of_dataclass(value: Any) -> bool:
    """Whether `value` has fields: an instance of a dataclass or a Linen module, not the class itself."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def replace_at(value: Any, path: str, new: Any) -> Any:
    """`value` with the field at the dotted `path` replaced, all else as it was."""
    name, _, rest = path.partition(".")
    if isinstance(value, Mapping):
        return {**value, name: new}
    if rest:
        new = replace_at(getattr(value, name), rest, new)
    if isinstance(value, nn.Module):
        return value.clone(**{name: new})
    return dataclasses.replace(value, **{name: new})


def check_types(value: Any, path: str) -> None:
    """Raise RequestError for the first field of `value`, or of the dataclasses in it, that its annotation refuses."""
    for field in fields_of(value):
        where = f"{path}.{field.name}"
        if not fits(field.type, field.value):
            given = f"{field.value!r} ({type(field.value).__name__})"
            raise RequestError(f"{where} is {given}; expected {describe(field.type)}")
        if is_instance_of_dataclass(field.value):
            check_types(field.value, where)


def fits(hint: Any, value: Any) -> bool:
    """Whether `value` is what the annotation says: True is no int, an int is a float, a list is no tuple."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(arg, value) for arg in args)
    if origin is Literal:
        return any(type(arg) is type(value) and arg == value for arg in args)
    if origin is tuple:
        members = args[:1] * len(value) if isinstance(value, tuple) and args[1:] == (...,) else args
        return isinstance(value, tuple) and len(members) == len(value) and all(map(fits, members, value))
    if origin is collections.abc.Mapping:
        return isinstance(value, Mapping) and all(fits(args[0], k) and fits(args[1], v) for k, v in value.items())
    if origin is collections.abc.Callable:
        return callable(value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is jax.Array:
        return isinstance(value, jax.Array | np.ndarray | np.generic)
    if isinstance(hint, type):
        return isinstance(value, hint) and (hint is not int or not isinstance(value, bool))
    return True


def plain_type(hint: Any) -> Any:
    """The part of an annotation that can be typed on a command line, sequences as tuples; None where nothing can."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in SCALARS or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        plain = [part for part in map(plain_type, args) if part is not None]
        return functools.reduce(operator.or_, plain) if set(plain) - {type(None)} else None
    if origin is tuple and args and args[1:] != (...,):
        members = tuple(map(plain_type, args))
        return None if None in members else tuple[members]
    if origin in (tuple, list, collections.abc.Sequence) and args:
        member = plain_type(args[0])
        return None if member is None else tuple[member, ...]
    return None


def describe(hint: Any) -> str:
    """An annotation in words, for a message: "int or None", "one of 'lr', 'paper'", "a tuple of str"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(arg) for arg in args if arg is not jax.Array))
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(repr, args))
    if origin is tuple:
        return f"a tuple of {describe(args[0])}"
    if origin is collections.abc.Mapping:
        return f"a dict of {describe(args[0])} to {describe(args[1])}"
    if origin is collections.abc.Callable:
        return "a function"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `name`: the nearest known one, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _meanings(cls: type) -> dict[str, str]:
    """Field name -> its line under `Attributes:` in the class's docstring, or the string below it."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base) and base is not nn.Module:
            meanings |= _attributes_section(base.__doc__ or "") | _strings_below(base)
    return {name: " ".join(meaning.split()) for name, meaning in meanings.items()}


def _attributes_section(docstring: str) -> dict[str, str]:
    section = re.search(r"^Attributes:\n((?: +.*(?:\n|$))+)", inspect.cleandoc(docstring), re.MULTILINE)
    return dict(re.findall(r"^  (\w+): (.*(?:\n   +.*)*)", section[1], re.MULTILINE)) if section else {}


def _strings_below(cls: type) -> dict[str, str]:
    """Empty for classes without source, as those typed into a notebook may be."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = next((node.body for node in tree.body if isinstance(node, ast.ClassDef)), [])
    return {
        field.target.id: str(below.value.value)
        for field, below in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }
