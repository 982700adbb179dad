"""What a search varies: hyper-parameters and static choices, each with its range, and the plan of the search.

Imports config, fields and errors. The fact that surprises: a name decides what a trial costs. A field of `hyper` is
traced, so any number of its values share one compiled program; each value of anything else is a program of its own.

References:
  Bergstra & Bengio, Random Search for Hyper-Parameter Optimization, 2012, https://jmlr.org/papers/v13/bergstra12a.html
  Karpathy et al., CS231n, Hyperparameter optimization, https://cs231n.github.io/neural-networks-3/#hyper
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax

from jaxtrain.config import Experiment, check_config, check_hyper
from jaxtrain.errors import RequestError
from jaxtrain.fields import (
    check_types,
    describe,
    did_you_mean,
    field_names,
    fields_of,
    fits,
    is_instance_of_dataclass,
    replace_at,
)

SamplerName = Literal["random", "tpe", "qmc"]


@dataclass(frozen=True)
class Range:
    """A number drawn uniformly between two ends, or uniformly in its logarithm."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Draw the logarithm: right for what works by factors, as rates and penalties do."""
    integer: bool = False
    """Whole numbers only."""

    def unit(self, value: float) -> float:
        """Where `value` lies between the ends, 0 to 1, on the scale on which it is drawn."""
        low, high, at = map(self._scaled, (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5

    def at(self, unit: float) -> float:
        """The value at `unit`; beyond the ends where `unit` lies outside [0, 1]."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        value = low + unit * (high - low)
        value = math.exp(value) if self.log else value
        return round(value) if self.integer else value

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value


@dataclass(frozen=True)
class Choice:
    """One of several values, all equally likely."""

    values: Sequence[Any]
    """The values: numbers, words, tuples, or parts of a config such as Schedule(...)."""

    def labels(self) -> list[Any]:
        """What stands for each value in storage, tables and plots: itself if it is a plain value, else its name."""
        return [label(value) for value in self.values]

    def value(self, of: Any) -> Any:
        """The value that a label stands for; 1, 1.0 and True are three labels."""
        return next(value for value in self.values if repr(label(value)) == repr(of))


@dataclass(frozen=True)
class Halving:
    """Successive halving: at each rung the best go on and the others end.

    References:
      Jamieson & Talwalkar, Non-stochastic Best Arm Identification, 2016, https://arxiv.org/abs/1502.07943
    """

    eta: int = 3
    """One trial in so many goes on at a rung, and the next rung is so many times as far."""
    min_epochs: int = 1
    """The first rung, in epochs."""


@dataclass(frozen=True)
class Search:
    """What a config file of a search returns."""

    experiment: Experiment
    """The experiment that trials vary."""
    space: Mapping[str, Range | Choice]
    """Names as on the command line, "hyper.learning_rate" or "batch_size", and what each is drawn from."""
    trials: int = 60
    """Trials in all. The best of 60 random ones is in the best 5 % of the space with probability 1 - 0.95^60 = 95 %."""
    seed: int = 0
    """Of the draws. The draws of trial n depend on this and on n alone, whoever makes them (sampler random)."""
    sampler: SamplerName | Callable[[int], Any] = "random"
    """Which of Optuna's samplers draws: one of these, or a function from a seed to any other."""
    halving: Halving | None = None
    """Successive halving, or None: every trial is trained to its end."""
    round_size: int | None = None
    """Trials that a worker asks for and trains together; None: see `default_round`."""
    keep: int = 5
    """Trials, the best ones, whose weights are kept as run folders."""
    winner_seeds: int = 5
    """Seeds over which the best trial is trained again and scored on the test split; 0: not at all."""


class Found(NamedTuple):
    """A field that a name of the space stands for."""

    path: str  # from the experiment down: config.batch_size
    type: Any  # its annotation
    value: Any


_LUCK = "a seed is luck and no choice; the winner is trained over several seeds"
_JUDGE = "it decides how trials are judged, and they must be judged alike"
_SAME = "it changes the time a run takes, not its result"
_EXAMPLES = "trials on other examples cannot be compared; of the data only its preparation can be searched"
NOT_SEARCHED = {
    **dict.fromkeys(["seed", "seeds"], _LUCK),
    **dict.fromkeys(["config.watch", "config.final", "config.eval_every_epochs", "config.train_eval_examples"], _JUDGE),
    **dict.fromkeys(["parallel", "config.eval_batch_size", "config.stream", "config.max_chunk_seconds"], _SAME),
    **dict.fromkeys(["config.log_every_steps", "config.checkpoint_every_seconds", "config.keep_checkpoints"], _SAME),
    **dict.fromkeys([f"data.{name}" for name in ("name", "dir", "path", "download", "fallback")], _EXAMPLES),
    **dict.fromkeys(["data", "data.val_share", "data.split_seed"], _EXAMPLES),
    **dict.fromkeys(["config", "hyper"], "it is a group; name the fields in it"),
}


def label(value: Any) -> Any:
    """A plain value as it is; anything else as a short text: Schedule(kind='linear'), (256, 256)."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_instance_of_dataclass(value):
        changed = [name for name in field_names(type(value)) if not _is_default(value, name)]
        return f"{type(value).__name__}({', '.join(f'{name}={getattr(value, name)!r}' for name in changed)})"
    return getattr(value, "__name__", None) or repr(value)


def short_name(path: str) -> str:
    """The name of a field on the command line: config.batch_size is batch_size."""
    return path.removeprefix("config.")


def path_of(name: str) -> str:
    """The path from the experiment down of a name, which may leave `config.` out."""
    return name if name.partition(".")[0] in field_names(Experiment) else f"config.{name}"


def find(experiment: Experiment, name: str) -> Found:
    """The field that `name` stands for, with or without `config.` before it.

    Raises:
      RequestError: for an unknown name, with the nearest known one.
    """
    path, value = path_of(name), experiment
    hint: Any = Experiment
    for part in path.split("."):
        if isinstance(value, Mapping):
            members = {key: (float, member) for key, member in value.items()}
        elif is_instance_of_dataclass(value):
            members = {field.name: (field.type, field.value) for field in fields_of(value)}
        else:
            members = {}
        if part not in members:
            raise RequestError(f"space[{name!r}]: the experiment has no such field{_hint(experiment, name, path)}")
        hint, value = members[part]
    return Found(path, hint, value)


def with_values(search: Search, drawn: Mapping[str, Any]) -> Experiment:
    """The experiment of a trial.

    Args:
      search: as `check_search` returns it.
      drawn: name -> number, or the label of a choice.
    """
    experiment = search.experiment
    for name, value in drawn.items():
        member = search.space[name]
        new = member.value(value) if isinstance(member, Choice) else value
        experiment = replace_at(experiment, path_of(name), new)
    return experiment


def program_key(experiment: Experiment) -> Hashable:
    """Equal for experiments that one compiled program serves: equal in all but the numbers in `hyper` and the seed."""
    return experiment.model, experiment.data, experiment.config, jax.tree.structure(experiment.hyper)


def is_static(search: Search, name: str) -> bool:
    """Whether each value of `name` compiles a program of its own."""
    member = search.space[name]
    drawn_none = isinstance(member, Choice) and any(value is None for value in member.values)
    return drawn_none or not path_of(name).startswith("hyper.")


def num_static(search: Search) -> float:
    """Combinations of static choices; infinite where one is a Range of floats."""
    return math.prod(_num_values(search.space[name]) for name in search.space if is_static(search, name))


def default_round(search: Search) -> int:
    """Trials that a worker trains together: 16 a static combination, but no more than a quarter of all.

    More would leave the other workers without work and lose more where a worker is killed. Halving compares the trials
    of a round, so it gets at least those for three rungs.
    """
    size = min(16 * num_static(search), max(16, search.trials // 4))
    if search.halving is not None:
        size = max(size, search.halving.eta**3)
    return int(min(size, search.trials))


def check_search(search: Search) -> Search:
    """`search` with each name of its space in the one form that results use: short, `batch_size`.

    Raises:
      RequestError: for the first thing in it that cannot be. The data is looked at elsewhere.
    """
    for name, least in (("trials", 1), ("keep", 0), ("winner_seeds", 0), ("round_size", 1)):
        number = getattr(search, name)
        if number is not None and (not fits(int, number) or number < least):
            raise RequestError(f"{name} is {number!r}; it must be a whole number, at least {least}")
    known = get_args(SamplerName)
    if not callable(search.sampler) and search.sampler not in known:
        near = did_you_mean(str(search.sampler), known)
        raise RequestError(f"sampler is {search.sampler!r}; expected {', '.join(known)}, or a function of a seed{near}")
    if search.experiment.seeds is not None:
        raise RequestError("the experiment names several seeds, but a trial has one; leave them out (see winner_seeds)")
    search = dataclasses.replace(search, space=_short_names(search))
    _check_halving(search)
    for name, member in search.space.items():
        _check_member(search, name, member)
    return search


def reaches(search: Search, name: str, value: float) -> bool:
    """Whether the field may have this value at all: a dropout rate below 0 may not."""
    try:
        _check_value(search, name, find(search.experiment, name), value)
    except RequestError:
        return False
    return True


def _short_names(search: Search) -> dict[str, Range | Choice]:
    example = "{'hyper.learning_rate': Range(1e-4, 1e-1, log=True)}"
    if not isinstance(search.space, Mapping) or not search.space:
        raise RequestError(f"space is {search.space!r:.60}, nothing to search; give for example {example}")
    space: dict[str, Range | Choice] = {}
    for name, member in search.space.items():
        short = short_name(find(search.experiment, name).path)
        for other in space:
            if f"{short}.".startswith(f"{other}.") or f"{other}.".startswith(f"{short}."):
                raise RequestError(f"space[{name!r}] and space[{other!r}] are one field, or one holds the other")
        space[short] = member
    return space


def _check_halving(search: Search) -> None:
    halving, epochs = search.halving, search.experiment.config.epochs
    if halving is None:
        return
    if not fits(int, halving.eta) or halving.eta < 2:
        raise RequestError(f"halving.eta is {halving.eta!r}; it must be a whole number, at least 2")
    if not fits(int, halving.min_epochs) or not 1 <= halving.min_epochs < epochs:
        raise RequestError(
            f"halving.min_epochs is {halving.min_epochs!r}; the first rung must lie in 1..{epochs - 1}, before the end"
        )
    if "epochs" in search.space:
        raise RequestError("epochs is what halving shares out, so it cannot be searched too; leave out one of them")


def _check_member(search: Search, name: str, member: Any) -> None:
    found = find(search.experiment, name)
    if found.path in NOT_SEARCHED:
        raise RequestError(f"space[{name!r}] cannot be searched: {NOT_SEARCHED[found.path]}")
    if isinstance(member, Range):
        _check_range(name, member)
        values: list[Any] = [int(end) if member.integer else float(end) for end in (member.low, member.high)]
    elif isinstance(member, Choice):
        values = _checked_values(name, member)
    else:
        raise RequestError(f"space[{name!r}] is {member!r:.60}; expected Range(low, high) or Choice((a, b))")
    for value in values:
        _check_value(search, name, found, value)


def _check_range(name: str, member: Range) -> None:
    for end in ("low", "high"):
        value = getattr(member, end)
        if not fits(float, value) or not math.isfinite(value):
            raise RequestError(f"space[{name!r}]: {end} is {value!r}; it must be a finite number")
        if member.integer and value != int(value):
            raise RequestError(f"space[{name!r}]: {end} is {value!r}; a range of whole numbers needs whole ends")
    if member.low > member.high:
        raise RequestError(f"space[{name!r}]: low {member.low:g} is larger than high {member.high:g}; exchange them")
    if member.log and not member.low > 0:
        raise RequestError(
            f"space[{name!r}]: low is {member.low:g}, and a logarithm needs more than 0; raise it, or leave out log"
        )


def _checked_values(name: str, member: Choice) -> list[Any]:
    if isinstance(member.values, str) or not isinstance(member.values, Sequence) or not member.values:
        raise RequestError(f"space[{name!r}]: values are {member.values!r}; expected a tuple of one or more")
    labels = [repr(entry) for entry in member.labels()]
    double = next((entry for entry in labels if labels.count(entry) > 1), None)
    if double is not None:
        raise RequestError(f"space[{name!r}]: two values are called {double}; leave one out, or give it another name")
    return list(member.values)


def _check_value(search: Search, name: str, found: Found, value: Any) -> None:
    """Raise RequestError if the field cannot have `value`, by its type or by its range."""
    if not fits(found.type, value):
        hint = " (integer=True gives whole numbers)" if fits(found.type, 1) and isinstance(value, float) else ""
        raise RequestError(f"space[{name!r}] holds {value!r:.60}; expected {describe(found.type)}{hint}")
    experiment = replace_at(search.experiment, found.path, value)
    try:
        check_types(experiment.config, "config")
        check_types(experiment.hyper, "hyper")
        check_types(experiment.data, "data")
        check_config(experiment.config)
        check_hyper(experiment.hyper)
    except RequestError as error:
        raise RequestError(f"space[{name!r}]: {error}") from None


def _num_values(member: Range | Choice) -> float:
    if isinstance(member, Choice):
        return len(member.values)
    return member.high - member.low + 1 if member.integer else math.inf


def _is_default(value: Any, name: str) -> bool:
    """Whether a field has the value that it would have if left out."""
    parameters = inspect.signature(type(value)).parameters
    return name in parameters and parameters[name].default == getattr(value, name)


def _hint(experiment: Experiment, name: str, path: str) -> str:
    """The end of the message about an unknown name."""
    parts = path.split(".")
    for stop in range(1, len(parts)):
        if functools.reduce(lambda value, part: getattr(value, part, ...), parts[:stop], experiment) is None:
            part = ".".join(parts[:stop])
            return f": {part} is None; give it a value in the experiment, or search {short_name(part)} as a Choice"
    return did_you_mean(name, list(_names(experiment, "")))


def _names(value: Any, path: str) -> Iterator[str]:
    """The names of all fields, as on the command line."""
    for field in fields_of(value):
        inner = f"{path}.{field.name}".lstrip(".")
        yield short_name(inner)
        if is_instance_of_dataclass(field.value):
            yield from _names(field.value, inner)
        elif isinstance(field.value, Mapping):
            yield from (f"{inner}.{key}" for key in field.value)
