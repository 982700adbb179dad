"""Examples to look at: a batch as the network gets it, and those that it gets most wrong.

Imports as `plots` says. The fact that surprises: an example with a large loss need not be wrong, nor the other way
round. Of many classes the most probable one may have 20 %; so what is right says so.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxtrain.errors import RequestError
from jaxtrain.plots import style
from jaxtrain.plots.confusion import names_of
from jaxtrain.plots.pictures import COLUMNS, Caption, draw_examples
from jaxtrain.plots.style import QUIET, TEST, VAL
from jaxtrain.scores import worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 32
"""Examples in a figure."""

BLACK = "#222222"


def batch_figure(
    image: ArrayLike,
    label: ArrayLike,
    class_names: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    columns: int = COLUMNS,
) -> "Figure":
    """The first 32 examples of a batch as the network sees them, with their labels.

    Images share one scale from black, the lowest value shown, to white, the highest; not finite is red. Of features
    each example is a row of a heat map.

    Args:
      image: f[B, H, W, C], [B, H, W] or features [B, D], normalised.
      label: i[B]; probabilities f[B, K], of which the two largest are named (mixup); or targets f[B, T] or f[B].
        Rows that are not negative and sum to 1 are probabilities, unless there is one column only.
      class_names: K names; by default the numbers.
      path: PNG (or what its ending says) to write.
      title: above all.
      columns: images in a row; with fewer the figure is narrower, and needs a short title.

    Raises:
      RequestError: shapes that do not fit, or a label without a name.
      WorldError: the file cannot be written.
    """
    image, label = _as_examples(image), np.asarray(label)
    if label.ndim not in (1, 2) or len(label) != len(image):
        raise RequestError(f"{len(image)} examples and labels of shape {label.shape}; give one label an example")
    captions = [[(line, BLACK) for line in lines] for lines in _label_lines(label[:MOST], class_names)]
    what = "A batch" if len(image) <= MOST else f"The first {MOST} of a batch of {len(image)}"
    title = title or f"{what} as the network sees it: {image.dtype}{list(image.shape)}"
    figure = draw_examples(image[:MOST], captions, title, columns)
    style.save(figure, path)
    return figure


def worst_figure(
    image: ArrayLike,
    label: ArrayLike,
    log_probability: ArrayLike,
    class_names: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    count: int = 16,
    title: str | None = None,
    columns: int = COLUMNS,
) -> "Figure":
    """The examples with the largest loss, largest first: what they are, and what the network said, with probabilities.

    Args:
      image: as stored, u8|f[N, H, W, C], [N, H, W] or features [N, D].
      label: i[N], classes from 0.
      log_probability: f[N, K], natural logarithms.
      class_names: K names; by default the numbers.
      path: PNG (or what its ending says) to write.
      count: examples drawn, 1 to 32.
      title: above all.
      columns: as for `batch_figure`.

    Raises:
      RequestError: as for `scores.worst`; shapes that do not fit, or another `count`.
      WorldError: the file cannot be written.
    """
    if not 1 <= count <= MOST:
        raise RequestError(f"count is {count}; give 1 to {MOST} examples")
    image, label, prediction = _as_examples(image), np.asarray(label), np.asarray(log_probability)
    shown = worst(label, prediction, count)
    if len(image) != len(label):
        raise RequestError(f"{len(image)} examples and {len(label)} labels; give one label an example")
    names, answer = names_of(class_names, prediction.shape[1]), prediction.argmax(axis=1)
    captions = [_verdict(names, int(label[i]), int(answer[i]), np.exp(prediction[i]), i) for i in shown]
    figure = draw_examples(image[shown], captions, title or _describe(answer != label, shown), columns)
    style.save(figure, path)
    return figure


def _verdict(names: Sequence[str], label: int, answer: int, probability: np.ndarray, index: int) -> Caption:
    truth, number = f"is {names[label]}: {_percent(probability[label])}", (f"example {index}", QUIET)
    if answer == label:
        return [("right", QUIET), (truth, TEST), number]
    return [(f"said {names[answer]}: {_percent(probability[answer])}", VAL), (truth, TEST), number]


def _describe(wrong: np.ndarray, shown: np.ndarray) -> str:
    """What is shown, and that not all of it is wrong, where that is so."""
    num_wrong, num_right = int(wrong.sum()), int((~wrong[shown]).sum())
    only = "only " if 0 < num_wrong < len(shown) else ""
    errors = f"{only}{num_wrong or 'none'} of {len(wrong):,} examples {'is' if num_wrong < 2 else 'are'} wrong"
    head = f"Where the network is most wrong, the largest loss first: {errors}"
    if not num_right:
        return head
    some = "those shown" if num_right == len(shown) else f"{num_right} of the {len(shown)} shown"
    return f"{head};\n{some} are right, but it was least sure of them"


def _label_lines(label: np.ndarray, class_names: Sequence[str] | None) -> list[list[str]]:
    """The caption of each example, of one line or two."""
    if label.dtype.kind in "iu" and label.ndim == 1:
        num_classes = int(label.max(initial=0)) + 1
        names = names_of(class_names, num_classes if class_names is None else len(class_names))
        if label.min(initial=0) < 0 or num_classes > len(names):
            raise RequestError(f"labels go from {label.min()} to {label.max()}; expected 0 to {len(names) - 1}")
        return [[names[k]] for k in label]
    if label.ndim == 2 and _are_probabilities(label):
        names = names_of(class_names, label.shape[1])
        largest = np.argsort(-label, axis=1, kind="stable")[:, :2]
        return [_shares(names, row, top) for row, top in zip(label, largest, strict=True)]
    return [[_numbers(np.atleast_1d(row))] for row in label]


def _are_probabilities(label: np.ndarray) -> bool:
    return label.shape[1] > 1 and bool((label >= 0).all()) and np.allclose(label.sum(axis=1), 1, atol=1e-3)


def _shares(names: Sequence[str], probability: np.ndarray, top: np.ndarray) -> list[str]:
    """The two largest; one line where the other rounds to nothing."""
    return [f"{names[k]}: {100 * probability[k]:.0f} %" for k in top if k == top[0] or probability[k] >= 0.005]


def _numbers(target: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in target[:3]) + (", …" if len(target) > 3 else "")


def _percent(probability: float) -> str:
    percent = 100 * probability
    return "< 0.1 %" if percent < 0.1 else "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"


def _as_examples(image: ArrayLike) -> np.ndarray:
    """[N, H, W, C] or [N, D], of the dtype that was given."""
    image = np.asarray(image)
    if image.ndim not in (2, 3, 4) or not image.size:
        raise RequestError(f"examples have shape {image.shape}; expected [N, H, W, C], [N, H, W] or [N, D], none 0")
    return image[..., None] if image.ndim == 3 else image
