"""What arrays must be like before anything is built on them: one sentence for each thing that is wrong.

Imports nothing of jaxtrain but `errors`. The surprise: most of what is refused here would otherwise train without a
word. A label of -1 is silently the last class, labels [N, 1] broadcast to [N, N], and one NaN pixel ends in a NaN loss.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtrain.errors import RequestError


def as_examples(images: Any, what: str) -> np.ndarray:
    """u8|f32[N, ...] as stored, from what the user gave; [N, H, W] becomes [N, H, W, 1].

    Raises:
      RequestError: for another dtype, no examples, fewer than two axes, or values that are not finite.
    """
    images = _as_array(images, what)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise RequestError(
            f"{what} have dtype {images.dtype}; expected uint8 (0 to 255) or floats: convert with"
            " .astype(np.uint8) or .astype(np.float32)"
        )
    if images.ndim < 2:
        raise RequestError(f"{what} have shape {images.shape}; expected [N, H, W, C], [N, H, W] or features [N, D]")
    if 0 in images.shape:
        raise RequestError(f"{what} have shape {images.shape}, so there are no examples; give at least two a class")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == np.uint8:
        return images
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        images = images.astype(np.float32, copy=False)
    _check_finite(images, what)
    return images


def as_labels(labels: Any, what: str, num_given: int) -> np.ndarray:
    """i32[N] from integers, f32[N, T] from floats.

    Raises:
      RequestError: for another number than `num_given`, another dtype or shape, or targets that are not finite.
    """
    labels = _as_array(labels, what)
    if labels.ndim == 0 or len(labels) != num_given:
        count = "one number" if labels.ndim == 0 else len(labels)
        raise RequestError(f"{num_given} images and {count} {what} were given; give one label for each image")
    if labels.dtype.kind in "iu":
        if labels.ndim != 1:
            remedy = "use labels[:, 0]" if labels.shape[1:] == (1,) else "one-hot labels: use labels.argmax(-1)"
            raise RequestError(f"{what} have shape {labels.shape}; expected class indices of shape [N]: {remedy}")
        return np.clip(labels, np.iinfo(np.int32).min, np.iinfo(np.int32).max).astype(np.int32)
    if labels.dtype.kind == "f":
        if labels.ndim > 2 or 0 in labels.shape:
            raise RequestError(f"{what} have shape {labels.shape}; expected regression targets of shape [N] or [N, T]")
        with np.errstate(over="ignore"):  # as above
            targets = labels.astype(np.float32).reshape(len(labels), -1)
        _check_finite(targets, what)
        return targets
    raise RequestError(
        f"{what} have dtype {labels.dtype}; expected integers (classes from 0) or floats (regression targets)"
    )


def check_test(image: np.ndarray, label: np.ndarray, test_image: np.ndarray, test_label: np.ndarray) -> None:
    """Raise RequestError unless the test split has the shapes and dtypes of the training examples."""
    pairs = (("images", image, test_image), ("labels", label, test_label))
    for what, ours, theirs in pairs:
        if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
            raise RequestError(
                f"training {what} are {ours.dtype}{list(ours.shape[1:])} and test {what} {theirs.dtype}"
                f"{list(theirs.shape[1:])} each; give both splits the same shape and dtype"
            )


def check_classes(
    label: np.ndarray, test_label: np.ndarray, num_classes: int | None, class_names: Sequence[str] | None
) -> int:
    """The number of classes. Raises RequestError for labels outside of them, naming the first."""
    if class_names is not None:
        _check_names(class_names)
    if num_classes is None and class_names is not None:
        num_classes = len(class_names)
    num_classes = whole_number(num_classes, "num_classes") if num_classes is not None else None
    if num_classes is None:
        num_classes = max(1, int(np.concatenate([label, test_label]).max()) + 1)
        if num_classes > len(label):
            raise RequestError(
                f"the largest label is {num_classes - 1}, so there would be {num_classes} classes for {len(label)}"
                " examples; number the classes from 0 on, or give num_classes"
            )
    if class_names is not None and len(class_names) != num_classes:
        raise RequestError(f"{len(class_names)} class names were given for {num_classes} classes; give one for each")
    for what, labels in (("labels", label), ("test labels", test_label)):
        bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if len(bad):
            raise RequestError(
                f"{what}[{bad[0]}] is {labels[bad[0]]}; classes are 0 to {num_classes - 1}"
                f" ({len(bad)} such labels): correct them, or give num_classes"
            )
    if num_classes < 2:
        raise RequestError(f"there is {num_classes} class; classification needs at least 2 (give num_classes)")
    return num_classes


def check_targets(num_classes: int | None, class_names: Sequence[str] | None) -> None:
    """Raise RequestError if classes are spoken of in regression."""
    if num_classes is not None or class_names is not None:
        raise RequestError(
            "the labels are floats, which means regression, and num_classes or class_names was given;"
            " for classification give integer labels: labels.astype(int)"
        )


def check_pair(test: Any) -> tuple[Any, Any]:
    """The test split as it was given, if that is images and labels."""
    if not isinstance(test, tuple | list) or len(test) != 2:
        given = f"{len(test)} things" if isinstance(test, tuple | list) else f"a {type(test).__name__}"
        raise RequestError(f"test is {given}; expected a pair (images, labels)")
    return test[0], test[1]


def whole_number(value: Any, what: str) -> int:
    """`value` as an int, or RequestError: True is no number, and 2.5 is not rounded."""
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise RequestError(f"{what} is {value!r:.60}; expected a whole number")


def _as_array(given: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:  # lists of unequal lengths
        raise RequestError(f"{what} are no array ({error}); give all examples one shape") from None


def _check_names(class_names: Any) -> None:
    names = class_names.tolist() if isinstance(class_names, np.ndarray) else class_names
    listed = isinstance(names, Sequence) and not isinstance(names, str | bytes)
    if not listed or not all(isinstance(name, str | int | np.integer) for name in names):
        raise RequestError(f"class_names is {class_names!r:.60}; expected a list of names, one for each class")
    if bad := next((name for name in map(str, names) if name.encode(errors="replace").decode() != name), None):
        raise RequestError(f"class_names holds {bad!r:.60}, which is no UTF-8; rename the class")


def _check_finite(values: np.ndarray, what: str, chunk: int = 4096) -> None:
    for start in range(0, len(values), chunk):  # in pieces: the mask of a large array would be a large array
        finite = np.isfinite(values[start : start + chunk])
        if not finite.all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            index = (start + index[0], *index[1:])
            raise RequestError(
                f"{what}[{', '.join(map(str, index))}] is {values[index]}; every value must be a finite float32:"
                " remove or replace it"
            )
