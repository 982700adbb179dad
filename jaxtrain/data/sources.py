"""`load_data`: the data a `DataConfig` names, found on disk, downloaded, or embedded in the package.

Imports nothing of jaxtrain but `config`, `errors` and its neighbours here. The surprise: of files on disk the content
is hashed, so a run records whether it was trained on the published data set or on something that only has its name.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import DataConfig
from jaxtrain.data.arrays import Data, from_arrays
from jaxtrain.data.cifar import CLASS_NAMES, find_cifar10, read_cifar10
from jaxtrain.data.digits import digits, digits_28
from jaxtrain.data.download import download
from jaxtrain.data.folder import MAX_SIDE, Source, read_folder, read_npz
from jaxtrain.data.idx import read_idx
from jaxtrain.data.published import CIFAR10_ARCHIVE, CIFAR10_MD5, CIFAR10_MIRRORS, CIFAR10_SIZE, IDX_SETS
from jaxtrain.errors import RequestError, WorldError

Report = Callable[[str], Any]


def load_data(config: DataConfig, *, report: Report = print) -> Data:
    """The data that `config` names, split and preprocessed.

    Looked for in `config.dir`, then $JAXTRAIN_DATA, then the user's cache, each as FOLDER/NAME/...; then downloaded
    into the cache. `digits` is embedded in the package; `npz` and `folder` read `config.path`.

    Args:
      report: called with each line the user should see: a download, a warning.

    Raises:
      RequestError: for a config that contradicts itself, or arrays that cannot be trained on.
      WorldError: for data that is missing or damaged; it lists where it looked and how to get the data.
    """
    _check(config)
    if config.name == "digits":
        return _build(config, digits(), source="embedded", published=True)
    if config.name == "npz":
        path = _path(config)
        return _build(config, read_npz(path), source=str(path))
    if config.name == "folder":
        path = _path(config)
        return _build(config, read_folder(path, config.image_size, report), source=str(path))
    try:
        place = _find_or_download(config, report)
    except _NotFound as error:
        if config.fallback is None:
            raise WorldError(str(error)) from None
        return _fall_back(config, str(error), report)
    source, published = _read_cifar10(place) if config.name == "cifar10" else _read_idx_set(config.name, place)
    if not published:
        report(f"WARNING: the files in {place} are not the published {config.name}; their contents differ")
    return _build(config, source, source=str(place), published=published)


def cache_dir() -> Path:
    """The user's folder for downloaded data: $XDG_CACHE_HOME/jaxtrain/data, or what the platform has instead."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "jaxtrain" / "data"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jaxtrain" / "data"
    if sys.platform == "win32" and (base := os.environ.get("LOCALAPPDATA")):
        return Path(base) / "jaxtrain" / "Cache" / "data"
    return Path.home() / ".cache" / "jaxtrain" / "data"


class _NotFound(Exception):
    """The data is nowhere, and could not be downloaded."""


def _check(config: DataConfig) -> None:
    if config.path is not None and config.name not in ("npz", "folder"):
        raise RequestError(f"data.path is for npz and folder, and data.name is {config.name!r}; use data.dir")
    if config.image_size is not None and (config.name != "folder" or not 1 <= config.image_size <= MAX_SIDE):
        raise RequestError(f"data.image_size is {config.image_size}; it is for data.name 'folder', 1 to {MAX_SIDE}")
    if config.fallback is not None and config.name != "mnist":
        raise RequestError(f"data.fallback stands in for mnist only, and data.name is {config.name!r}; drop it")


def _path(config: DataConfig) -> Path:
    if not config.path:
        raise RequestError(f"data.name is {config.name!r} and data.path is not given; set data.path")
    return _expanded(config.path, "data.path")


