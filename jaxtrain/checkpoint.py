"""Any pytree of arrays to disk and back: whole, verified, or not at all. Knows nothing of training.

Imports `errors`, `files`, `leaves` and `quiet`; Orbax when it is first needed, in the writing thread (its import takes
0.6 to 1.7 s). The fact that surprises: Orbax keeps no checksum of array data and restores a flipped bit without a word,
so the SHA-256 of every leaf travels in the checkpoint, and what does not match is never returned.

On disk: `FOLDER/00000020/` (a second save of step 20: `00000020.1/`) holds `state/`, NumPy arrays only, so that no
device is named in it, and `meta/metadata`, plain JSON. Orbax renames the two into place together. `damaged-*` and
`superseded-*` are checkpoints that were set aside; `.trash-*` ones that are being deleted.
"""

import atexit
import hashlib
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import LOCK, AnyPath, jsonable, lock_folder, probe_writable, reason, sync_folder
from jaxtrain.leaves import (
    Mismatch,
    Record,
    check_fit,
    described,
    empty,
    kind_of,
    named_leaves,
    nested,
    spec,
    to_device,
    to_host,
    under,
)
from jaxtrain.quiet import QUIET

PyTree = Any
_FORMAT = 1
_NAME = re.compile(r"(\d{8,})(?:\.(\d+))?")
_NOTHING = {"(nothing)": np.zeros(1)}  # Orbax refuses an empty tree
# A disk or a machine in trouble, as tensorstore words it: the checkpoint may well be whole.
_TROUBLE = re.compile("RESOURCE_EXHAUSTED|PERMISSION_DENIED|Input/output error|Cannot allocate|Too many open files")


class Restored(NamedTuple):
    """What `Store.restore` returns."""

    tree: PyTree
    meta: dict[str, Any]  # as it was given to `save`
    notes: list[str]  # a sentence for each damaged checkpoint that was passed over


