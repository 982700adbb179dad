"""Images in folders, one a class; and arrays in an .npz file.

Imports nothing of jaxtrain but `errors` and its neighbours here; Pillow is imported when a folder is read. The
surprise: every header is read before any image is decoded, so an absurd or wrong size or a stray file costs nothing.
"""

import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.data.idx import first_bytes
from jaxtrain.data.memory import check_fits
from jaxtrain.errors import RequestError, WorldError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""What is decoded, whatever a file calls itself: Pillow knows others, and has Ghostscript run PostScript."""

MAX_SIDE = 8192
MAX_PIXELS = MAX_SIDE**2
"""Largest image that is opened. A file of a few kilobytes can claim, and fill, gigabytes."""

_NO_NPZ = (
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, EOFError, MemoryError),
    *(ValueError, KeyError, RuntimeError, OverflowError, TypeError, AttributeError, IndexError),
)
"""What NumPy raises for a header that makes no sense: it parses it as a Python literal and believes its lengths."""

NPZ_ARRAYS = ("image", "label", "x_train", "y_train", "x_test", "y_test", "class_names")
"""What is read of an .npz file; others may be in it."""

GREY_MODES, COLOUR_MODES = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Source:
    """What a source gives: arrays as `from_arrays` takes them, and the names of the classes if it has any."""

    image: np.ndarray
    label: np.ndarray
    test: tuple[np.ndarray, np.ndarray] | None
    class_names: tuple[str, ...] | None


def read_npz(path: Path) -> Source:
    """Arrays of an .npz file: image and label, or x_train and y_train; x_test, y_test and class_names if there.

    Raises:
      WorldError: if the file is missing, damaged, no .npz file, or more than the memory holds.
      RequestError: if it lacks the arrays, or holds Python objects (which only a pickle could read).
    """
    try:
        with path.open("rb") as file:  # opened here, for NumPy leaves a file open that it refuses
            if file.read(6) == b"\x93NUMPY":  # looked at here, for NumPy would read all of it
                raise RequestError(f"{path} is a single array; expected an .npz file, as numpy.savez writes it")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                _check_members(path, arrays.zip.infolist())
                return _npz_source(path, arrays)
    except FileNotFoundError:
        raise WorldError(f"there is no file {path}; give data.path an .npz file") from None
    except (RequestError, WorldError):  # a ValueError and a RuntimeError
        raise
    except _NO_NPZ as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise RequestError(f"{path} holds Python objects; save plain arrays of numbers") from None
        why = " ".join(str(error).split()) or type(error).__name__
        raise WorldError(f"{path} is damaged or no .npz file ({why:.200}); write it again with numpy.savez") from None
    except OSError as error:
        raise WorldError(f"{path} cannot be read: {error.strerror or error}") from None


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise a WorldError unless what will be read has a bound, and fits into the memory."""
    read = [member for member in members if member.filename.removesuffix(".npy") in NPZ_ARRAYS]
    # Of bzip2 and LZMA Python unpacks a kilobyte into gigabytes at once, whatever size the archive's directory says.
    if other := [m for m in read if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]:
        raise WorldError(f"{path}: {other[0].filename} is not packed as numpy.savez does it; write the file with that")
    check_fits(path, sum(member.file_size for member in read))


