"""What a pickle of plain things holds: containers, numbers, text, and arrays of bytes.

Imports nothing of jaxtrain but `errors`. CIFAR-10's python version is a pickle, and those are programs. The surprise:
no unpickler runs here, not even a restricted one, for a damaged byte can make the standard one reserve all the memory
there is. Its instructions are read as data, the dozen harmless ones are followed, and any other is refused. What they
make is never hashed or shown as a whole: sixty pairs, each of the pair before it twice, are 2^60 things.
"""

import pickletools
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.errors import WorldError

MOST_INSTRUCTIONS = 1 << 18
"""Each of one byte can make a list of 56. A published batch has 30,098, three for each of its examples."""


def read_plain_pickle(path: Path, content: bytes) -> Any:
    """The object pickled in `content`; byte strings of Python 2 stay bytes, arrays are u8.

    Raises:
      WorldError: for a pickle that holds anything else or is damaged; `path` is named in it.
    """
    machine = _Machine()
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
            if count == MOST_INSTRUCTIONS:
                raise _NotPlain(f"more than {MOST_INSTRUCTIONS} instructions")
            machine.follow(instruction.name, argument)
        return _plain(machine.stack.pop())
    except (_NotPlain, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise WorldError(f"{path} is no plain pickle, or damaged ({error}); fetch it again") from None


class _NotPlain(Exception):
    """An instruction that plain things do not need."""


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names; nothing is ever imported by it."""

    text: str


@dataclass
class _Array:
    """An array, made empty first and filled afterwards, as pickles do."""

    value: np.ndarray | None = None


RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")
BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8")
OLD_BYTES = ("SHORT_BINSTRING", "BINSTRING")
TEXT = ("SHORT_BINUNICODE", "BINUNICODE")


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def follow(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in NUMBERS + BYTES + TEXT:
            self.stack.append(argument)
        elif name in OLD_BYTES:
            self.stack.append(argument.encode("latin-1"))
        elif name.startswith("EMPTY_"):
            self.stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._combine(name, argument)

    def _combine(self, name: str, argument: Any) -> None:
        """An instruction that makes one thing of those on the stack."""
        if name == "TUPLE":
            self.stack.append(tuple(self._since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self._last(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self._last(1) if name == "APPEND" else self._since_mark()
            _expect(self.stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._last(2) if name == "SETITEM" else self._since_mark()
            for key in items[::2]:
                _expect(key, bytes if isinstance(key, bytes) else str)
            _expect(self.stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            self.stack.append(_Name(argument))
        elif name == "STACK_GLOBAL":
            self.stack.append(_Name(" ".join(self._last(2))))
        elif name == "REDUCE":
            self.stack.append(_call(*self._last(2)))
        elif name == "BUILD":
            _fill(self.stack[-2], *self._last(1))
        else:
            raise _NotPlain(f"the instruction {name}")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise _NotPlain("too few things on the stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items


def _expect(thing: Any, kind: type) -> Any:
    if type(thing) is not kind:
        raise _NotPlain(f"a {type(thing).__name__} where a {kind.__name__} should be")
    return thing


def _call(name: Any, arguments: Any) -> Any:
    """What a pickle gets that calls `name`: an array to be filled, or the dtype of bytes."""
    text = _expect(name, _Name).text
    if text in RECONSTRUCT and arguments[0] == _Name("numpy ndarray"):
        return _Array()
    if text == "numpy dtype" and arguments[0] in (b"u1", "u1"):
        return np.dtype(np.uint8)
    raise _NotPlain(f"it calls {text} with {reprlib.repr(arguments):.80}")


def _fill(target: Any, state: Any) -> None:
    """Give an array its shape and bytes; a dtype of bytes has no state that matters."""
    if isinstance(target, np.dtype):
        return
    _, shape, dtype, fortran, content = _expect(state, tuple)
    if not isinstance(dtype, np.dtype) or fortran or min(shape, default=0) < 0:
        raise _NotPlain("an array of something else than bytes")
    _expect(target, _Array).value = np.frombuffer(_expect(content, bytes), np.uint8).reshape(shape)


def _plain(thing: Any) -> Any:
    """Arrays out of their holders: the thing itself, or a dict's values."""
    if isinstance(thing, dict):
        return {key: value.value if isinstance(value, _Array) else value for key, value in thing.items()}
    return thing.value if isinstance(thing, _Array) else thing
