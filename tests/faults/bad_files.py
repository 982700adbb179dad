"""Good data files of every kind, made of a few examples, and what may have happened to a file on its way.

Imports the package's own lists of names and checksums. The fact that surprises: the small sets here pass for the
published ones, by their checksums, so that a changed byte that no format can notice must be announced by `load_data`.
"""

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_cifar import old_pickle

import jaxtrain as jt
from jaxtrain.data import cifar, sources
from jaxtrain.data.published import IDX_SETS

Files = dict[str, bytes]
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Kind:
    """A kind of data: the files of a good copy, and the config that reads them from a folder."""

    files: Callable[[], Files]
    config: Callable[[Path], jt.DataConfig]
    checksum: bool = True  # in the files themselves


def _examples(count: int, side: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(side)
    return random.integers(0, 256, (count, side, side, channels), dtype=np.uint8), np.arange(count) % 10


def idx_files(compress: Callable[[bytes], bytes] = lambda content: gzip.compress(content, 1, mtime=0)) -> Files:
    """The four files of an IDX set, the first larger than what a reader of gzip takes at once."""
    files = {}
    for file, count in zip(IDX_SETS["mnist"].files, (200, 200, 20, 20), strict=True):
        image, label = _examples(count, 28, 1)
        array = image[..., 0] if "images" in file.name else label.astype(np.uint8)
        header = b"".join(int(i).to_bytes(4, "big") for i in (2048 + array.ndim, *array.shape))
        files[file.name + ".gz"] = compress(header + array.tobytes())
    return files


def cifar_records(batch: int) -> np.ndarray:
    """Four records u8[4, 3073] of a batch, 0 to 5."""
    image, label = _examples(24, 32, 3)
    image, label = image[4 * batch : 4 * batch + 4], label[4 * batch : 4 * batch + 4]
    return np.concatenate([label.astype(np.uint8)[:, None], image.transpose(0, 3, 1, 2).reshape(4, -1)], axis=1)


def cifar_binary() -> Files:
    """The six batches of CIFAR-10's binary version."""
    return {f"{name}.bin": cifar_records(i).tobytes() for i, name in enumerate(cifar.BATCHES)}


def cifar_python() -> Files:
    """The six batches of CIFAR-10's python version, as Python 2 wrote them."""
    records = map(cifar_records, range(6))
    return {name: old_pickle(r[:, 1:], r[:, 0]) for name, r in zip(cifar.BATCHES, records, strict=True)}


def cifar_pickled() -> Files:
    """The same, pickled by today's Python."""
    records = map(cifar_records, range(6))
    batches = ({b"labels": r[:, 0].tolist(), b"data": r[:, 1:].copy()} for r in records)
    return {name: pickle.dumps(batch, protocol=4) for name, batch in zip(cifar.BATCHES, batches, strict=True)}


def tar_gz(files: Mapping[str, bytes | None], kinds: Mapping[str, bytes] | None = None) -> bytes:
    """A .tar.gz; what has no content is of the kind named, a link to /etc/passwd unless it is something else."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content or b"")
            entry.type = (kinds or {}).get(name, tarfile.REGTYPE)
            entry.linkname = "" if content is not None else "/etc/passwd"
            tar.addfile(entry, io.BytesIO(content) if content is not None else None)
    return packed.getvalue()


def cifar_archive() -> Files:
    """CIFAR-10's binary version as it is published, in one archive."""
    return {"cifar-10-binary.tar.gz": tar_gz({f"cifar-10-batches-bin/{n}": c for n, c in cifar_binary().items()})}


def npz_file(compressed: bool = False, **arrays: Any) -> Files:
    """A .npz file of these arrays, by default images and labels."""
    image, label = _examples(40, 8, 1)
    packed = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(packed, **(arrays or {"image": image, "label": label}))
    return {"data.npz": packed.getvalue()}


def zip_file(members: Mapping[str, bytes]) -> Files:
    """A .npz file of such members, whatever they hold."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return {"data.npz": packed.getvalue()}


def npy(array: Any) -> bytes:
    """A .npy file."""
    packed = io.BytesIO()
    np.save(packed, array)
    return packed.getvalue()


def npy_header(text: str) -> bytes:
    """A .npy file's beginning with this as its description of the array."""
    padded = text.encode() + b" " * (-(11 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def image_files(form: str = "png") -> Files:
    """A folder of images, two classes of six."""
    from PIL import Image

    image, _ = _examples(12, 8, 3)
    files = {}
    for i, array in enumerate(image):
        packed = io.BytesIO()
        Image.fromarray(array).save(packed, {"jpg": "JPEG", "tif": "TIFF"}.get(form, form.upper()))
        files[f"{'ab'[i % 2]}/{i}.{form}"] = packed.getvalue()
    return files


def _named(name: str) -> Callable[[Path], jt.DataConfig]:
    return lambda folder: jt.DataConfig(name=name, dir=str(folder), download=False)  # pyright: ignore[reportArgumentType]


KINDS = {
    "idx": Kind(idx_files, _named("mnist")),
    "idx unpacked": Kind(lambda: idx_files(lambda content: content), _named("mnist"), checksum=False),
    "cifar binary": Kind(cifar_binary, _named("cifar10"), checksum=False),
    "cifar python 2": Kind(cifar_python, _named("cifar10"), checksum=False),
    "cifar python 4": Kind(cifar_pickled, _named("cifar10"), checksum=False),
    "cifar archive": Kind(cifar_archive, _named("cifar10")),
    "npz": Kind(npz_file, lambda folder: jt.DataConfig(name="npz", path=str(folder / "data.npz"))),
    "npz packed": Kind(lambda: npz_file(True), lambda folder: jt.DataConfig(name="npz", path=str(folder / "data.npz"))),
    "png": Kind(image_files, lambda folder: jt.DataConfig(name="folder", path=str(folder), image_size=8)),
}
PICTURES = {
    form: Kind(lambda form=form: image_files(form), KINDS["png"].config)
    for form in ("jpg", "bmp", "gif", "tif", "webp", "ppm")
}
"""Kinds without a checksum: what is changed in them cannot be noticed, but must not be more than wrong pixels."""


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put the files under the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def place(kind: str, folder: Path) -> Path:
    """Where in the folder the files of a kind are looked for."""
    name = KINDS[kind].config(folder).name if kind in KINDS else "folder"
    return folder / name if name in ("mnist", "cifar10") else folder


def pass_for_published(patch: pytest.MonkeyPatch) -> None:
    """From now on the small sets are the published ones."""
    hashes = [hashlib.sha256(gzip.decompress(content)).hexdigest() for content in idx_files().values()]
    known = IDX_SETS["mnist"]
    files = tuple(replace(file, sha256=sha) for file, sha in zip(known.files, hashes, strict=True))
    patch.setitem(sources.IDX_SETS, "mnist", replace(known, files=files))
    batches = {n.removesuffix(".bin"): hashlib.sha256(c).hexdigest() for n, c in cifar_binary().items()}
    patch.setattr(cifar, "SHA256", batches)


# ---- what may happen to a file


def _flip(content: bytes, random: np.random.Generator) -> bytes:
    bit = int(random.integers(8 * len(content)))
    return _put(content, bit // 8, bytes([content[bit // 8] ^ 1 << bit % 8]))


def _put(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def _garble(content: bytes, random: np.random.Generator) -> bytes:
    for at in random.integers(len(content), size=random.integers(1, 9)):
        content = _put(content, int(at), random.bytes(1))
    return content


def _begin(content: bytes, random: np.random.Generator) -> bytes:
    """Up to four other bytes among the first 64: headers, counts, magic numbers."""
    for at in random.integers(min(64, len(content)), size=random.integers(1, 5)):
        content = _put(content, int(at), random.bytes(1))
    return content


def _insert(content: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(len(content)))
    return content[:at] + random.bytes(int(random.integers(1, 9))) + content[at:]


def _blank(content: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(len(content)))
    return _put(content, at, bytes(min(64, len(content) - at)))


HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
MISHAPS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "a bit is flipped": _flip,
    "bytes are garbled": _garble,
    "the header is garbled": _begin,
    "bytes are inserted": _insert,
    "a piece is zero": _blank,
    "it is cut short": lambda content, random: content[: int(random.integers(len(content)))],
    "its last bytes are missing": lambda content, random: content[: -int(random.integers(1, 9))],
    "it is there twice": lambda content, random: content + content,
    "something is behind it": lambda content, random: content + random.bytes(int(random.integers(1, 40))),
    "it is empty": lambda content, random: b"",
    "it is a page of the server": lambda content, random: HTML,
    "it is noise": lambda content, random: random.bytes(len(content)),
}


def mishap(content: bytes, random: np.random.Generator) -> tuple[str, bytes]:
    """One of them, and the file after it."""
    name = list(MISHAPS)[int(random.integers(len(MISHAPS)))]
    return name, MISHAPS[name](content, random)


def all_names(folders: Iterable[Path]) -> list[str]:
    """Every file and folder below these."""
    return sorted(str(path) for folder in folders for path in folder.rglob("*"))