def _npz_source(path: Path, arrays: Any) -> Source:
    pair = next((p for p in (("image", "label"), ("x_train", "y_train")) if set(p) <= set(arrays)), None)
    if pair is None:
        raise RequestError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; expected image and label, or x_train and y_train"
            " (and x_test, y_test, class_names)"
        )
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise RequestError(f"{path} holds one of x_test and y_test; give both or neither")
    test = (arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else None
    names = arrays["class_names"] if "class_names" in arrays else None
    if names is not None and names.ndim != 1:
        raise RequestError(f"{path}: class_names has shape {names.shape}; expected one name for each class")
    return Source(arrays[pair[0]], arrays[pair[1]], test, None if names is None else tuple(map(str, names)))


def read_folder(path: Path, image_size: int | None, report: Callable[[str], Any]) -> Source:
    """Images of PATH/CLASS/*, or PATH/train/CLASS/* and PATH/test/CLASS/*; classes in the order of their names.

    Grey if all images are, else RGB. With `image_size` each is resized to that square, whatever its proportions.

    Returns:
      A `Source` with images u8[N, H, W, 1 or 3].

    Raises:
      WorldError: if the folder is missing, or an image is damaged or absurdly large.
      RequestError: if a class is empty, or sizes differ and no `image_size` is given.
    """
    if not os.path.isdir(path):  # unlike the method it raises for no path, however wrong
        raise WorldError(f"there is no folder {path}; give data.path a folder with one sub-folder of images a class")
    try:
        return _read_folder(path, image_size, report)
    except OSError as error:
        raise WorldError(f"{path} cannot be read: {error.strerror or error} ({error.filename})") from None


def _read_folder(path: Path, image_size: int | None, report: Callable[[str], Any]) -> Source:
    has_train = (path / "train").is_dir()
    root = path / "train" if has_train else path
    names = _classes(root)
    if len(names) < 2:
        raise RequestError(f"{root} has {len(names)} sub-folders; expected one for each class, at least 2")
    files = _list_files(root, names, report)
    test_files = []
    if has_train and (path / "test").is_dir():
        if extra := set(_classes(path / "test")) - set(names):
            raise RequestError(f"{path / 'test'} has the class {min(extra)!r}, which {root} has not; remove or add it")
        test_files = _list_files(path / "test", names, report)
    mode, size = _survey([f for f, _ in files + test_files], image_size)
    image, label = _load(files, mode, size)
    shown = tuple(os.fsencode(name).decode(errors="replace") for name in names)  # names on a disk may be any bytes
    return Source(image, label, _load(test_files, mode, size) if test_files else None, shown)


def _classes(root: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _list_files(root: Path, names: Sequence[str], report: Callable[[str], Any]) -> list[tuple[Path, int]]:
    files: list[tuple[Path, int]] = []
    for label, name in enumerate(names):
        present = sorted(p for p in (root / name).glob("*") if p.is_file() and not p.name.startswith("."))
        images = [p for p in present if p.suffix.lower() in EXTENSIONS]
        if not images:
            raise RequestError(
                f"{root / name} holds no images ({', '.join(EXTENSIONS)}); add some, or remove the folder of that class"
            )
        if other := set(present) - set(images):
            report(f"{root / name}: left out {len(other)} files that are no images, such as {min(other).name}")
        files += [(p, label) for p in images]
    return files


def _survey(files: Sequence[Path], image_size: int | None) -> tuple[str, tuple[int, int]]:
    """Mode (L or RGB) and size (width, height) that all images are brought to, from their headers."""
    mode, size, first = "L", None, files[0]
    for file in files:
        image_mode, own = _look(file)
        if image_mode not in GREY_MODES + COLOUR_MODES:
            raise RequestError(f"{file} has mode {image_mode} (not 8 bits a channel); convert it to L or RGB")
        mode = "RGB" if image_mode in COLOUR_MODES else mode
        if size not in (None, own) and image_size is None:
            raise RequestError(
                f"{first} is {size[0]} x {size[1]} and {file} {own[0]} x {own[1]}; set data.image_size to the side to"
                " which all are resized"
            )
        size = own if size is None else size
    return mode, (image_size, image_size) if image_size is not None else size or (0, 0)


def _look(file: Path) -> tuple[str, tuple[int, int]]:
    """Mode and size of an image that may be decoded."""

    def look(image: Any) -> tuple[str, tuple[int, int]]:
        found = image.mode, image.size
        if image.format == "PNG":
            image.verify()  # its pixels have a checksum, at which Pillow looks only if it is asked to
        return found

    mode, size = _open(file, look)
    if size[0] * size[1] > MAX_PIXELS:
        raise WorldError(f"{file} has {size[0]} x {size[1]} pixels; at most {MAX_PIXELS:,} are opened: shrink it")
    return mode, size


def _load(files: Sequence[tuple[Path, int]], mode: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    channels = 3 if mode == "RGB" else 1
    shape = len(files), size[1], size[0], channels
    try:
        images = np.empty(shape, np.uint8)
    except MemoryError:
        raise WorldError(
            f"the memory does not hold {len(files)} images of {size[0]} x {size[1]}; make them smaller"
        ) from None
    for i, (file, _) in enumerate(files):
        images[i] = _open(file, lambda image: pixels(image, mode, size))
    return images, np.array([label for _, label in files])


def read_image(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An image file as u8[H, W, C]: grey where C is 1, else RGB; resized to H x W where it has another size.

    Raises:
      WorldError: if the file is missing, damaged, no image or absurdly large.
    """
    if not os.path.isfile(path):
        raise WorldError(f"there is no image file {path}")
    height, width, channels = shape
    _look(path)
    return _open(path, lambda image: pixels(image, "L" if channels == 1 else "RGB", (width, height)))


def pixels(image: Any, mode: str, size: tuple[int, int]) -> np.ndarray:
    """u8[H, W, 1 or 3] of a Pillow image, brought to `mode` (L or RGB) and `size` (width, height)."""
    image = image.convert(mode)
    if image.size != size:
        image = image.resize(size)
    array = np.asarray(image, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _open(file: Path, read: Callable[[Any], Any]) -> Any:
    from PIL import Image

    try:
        with warnings.catch_warnings():  # Pillow warns of large images: for us that is an error, by our own limit
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                return read(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise WorldError(f"{file} claims more than {MAX_PIXELS:,} pixels and is not opened; shrink it") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        start = first_bytes(file).hex(" ") or "with nothing"
        raise WorldError(f"{file} is damaged or no image ({error}); it begins {start}: replace it") from None