class Store:
    """The checkpoints in a folder: saved in the background, verified when read, the newest few kept.

    Use it as a context manager: a save in flight is lost, with a warning, when the interpreter ends without `close`.
    """

    def __init__(self, folder: AnyPath, *, keep: int = 2, read_only: bool = False):
        """Open the folder; a writer makes it, locks it and clears what a killed writer left.

        Args:
          folder: where the checkpoints lie.
          keep: how many to keep, the newest ones.
          read_only: take no lock and change nothing; for looking at a run that may be going on.

        Raises:
          WorldError: if the folder cannot be written or another process writes in it.
        """
        if keep < 1:
            raise RequestError(f"keep is {keep}; at least 1 checkpoint must be kept")
        self.folder, self.keep, self.read_only = Path(folder).absolute(), keep, read_only
        self.errors: list[str] = []
        self._worker = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[int, Future[list[str]]] | None = None
        self._checkpointer: Any = None
        self._lock: IO[str] | None = None
        if not read_only:
            probe_writable(self.folder)
            self._lock = lock_folder(self.folder)
            self._sweep()
            atexit.register(self.close)  # by then the interpreter starts no threads: a save fails, but it is told

    def steps(self) -> list[int]:
        """Steps that are on the disk now, ascending; a save in flight is not among them."""
        return sorted({step for step, _, _ in _folders(self.folder)})

    @property
    def saving(self) -> bool:
        """Whether a save is still in flight; the next one would wait for it."""
        return self._pending is not None and not self._pending[1].done()

    def save(self, step: int, tree: PyTree, meta: dict[str, Any]) -> None:
        """Start writing a checkpoint and return as soon as `tree` has been copied; it may then be donated or changed.

        Waits for the save before it. What goes wrong on the disk is told by `errors` and a warning at the next `save`,
        `wait` or `close`, and the caller goes on. Later steps that are on the disk are set aside: the newest
        checkpoint is always the last one saved.

        Args:
          step: its name; saving a step again replaces it.
          tree: any pytree of JAX or NumPy arrays.
          meta: anything that JSON can hold; NaN comes back as "NaN".

        Raises:
          RequestError: if a leaf is no array, two leaves have one path, or `meta` is no JSON.
        """
        if self.read_only:
            raise RequestError(f"{self.folder} was opened read-only; open it with read_only=False to save")
        self.wait()
        leaves = named_leaves(tree)
        # The leaves themselves stay here: the thread would keep their memory on the device.
        kinds = {path: kind_of(leaf) for path, leaf in leaves.items()}
        self._pending = step, self._worker.submit(self._write, int(step), kinds, to_host(leaves), jsonable(meta))

    def wait(self) -> None:
        """Wait until the last save is on the disk or has failed."""
        if self._pending is None:
            return
        step, future = self._pending
        fault = future.exception()
        self._pending = None
        for warning in [] if fault else future.result():
            self._tell(warning)
        if fault:
            self._sweep()  # a failed save must not eat the disk that the next one needs
            self._tell(f"checkpoint {step} in {self.folder} was not written: {_why(fault)}")

    def restore(self, abstract_tree: PyTree, step: int | None = None) -> Restored | None:
        """The newest checkpoint whose every leaf is bit for bit what was saved, or None where nothing was saved yet.

        Damaged ones are passed over, and renamed to `damaged-*` once a whole one is found.

        Args:
          abstract_tree: `jax.eval_shape(init, ...)`: what the checkpoint must hold, leaf by leaf.
          step: a certain step instead of the newest; nothing else is then tried.

        Returns:
          The tree, with JAX arrays on the default device (NumPy where JAX cannot hold the dtype), its meta, notes.

        Raises:
          Mismatch: if a leaf is missing, is one too many, or has another shape or dtype.
          WorldError: if no whole checkpoint is left, `step` is not there, or the disk cannot be read.
        """
        wanted = named_leaves(abstract_tree)
        specs = {path: spec(leaf) for path, leaf in wanted.items()}

        def fits(records: dict[str, Record]) -> list[str]:
            try:
                return check_fit(records, specs)
            except Mismatch as error:
                raise Mismatch(f"{self.folder}: {error}") from None

        found = self._newest_whole(step, fits)
        if found is None:
            return None
        leaves = [to_device(found.arrays[path], found.records[path]) for path in wanted]
        return Restored(jax.tree.unflatten(jax.tree.structure(abstract_tree), leaves), found.meta, found.notes)

    def restore_part(self, prefixes: str | Iterable[str], step: int | None = None) -> dict[str, Any]:
        """The leaves under some paths, verified, as nested dicts of NumPy arrays; nothing else is read.

        Needs neither the optimizer nor the network: `restore_part("params")`. Damaged checkpoints are passed over with
        a warning. A PRNG key comes as its key data.

        Raises:
          RequestError: if the checkpoint holds nothing under a prefix.
          WorldError: as `restore`, and if nothing was saved yet.
        """
        chosen = [prefixes] if isinstance(prefixes, str) else list(prefixes)
        found = self._newest_whole(step, lambda records: under(records, chosen))
        if found is None:
            raise WorldError(f"{self.folder} holds no checkpoint")
        for note in found.notes:
            warnings.warn(note, stacklevel=2)
        return nested(found.arrays)

    def clear(self) -> None:
        """Delete all checkpoints."""
        self.wait()
        for _, _, folder in _folders(self.folder):
            _delete(folder)

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The meta of a step, or of the newest; see `read_meta`."""
        return read_meta(self.folder, step)

    def close(self) -> None:
        """Wait for the last save, then give the folder free; a second time does nothing."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            if self._checkpointer is not None:
                self._checkpointer.close()
            if self._lock is not None:
                self._lock.close()
            self._checkpointer = self._lock = None
            atexit.unregister(self.close)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- in the calling thread

    def _tell(self, message: str) -> None:
        self.errors.append(message)
        warnings.warn(message, stacklevel=3)

    def _newest_whole(self, step: int | None, choose: Callable[[dict[str, Record]], list[str]]) -> "_Found | None":
        """The newest checkpoint whose chosen leaves can be trusted."""
        self.wait()
        damaged: list[tuple[Path, str]] = []
        for folder in _candidates(self.folder, step):
            future = self._worker.submit(self._read, folder, choose)
            fault = future.exception()
            if fault is None:
                return future.result()._replace(notes=[self._pass_over(*item, step is None) for item in damaged])
            if self.read_only and not folder.exists():  # its writer has deleted it meanwhile, and has newer ones
                return self._newest_whole(step, choose)
            if isinstance(fault, RequestError):
                raise fault
            if not _is_damage(fault):
                raise WorldError(f"cannot read checkpoint {folder}: {_why(fault)}; nothing was changed") from fault
            damaged.append((folder, _why(fault)))
        if damaged:
            listed = "; ".join(f"{folder.name}: {why}" for folder, why in damaged)
            raise WorldError(f"no usable checkpoint in {self.folder}, nothing was changed: {listed}")
        return None

    def _pass_over(self, folder: Path, why: str, rename: bool) -> str:
        if self.read_only or not rename:
            return f"checkpoint {folder} is damaged and was passed over: {why}"
        return f"checkpoint {folder} is damaged and was renamed to {_set_aside(folder, 'damaged').name}: {why}"

    def _sweep(self) -> None:
        """Delete what a failed or killed writer left."""
        for pattern in ("*.orbax-checkpoint-tmp*", ".trash-*"):
            for folder in self.folder.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)

    # ---- in the writing thread

    def _io(self) -> Any:
        import orbax.checkpoint as ocp

        if self._checkpointer is None:
            # Not the CheckpointManager: it deletes old checkpoints in place, and a kill leaves halves of them listed.
            # Not the AsyncCheckpointer: this thread is asynchronous already, and the digests are computed in it too.
            handler = ocp.CompositeCheckpointHandler(
                state=ocp.PyTreeCheckpointHandler(), meta=ocp.JsonCheckpointHandler()
            )
            self._checkpointer = ocp.Checkpointer(handler)
        return self._checkpointer

    def _write(self, step: int, kinds: dict[str, Record], host: dict[str, np.ndarray], meta: Any) -> list[str]:
        """Write, make durable, then delete old ones. Returns warnings."""
        import orbax.checkpoint as ocp

        notes = self._remake_folder()
        records = {path: {**kind, **described(host[path])} for path, kind in kinds.items()}
        payload = {"format": _FORMAT, "step": step, "meta": meta, "leaves": records}
        state = {path: array for path, array in host.items() if array.size} or _NOTHING
        folder = _free_name(self.folder, step)
        document = {"payload": payload, "sha256": _seal(payload)}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(document))
        with QUIET:
            self._io().save(folder, args=args)
        _sync(folder)  # Orbax does not wait for its JSON files and its rename to be durable; the old ones go next
        self._retain(step)
        return notes

    def _remake_folder(self) -> list[str]:
        if (self.folder / LOCK).exists():
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.folder)
        return [f"{self.folder} was deleted while it was in use; earlier checkpoints are gone"]

    def _retain(self, step: int) -> None:
        """Keep the newest `keep` steps up to this one."""
        folders = _folders(self.folder)
        latest = {at: folder for at, _, folder in folders if at <= step}  # ascending: the last save of a step wins
        kept = {latest[at] for at in sorted(latest)[-self.keep :]}
        for at, _, folder in folders:
            if at > step:
                _set_aside(folder, "superseded")
            elif folder not in kept:
                _delete(folder)

    def _read(self, folder: Path, choose: Callable[[dict[str, Record]], list[str]]) -> "_Found":
        """The chosen leaves of one checkpoint, verified."""
        payload = _read_payload(folder)
        records = {path: payload["leaves"][path] for path in choose(payload["leaves"])}
        stored = self._read_arrays(folder, [path for path, record in records.items() if 0 not in record["shape"]])
        arrays = {path: stored[path] if path in stored else empty(record) for path, record in records.items()}
        for path, array in arrays.items():
            # Damage in state/_METADATA makes Orbax return something else than an array.
            if not isinstance(array, np.ndarray) or not described(array).items() <= records[path].items():
                raise _Damaged(f"leaf {path} is not what was saved")
        return _Found(arrays, records, payload["meta"], [])

    def _read_arrays(self, folder: Path, paths: list[str]) -> dict[str, np.ndarray]:
        import orbax.checkpoint as ocp

        if not paths:
            return {}
        target = dict.fromkeys(paths, 0)
        numpy = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in paths}
        wanted = ocp.args.PyTreeRestore(item=target, restore_args=numpy, partial_restore=True)
        with _damage_in("state/"), QUIET:
            return self._io().restore(folder, args=ocp.args.Composite(state=wanted))["state"]


