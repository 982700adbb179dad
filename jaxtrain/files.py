"""Small files that survive a kill: written whole or not at all, appended to line by line.

Imports only `errors`. The fact that surprises: a plain `open(path, "w").write(text)` leaves an *empty* file when the
process is killed between the two, so a status or a config is written beside its place and renamed into it.
"""

import json
import math
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from jaxtrain.errors import RequestError, WorldError

AnyPath = str | os.PathLike[str]

LOCK = ".lock"
"""In a folder in use: which process has it."""

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")  # as `_beside` names them


def write_text(path: AnyPath, text: str) -> None:
    """Put `text` (UTF-8) in the file, in one piece: a reader sees the old contents or the new, also after a power cut.

    Raises:
      WorldError: if the file cannot be written.
    """
    write_bytes(path, text.encode())


def write_json(path: AnyPath, value: Any) -> None:
    """Put `value` in the file as `jsonable` has it, indented, in one piece as `write_text` does."""
    write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Put `data` in the file, in one piece as `write_text` does."""
    place = Path(path)
    beside = _beside(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)  # it may have been deleted in the course of a run
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)
        sync_folder(place.parent)
    except OSError as fault:
        remove(beside)
        raise WorldError(f"cannot write {place}: {reason(fault)}") from fault


def lock_folder(folder: AnyPath) -> IO[str]:
    """Lock a folder for this process until the file that is returned is closed, or the process ends however it does.

    Raises:
      WorldError: another process holds it, which is named; or the disk has no locks.
    """
    import fcntl

    file = open(Path(folder) / LOCK, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = f"process {pid}" if (pid := file.read().strip()) else "another process"
        file.close()
        raise WorldError(f"{folder} is in use by {owner}; wait for it to end, or use another folder") from None
    except OSError as fault:
        file.close()
        raise WorldError(f"{folder} cannot be locked: {reason(fault)}; use a folder on a local disk") from fault
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def sync_folder(folder: AnyPath) -> None:
    """Make the names in `folder` durable: a rename is in memory only until then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def probe_writable(folder: AnyPath) -> None:
    """Make `folder` if need be and write a byte in it, so that a run fails before it has computed anything.

    Raises:
      WorldError: if the folder cannot be made or written, or a file stands in its place.
    """
    place = Path(folder).absolute()
    for part in [place, *place.parents]:
        if part.exists() and not part.is_dir():
            raise WorldError(f"cannot use {place} as a folder: {part} is a file; choose another folder")
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = _beside(place / "probe")
        try:
            # The bits of `os.access` would not do: root passes them on a read-only mount.
            probe.write_bytes(b"\n")
        finally:
            remove(probe)
    except OSError as fault:
        raise WorldError(f"cannot write in {place}: {reason(fault)}; choose another folder") from fault


