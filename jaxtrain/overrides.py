"""Overrides of an experiment from the command line: `--hyper.learning_rate=3e-3`, `--config.epochs 3`.

May import `config`, `fields` and `errors`. The fact that surprises: the flags are not fixed, they are the fields of the
experiment that the config file returned, the network's own among them. Those that hold functions are not listed.
"""

import contextlib
import dataclasses
import inspect
import io
import operator
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from jaxtrain.config import Experiment
from jaxtrain.errors import RequestError
from jaxtrain.fields import describe, did_you_mean, fields_of, fits, is_instance_of_dataclass, plain_type, replace_at


@dataclasses.dataclass(frozen=True)
class _Flag:
    """A field that can be given on the command line."""

    path: str  # from the experiment down: config.epochs
    type: Any
    default: Any
    meaning: str


@dataclasses.dataclass(frozen=True)
class _Switch:
    """A part that may be None, as config.plateau."""

    path: str
    part: type


@dataclasses.dataclass
class _Flags:
    """All that can be given. Names are paths without `config.`, so that --epochs is config.epochs."""

    fields: dict[str, _Flag] = dataclasses.field(default_factory=dict)
    groups: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> what its fields are about
    switches: dict[str, _Switch] = dataclasses.field(default_factory=dict)


def parse_overrides(experiment: Experiment, args: list[str], *, prog: str, own_flags: Iterable[str] = ()) -> Experiment:
    """`experiment` with the fields named by `args` replaced.

    Names take hyphens or underscores, with or without a leading `config.`; a later flag wins. A part that may be None
    (plateau, early_stopping) is switched on by its name or by any of its fields, and off by `--plateau=None`.

    Args:
      experiment: what the config file returned.
      args: the command line without the script's own flags.
      prog: name of the script, for the messages.
      own_flags: the script's flags, as "--seed", so that a misspelt one is recognised too.

    Raises:
      RequestError: for an unknown name, with the nearest known one, or a value of the wrong type.
    """
    flags = _flags_of(experiment)
    for given, values in _pairs(args):
        name = _name(given)
        if name in flags.switches and values in ([], ["None"]):
            switch = flags.switches[name]
            experiment = replace_at(experiment, switch.path, None if values else switch.part())
        elif name in flags.fields:
            flag = flags.fields[name]
            experiment = replace_at(_switched_on(experiment, flag, flags), flag.path, _value(given, flag.type, values))
        else:
            raise RequestError(_unknown(given, name, flags, prog, own_flags))
    return experiment


def overrides_help(experiment: Experiment, *, prog: str) -> str:
    """The text of `--help` for every field that can be overridden: name, type, meaning, value in the config file."""
    flags = _flags_of(experiment)
    text = _tyro(_view("", flags), ["--help"], prog=prog)[1]
    return text.partition("\n\n")[2]  # the usage line is the script's


def _switched_on(experiment: Experiment, flag: _Flag, flags: _Flags) -> Experiment:
    """`experiment` with the part that `flag` lies in, if that is None now."""
    switch = flags.switches.get(_name(flag.path.rpartition(".")[0]))
    if switch is None or operator.attrgetter(switch.path)(experiment) is not None:
        return experiment
    return replace_at(experiment, switch.path, switch.part())


def _flags_of(experiment: Experiment) -> _Flags:
    flags = _Flags(groups={"": "Fields of the experiment, as --NAME=VALUE or --config.NAME=VALUE:"})
    _collect(flags, experiment, "")
    return flags


def _collect(flags: _Flags, value: Any, path: str) -> None:
    for field in fields_of(value):
        inner = f"{path}.{field.name}".lstrip(".")
        name, plain, default = _name(inner), plain_type(field.type), _number(field.value)
        part = next((arg for arg in typing.get_args(field.type) if dataclasses.is_dataclass(arg)), None)
        if isinstance(part, type) and fits(field.type, None):
            flags.switches[name] = _Switch(inner, part)
        if isinstance(default, dict):
            numbers = {key: _number(member) for key, member in default.items() if fits(float, _number(member))}
            flags.fields |= {f"{name}.{key}": _Flag(f"{inner}.{key}", float, numbers[key], "") for key in numbers}
            flags.groups[name] = field.meaning
        elif is_instance_of_dataclass(default):
            flags.groups[name] = _first_paragraph(default)
            _collect(flags, default, inner)
        elif name in flags.switches:
            flags.groups[name] = f"Off; --{name} or any of its fields switches it on. {field.meaning}"
            _collect(flags, flags.switches[name].part(), inner)
        elif plain is not None and fits(plain, default):
            flags.fields[name] = _Flag(inner, plain, default, field.meaning)