def _expanded(path: str, what: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise RequestError(f"{what} is {path!r}, and there is no such user; write the path out") from None


def _build(config: DataConfig, given: Source, **info: Any) -> Data:
    data = from_arrays(
        given.image,
        given.label,
        val_share=config.val_share,
        test=given.test,
        split_seed=config.split_seed,
        preprocess=config.preprocess,
        class_names=given.class_names,
        num_components=config.num_components,
        name=config.name,
    )
    return dataclasses.replace(data, info=dataclasses.replace(data.info, **info))


def _fall_back(config: DataConfig, reason: str, report: Report) -> Data:
    bar = "!" * 78
    stand_in = "the 1,797 embedded 8x8 digits, scaled to 28x28 (data.fallback): its figures are not MNIST's"
    report(f"{bar}\nWARNING: this run does NOT use MNIST but {stand_in}.\n{reason}\n{bar}")
    return _build(config, digits_28(), source="embedded", name="mnist-fallback-digits", fallback="digits")


def _roots(config: DataConfig) -> list[Path]:
    """Folders that hold data sets, in the order in which they are looked in."""
    named = {"data.dir": config.dir, "$JAXTRAIN_DATA": os.environ.get("JAXTRAIN_DATA")}
    return [_expanded(path, what) for what, path in named.items() if path] + [cache_dir()]


def _find_or_download(config: DataConfig, report: Report) -> Path:
    """The folder (or CIFAR-10 archive) that holds the data. Raises _NotFound."""
    roots = _roots(config)
    if config.name not in IDX_SETS and config.name != "cifar10":
        raise RequestError(
            f"data.name is {config.name!r}; expected digits, {', '.join(IDX_SETS)}, cifar10, npz or folder"
        )
    find = find_cifar10 if config.name == "cifar10" else lambda roots: _find_idx_set(config.name, roots)
    if place := find(roots):
        return place
    reason = "data.download is off"
    if config.download:
        try:
            return _download(config.name, roots[-1] / config.name, report)
        except WorldError as error:
            reason = str(error)
    looked = "".join(f"\n  {_describe(root / config.name)}" for root in roots)
    if config.name == "cifar10":
        files, mirror = CIFAR10_ARCHIVE, CIFAR10_MIRRORS[0]
    else:
        files = ", ".join(f"{f.name}.gz" for f in IDX_SETS[config.name].files)
        mirror = IDX_SETS[config.name].mirrors[0]
    raise _NotFound(
        f"{config.name} was found in none of:{looked}\nand not downloaded: {reason}\nGet {files} from {mirror}, put"
        f" that in FOLDER/{config.name}/ and set data.dir or $JAXTRAIN_DATA to FOLDER."
    )


def _describe(folder: Path) -> str:
    """A folder that was looked in and what was there."""
    if not os.path.isdir(folder):
        return f"{folder} (no such folder)"
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"{folder} ({error.strerror})"
    return f"{folder} (has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})" if names else f"{folder} (empty)"


def _download(name: str, folder: Path, report: Report) -> Path:
    if name == "cifar10":
        archive = folder / CIFAR10_ARCHIVE
        urls = [mirror + CIFAR10_ARCHIVE for mirror in CIFAR10_MIRRORS]
        download(urls, archive, md5=CIFAR10_MD5, size=CIFAR10_SIZE, report=report)
        return archive
    for file in IDX_SETS[name].files:
        if _find_idx(folder, file.name) is None:
            urls = [f"{mirror}{file.name}.gz" for mirror in IDX_SETS[name].mirrors]
            download(urls, folder / f"{file.name}.gz", md5=file.md5, size=file.size, report=report)
    return folder


def _find_idx(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))  # unpackers differ
    candidates = (folder / f"{s}{suffix}" for s in spellings for suffix in ("", ".gz"))
    return next((path for path in candidates if os.path.isfile(path)), None)


def _find_idx_set(name: str, roots: list[Path]) -> Path | None:
    files = IDX_SETS[name].files
    return next((root / name for root in roots if all(_find_idx(root / name, f.name) for f in files)), None)


def _read_idx_set(name: str, folder: Path) -> tuple[Source, bool]:
    arrays, published = [], True
    for file, ndim in zip(IDX_SETS[name].files, (3, 1, 3, 1), strict=True):
        path = _find_idx(folder, file.name)
        if path is None:
            raise WorldError(f"{folder / file.name} has vanished since it was found; start again")
        array, sha256 = read_idx(path, ndim)
        arrays.append(array)
        published &= sha256 == file.sha256
        if ndim == 1 and len(array) != len(arrays[-2]):
            raise WorldError(f"{path} has {len(array)} labels for {len(arrays[-2])} images; fetch all four files again")
        if ndim == 1 and (bad := np.flatnonzero(array > 9)).size:
            raise WorldError(f"{path}: label {bad[0]} is {array[bad[0]]}; expected 0 to 9: fetch it again")
    image, label, test_image, test_label = arrays
    return Source(image, label, (test_image, test_label), IDX_SETS[name].class_names), published


def _read_cifar10(place: Path) -> tuple[Source, bool]:
    (image, label), test, published = read_cifar10(place)
    return Source(image, label, test, CLASS_NAMES), published