def jsonable(value: Any) -> Any:
    """`value` as JSON has it: mappings, lists, strings, finite numbers, booleans and None; arrays become lists.

    NaN and the infinities are no JSON and become "NaN", "Infinity" and "-Infinity": `float` in Python and `Number` in
    JavaScript turn each back into itself, while null would make a diverged loss look like a missing one.

    Raises:
      RequestError: if something in `value` has no such form.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite(float(value))
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        plain = value.tolist()
        # bfloat16 and its like stay NumPy scalars in `tolist`.
        return jsonable(float(plain) if hasattr(plain, "tolist") else plain)
    raise RequestError(f"cannot write {value!r:.80}, a {type(value).__name__}, as JSON; give numbers or strings")


class Appender:
    """A file that only grows. What the disk does not take stays in memory, in order, for the next attempt.

    A full disk is therefore a gap in time and not in the file: it is told in `errors` and the run goes on. A file that
    was deleted meanwhile is begun again.
    """

    def __init__(self, path: AnyPath, *, exclusive: bool = False):
        """Open for appending; `exclusive` refuses a file that exists.

        Raises:
          WorldError: if the file cannot be opened.
        """
        self.path = Path(path)
        self.errors: list[str] = []
        self._waiting = bytearray()
        try:
            self._descriptor: int | None = self._open(os.O_EXCL if exclusive else 0)
        except OSError as fault:
            raise WorldError(f"cannot write {self.path}: {reason(fault)}") from fault

    @property
    def waiting(self) -> bool:
        """Whether something was not taken by the disk yet."""
        return bool(self._waiting)

    def append(self, data: bytes) -> None:
        """Hand `data` to the system: it outlives a killed process once this returns."""
        self._waiting += data
        self._push()

    def sync(self) -> None:
        """Wait for the disk: what was appended outlives a power cut once this returns."""
        try:
            self._begin_again_if_deleted()
            self._push()
            os.fsync(self._opened())
        except OSError as fault:
            self._note(reason(fault))

    def close(self) -> None:
        """`sync` and close; a second time does nothing."""
        if self._descriptor is None:
            return
        self.sync()
        os.close(self._descriptor)
        self._descriptor = None

    def _open(self, flags: int = 0) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | flags, 0o666)

    def _begin_again_if_deleted(self) -> None:
        """A deleted file takes what is written as if nothing were wrong, and is gone when it is closed."""
        deleted = self._opened()
        if os.fstat(deleted).st_nlink:
            return
        self._note("it was deleted while it was in use, and is begun again")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open()
        os.close(deleted)

    def _opened(self) -> int:
        if self._descriptor is None:
            raise RequestError(f"{self.path} is closed; open it again to write more")
        return self._descriptor

    def _push(self) -> None:
        descriptor = self._opened()
        try:
            while self._waiting:
                del self._waiting[: os.write(descriptor, self._waiting)]
        except OSError as fault:
            self._note(reason(fault))

    def _note(self, why: str) -> None:
        message = f"cannot write {self.path}: {why}"
        if message not in self.errors:
            self.errors.append(message)


class JsonLines:
    """A file of JSON objects, one a line, as `jsonable` has them. Each line outlives a kill once `append` returns."""

    def __init__(self, path: AnyPath, keep_until_step: int | None = None):
        """Open for appending. A line that a kill cut short is removed.

        Args:
          path: the file; made if need be.
          keep_until_step: on resume, the step resumed from: lines whose "step" is larger are removed, for they will be
            written again. None keeps all.

        Raises:
          WorldError: if the file cannot be read or written.
        """
        self.path = Path(path)
        _trim(self.path, math.inf if keep_until_step is None else keep_until_step)
        self._file = Appender(self.path)
        self.errors = self._file.errors

    @property
    def waiting(self) -> bool:
        """Whether a line is not in the file yet."""
        return self._file.waiting

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        self._file.append(json.dumps(jsonable(record), allow_nan=False).encode() + b"\n")

    def flush(self) -> None:
        """Wait for the disk."""
        self._file.sync()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_json_lines(path: AnyPath) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, without a last line that a kill cut short; [] where there is no file.

    Raises:
      WorldError: it cannot be read, or another line is no JSON object.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as fault:
        raise WorldError(f"cannot read {path}: {reason(fault)}") from fault
    records = [_parse(line) for line in lines]
    for number, record in enumerate(records[:-1], start=1):
        if record is None:
            raise WorldError(
                f"{path}: line {number} is damaged, {lines[number - 1]!r:.60}; restore the file, or delete that line to"
                " go on without what it said"
            )
    return [record for record in records if record is not None]


def remove_unfinished(folder: AnyPath) -> None:
    """Delete what writers that were killed left in `folder` and below; only for one who holds its lock."""
    for path in Path(folder).rglob(".*.tmp"):
        if _UNFINISHED.fullmatch(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Delete a file if that can be done: the tidying after a failure must not hide the failure."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def reason(fault: BaseException) -> str:
    """What went wrong, in the system's words, without the path that `str` of an OSError repeats."""
    strerror = getattr(fault, "strerror", None)
    return str(strerror).lower() if strerror else f"{type(fault).__name__}: {' '.join(str(fault).split())}"


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.tmp")


def _finite(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _trim(path: Path, last_step: float) -> None:
    """Rewrite the file without cut lines and without lines of later steps."""
    if not path.exists():
        return
    records = [r for r in read_json_lines(path) if not _step(r) > last_step]
    kept = "".join(json.dumps(record) + "\n" for record in records).encode()
    if kept != path.read_bytes():
        write_bytes(path, kept)


def _step(record: dict[str, Any]) -> float:
    step = record.get("step")
    return step if isinstance(step, int | float) else -math.inf


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object of a line, or None for what a kill cut short: half an object never ends in its own brace."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
