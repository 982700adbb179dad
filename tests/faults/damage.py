"""One fault in a checkpoint on the disk, drawn by a seed: what a disk, a kill, a copy or a hand may do to its files.

Half the faults strike a byte of the checkpoint, so mostly its arrays; half strike a file, so mostly its small ones.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Fault = Callable[[np.random.Generator, Path, Path], str]
"""(random, file or folder struck, the same place in the checkpoint before) -> what was done."""


@contextmanager
def bare() -> Iterator[None]:
    """Runs without graphs, looks and curves, each of which takes seconds; in fixtures `bare_runs` does not hold yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtrain.log.Logs.wants_looks", False)
        patch.setattr("jaxtrain.job.log_graphs", lambda *_: None)
        patch.setattr("jaxtrain.run._report", lambda *_: None)
        patch.setattr("jaxtrain.plots.curves", lambda *_, **__: None)
        yield


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of all files, without locks, which name their process."""
    kept = [path for path in files_of(folder) if path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def strike(
    random: np.random.Generator, newest: Path, before: Path, *, by_bytes: bool, names: Collection[str] = ()
) -> str:
    """Damage `newest` once, by one of the faults `names` (all), and say what was done. `before` stays as it is."""
    shares = np.array([share if name in names or not names else 0 for name, share in SHARES.items()])
    name = str(random.choice(list(FAULTS), p=shares / shares.sum()))
    if name in WHOLE:
        return f"{name}: {FAULTS[name](random, newest, before)}"
    files = [path for path in files_of(newest) if path.stat().st_size]
    sizes = np.array([path.stat().st_size if by_bytes else 1 for path in files], float)
    path = files[random.choice(len(files), p=sizes / sizes.sum())]
    return f"{name} {path.relative_to(newest)}: {FAULTS[name](random, path, before / path.relative_to(newest))}"


def _flip(random: np.random.Generator, path: Path, _: Path) -> str:
    data = bytearray(path.read_bytes())
    places = random.integers(8 * len(data), size=random.integers(1, 4))
    for place in set(places.tolist()):
        data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    return f"bits {places.tolist()}"


def _overwrite(random: np.random.Generator, path: Path, _: Path) -> str:
    data = bytearray(path.read_bytes())
    start, old = int(random.integers(len(data))), bytes(data)
    length = min(64, len(data) - start)
    while data == old:
        data[start : start + length] = random.bytes(length)
    path.write_bytes(data)
    return f"{length} random bytes at {start}"


def _zero(random: np.random.Generator, path: Path, _: Path) -> str:
    data = bytearray(path.read_bytes())
    start = int(random.integers(len(data)))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(data)
    return f"512 zeros at {start}"


def _truncate(random: np.random.Generator, path: Path, _: Path) -> str:
    length = int(random.integers(path.stat().st_size))
    os.truncate(path, length)
    return f"to {length} bytes"


def _empty(_: np.random.Generator, path: Path, __: Path) -> str:
    os.truncate(path, 0)
    return "emptied"


def _remove(_: np.random.Generator, path: Path, __: Path) -> str:
    path.unlink()
    return "removed"


def _remove_folder(random: np.random.Generator, newest: Path, _: Path) -> str:
    folders = sorted(path for path in newest.rglob("*") if path.is_dir())
    folder = folders[random.integers(len(folders))]
    shutil.rmtree(folder)
    return str(folder.relative_to(newest))


def _older_file(_: np.random.Generator, path: Path, before: Path) -> str:
    """A file of the same name from the step before; a stranger's where it has none, for Orbax draws names."""
    source = before if before.exists() else max(files_of(before.parent), key=lambda file: file.stat().st_size)
    shutil.copyfile(source, path)
    return f"by {source.name}"


def _older_part(random: np.random.Generator, newest: Path, before: Path) -> str:
    part = str(random.choice(["state", "meta"]))
    shutil.rmtree(newest / part)
    shutil.copytree(before / part, newest / part)
    return part


def _edit_meta(random: np.random.Generator, newest: Path, _: Path) -> str:
    """By hand, well-formed."""
    path = newest / "meta" / "metadata"
    document = json.loads(path.read_text())
    payload = document["payload"]
    leaf = payload["leaves"][str(random.choice(sorted(payload["leaves"])))]
    edits: dict[str, Callable[[], Any]] = {
        "step": lambda: payload.update(step=payload["step"] + 1),
        "format": lambda: payload.update(format=2),
        "epoch": lambda: payload["meta"].update(epoch=payload["meta"]["epoch"] + 1),
        "digest of a leaf": lambda: leaf.update(sha256="0" * 64),
        "shape of a leaf": lambda: leaf.update(shape=[*leaf["shape"], 2]),
        "leaf": lambda: payload["leaves"].popitem(),
        "seal": lambda: document.update(sha256="0" * 64),
        "no payload": lambda: document.pop("payload"),
        "list": lambda: document.update(payload=[payload]),
    }
    what = str(random.choice(list(edits)))
    edits[what]()
    path.write_text(json.dumps(document))
    return what


FAULTS: dict[str, Fault] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "zero": _zero,
    "truncate": _truncate,
    "empty": _empty,
    "remove": _remove,
    "remove folder": _remove_folder,
    "older file": _older_file,
    "older part": _older_part,
    "edit meta": _edit_meta,
}
WHOLE = {"remove folder", "older part", "edit meta"}
SHARES = dict(zip(FAULTS, [0.3, 0.15, 0.1, 0.1, 0.05, 0.08, 0.05, 0.07, 0.03, 0.07], strict=True))
