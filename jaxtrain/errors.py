"""The three ways a run can end badly, each with its exit status.

Imports nothing. A message says what was given, what was expected and what to do, in one sentence or two; the scripts
print it without a traceback and leave with `exit_status`.
"""

from typing import ClassVar


class RequestError(ValueError):
    """The request is wrong: config, flags, array contents, shapes, labels, a folder that holds another config."""

    exit_status: ClassVar[int] = 2


class WorldError(RuntimeError):
    """The world failed: files missing or damaged, a download, the disk, a permission, a lock."""

    exit_status: ClassVar[int] = 1


class NonFiniteError(ArithmeticError):
    """The loss or the gradient became NaN or infinite."""

    exit_status: ClassVar[int] = 3
