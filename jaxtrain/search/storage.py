"""Where Optuna keeps a study: a journal file in the search's folder, or a database.

Imports errors and files; Optuna and SQLAlchemy in the functions that need them. The fact that surprises: the path of a
journal is made absolute. Its lock is a symbolic link to that path; a relative one, in a folder, points nowhere, so its
age cannot be read, and the others would wait for ever for a process that was killed while it held the lock.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import probe_writable, reason

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
ATTEMPTS = 5


def create_study(folder: Path, storage: str | None, direction: Literal["maximize", "minimize"]) -> "optuna.Study":
    """The study named as the folder, made if there is none of this name.

    Args:
      folder: of the search.
      storage: a URL as SQLAlchemy has it (postgresql://..., mysql://..., sqlite:///...), or the path of a journal file;
        None: study.journal in the folder.
      direction: which values are better.

    Raises:
      RequestError: `storage` is no storage.
      WorldError: it cannot be reached or written.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = _name(folder, storage)
    with storage_errors(folder, storage), _opening_errors(name):
        opened = _open(folder, storage)
        study_name = folder.absolute().name
        return optuna.create_study(storage=opened, study_name=study_name, direction=direction, load_if_exists=True)


def storage_faults() -> tuple[type[Exception], ...]:
    """What a storage raises where it can no longer be reached."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


@contextlib.contextmanager
def storage_errors(folder: Path, storage: str | None) -> Iterator[None]:
    """A storage that cannot be reached, as an error of ours."""
    try:
        yield
    except storage_faults() as error:
        raise WorldError(f"storage {_name(folder, storage)} cannot be reached: {_first_line(error)}") from error


@contextlib.contextmanager
def _opening_errors(name: str) -> Iterator[None]:
    """What can be wrong with a storage at first sight."""
    from sqlalchemy.exc import ArgumentError

    try:
        yield
    except (ArgumentError, ImportError) as error:
        raise RequestError(f"storage {name} cannot be used: {_first_line(error)}; give another --storage") from error
    except OSError as error:
        raise WorldError(f"storage {name} cannot be opened: {reason(error)}") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AssertionError,
    ) as error:  # what Optuna makes of lines that are not its own
        raise RequestError(f"storage {name} is no journal of Optuna's: {_first_line(error)}") from error


def _open(folder: Path, storage: str | None) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if storage is not None and "://" in storage:
        return _open_database(storage)
    if storage is None:
        probe_writable(folder)
    path = (folder / JOURNAL if storage is None else Path(storage)).absolute()
    return JournalStorage(JournalFileBackend(str(path)))


def _open_database(url: str) -> Any:
    """Optuna's storage in a database. Of two workers that come to an empty one at once, one is refused, and repeats."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    # SQLite's own five seconds are too few where several workers write.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for attempt in itertools.count(1):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if attempt == ATTEMPTS or not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise


def _name(folder: Path, storage: str | None) -> str:
    """What to call it in a message, without a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if storage is None or "://" not in storage:
        return repr(str(folder / JOURNAL) if storage is None else storage)
    try:
        return repr(make_url(storage).render_as_string())
    except ArgumentError:
        return repr(storage)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