def read_meta(folder: AnyPath, step: int | None = None) -> dict[str, Any]:
    """The meta that was saved with a step, or the newest that can be read; without Orbax and without the arrays.

    Raises:
      WorldError: if there is no such checkpoint, or its meta is damaged.
    """
    faults = []
    for place in _candidates(Path(folder), step):
        try:
            return _read_payload(place)["meta"]
        except RequestError:
            raise
        except (OSError, ValueError, _Damaged) as fault:
            faults.append(f"{place.name}: {_why(fault)}")
    raise WorldError(f"no meta can be read in {folder}: {'; '.join(faults) or 'it holds no checkpoint'}")


class _Damaged(WorldError):
    """What was read is not what was written."""


class _Found(NamedTuple):
    arrays: dict[str, np.ndarray]
    records: dict[str, Record]
    meta: dict[str, Any]
    notes: list[str]


# ---- folders


def _folders(root: Path) -> list[tuple[int, int, Path]]:
    """(step, how often it was saved before, folder) of each checkpoint, ascending."""
    if not root.is_dir():
        return []
    named = [(_NAME.fullmatch(folder.name), folder) for folder in root.iterdir()]
    return sorted((int(name[1]), int(name[2] or 0), folder) for name, folder in named if name)


def _candidates(root: Path, step: int | None) -> list[Path]:
    """Folders to try, newest first."""
    folders = _folders(root)
    chosen = [folder for at, _, folder in reversed(folders) if step is None or at == step]
    if step is not None and not chosen:
        held = ", ".join(str(at) for at in sorted({at for at, _, _ in folders}))
        raise WorldError(f"{root} holds no checkpoint of step {step}; it holds {held or 'none'}")
    return chosen