def _number(value: Any) -> Any:
    """A zero-dimensional array as a Python number, anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def _first_paragraph(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def _name(given: str) -> str:
    """A flag or path as it is listed: underscores, without dashes in front and without `config.`, however often."""
    name = given.removeprefix("--").replace("-", "_")
    while name.startswith("config."):
        name = name.removeprefix("config.")
    return name


def _pairs(args: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(--name, values) in order; a value may follow `=` or stand apart, and may start with a single dash (-1)."""
    starts = [i for i, arg in enumerate(args) if arg.startswith("--")]
    if args and starts[:1] != [0]:
        raise RequestError(f"unexpected argument {args[0]!r}; an override is written --name=value")
    for start, stop in zip(starts, [*starts, len(args)][1:], strict=True):
        name, equals, value = args[start].partition("=")
        yield name, ([value] if equals else []) + args[start + 1 : stop]


def _unknown(given: str, name: str, flags: _Flags, prog: str, own_flags: Iterable[str]) -> str:
    if name and name in flags.groups:
        fields = ", ".join(f"--{field}" for field in flags.fields if field.rpartition(".")[0] == name)
        return f"{given} is a group of fields; {f'give one of them: {fields}' if fields else 'it has none here'}"
    near = did_you_mean(f"--{name}", [*own_flags, *(f"--{field}" for field in flags.fields)])
    return f"unknown key {given!r}{near or f'; see {prog} --help for the fields'}"


def _value(given: str, plain: Any, values: list[str]) -> Any:
    """`values` as the type `plain`, or RequestError."""
    parts = [part for part in (plain, *typing.get_args(plain)) if part is not Ellipsis]
    if values == [] and plain is bool:
        return True
    if not values:
        raise RequestError(f"{given} was given no value; expected {describe(plain)}")
    if not all(map(_is_text, values)):
        raise RequestError(f"{given} is {' '.join(values)!r}, which is no UTF-8; a run cannot record it")
    if len(values) == 1 and any(typing.get_origin(part) is tuple for part in parts):
        values = re.findall(r"[^\s,()\[\]]+", values[0])  # (256, 256) and 256,256 as well as 256 256
    typed = [value.capitalize() for value in values] if bool in parts else values
    # With "=" a value may begin with a dash, as the watched metric '-rmse' does.
    args = [f"--value={typed[0]}"] if len(typed) == 1 else ["--value", *typed]
    parsed, _ = _tyro(dataclasses.make_dataclass("Value", [("value", plain)]), args)
    if parsed is not None:
        return parsed.value
    shown = " ".join(values)
    whole = int in parts and re.fullmatch(r"[+-]?\d+(\.\d*)?e\+?\d\d?|[+-]?\d+\.0*", shown)
    hint = f" (write {float(shown):.0f})" if whole else ""
    raise RequestError(f"{given} is {shown!r}; expected {describe(plain)}{hint}")


def _is_text(value: str) -> bool:
    """Whether it is all characters; bytes that are none arrive from a command line as lone surrogates."""
    return value.encode(errors="replace").decode() == value


def _view(group: str, flags: _Flags) -> type:
    """A dataclass with the fields and groups under `group`, for tyro to describe."""
    import tyro

    members: list[tuple[str, Any, Any]] = []
    for name, flag in flags.fields.items():
        if name.rpartition(".")[0] == group:
            argument = tyro.conf.arg(name=name.rpartition(".")[2], help=flag.meaning)
            members.append(
                (f"f{len(members)}", Annotated[flag.type, argument], dataclasses.field(default=flag.default))
            )
    for name in flags.groups:
        if name and name.rpartition(".")[0] == group and any(field.startswith(f"{name}.") for field in flags.fields):
            inner = _view(name, flags)
            annotated = Annotated[inner, tyro.conf.arg(name=name.rpartition(".")[2])]
            members.append((f"f{len(members)}", annotated, dataclasses.field(default_factory=inner)))
    return dataclasses.make_dataclass("View", members, namespace={"__doc__": flags.groups[group]})


def _tyro(view: type, args: list[str], **options: Any) -> tuple[Any, str]:
    """What tyro makes of `args` (None if it refuses) and what it would have printed."""
    import tyro

    markers = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    printed, parsed = io.StringIO(), None
    # tyro prints refused values even with console_outputs=False, and leaves by SystemExit.
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
        parsed = tyro.cli(view, args=args, config=markers, use_underscores=True, **options)
    return parsed, printed.getvalue()