def _free_name(root: Path, step: int) -> Path:
    """A name that no checkpoint has: one that is replaced stays until its successor is whole."""
    saves = [number for at, number, _ in _folders(root) if at == step]
    return root / (f"{step:08d}.{max(saves) + 1}" if saves else f"{step:08d}")


def _delete(folder: Path) -> None:
    """Rename, then delete: nothing half-deleted is ever listed."""
    trash = folder.with_name(f".trash-{folder.name}-{time.time_ns()}")
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _set_aside(folder: Path, word: str) -> Path:
    """Rename to WORD-NAME, or WORD-NAME-1 and so on where that is taken."""
    place, number = folder.with_name(f"{word}-{folder.name}"), 0
    while place.exists():
        number += 1
        place = folder.with_name(f"{word}-{folder.name}-{number}")
    return folder.rename(place)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder, folder.parent]:
        sync_folder(path)


# ---- what a checkpoint says of itself


def _seal(payload: Any) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def _read_payload(folder: Path) -> Record:
    """Step, meta and leaf records of a checkpoint, verified."""
    with _damage_in("meta/metadata"):
        document = json.loads((folder / "meta" / "metadata").read_text())
    payload = document.get("payload") if isinstance(document, dict) else None
    if not isinstance(payload, dict) or _seal(payload) != document.get("sha256"):
        raise _Damaged("meta/metadata is not what was saved")
    if payload["format"] != _FORMAT:
        written = payload["format"]
        raise RequestError(f"{folder} has format {written}, expected {_FORMAT}; use the version that wrote it")
    if payload["step"] != int(folder.name.split(".")[0]):
        raise _Damaged(f"meta/metadata is that of step {payload['step']}")
    return payload


@contextmanager
def _damage_in(part: str) -> Iterator[None]:
    """Wrong bytes are told with the part of the checkpoint that holds them; other trouble passes as it is."""
    try:
        yield
    except Exception as fault:
        if not _is_damage(fault):
            raise
        raise _Damaged(f"{part}: {_why(fault)}") from fault


def _why(fault: BaseException) -> str:
    """`reason`, with the middle of a long text left out: tensorstore says at the end what the matter was."""
    if isinstance(fault, _Damaged):
        return str(fault)
    text = reason(fault).partition(" [tensorstore_spec=")[0]
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-190:]}"


def _is_damage(fault: BaseException) -> bool:
    """Whether the bytes are wrong, and not the memory, the disk or the user: only then is a checkpoint set aside."""
    if isinstance(fault, OSError):
        return isinstance(fault, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    trouble = isinstance(fault, MemoryError) or _TROUBLE.search(str(fault))
    return isinstance(fault, Exception) and not trouble
