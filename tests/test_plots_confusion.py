import sys

import numpy as np
import pytest

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.plots import confusion_figure
from jaxtrain.scores import per_class

MATRIX = np.array([[90, 8, 2], [1, 49, 0], [0, 0, 50]])


def numbers(axes) -> dict[tuple[int, int], str]:
    """(row, column) -> the text of a cell."""
    places = {text.get_text(): text.get_position() for text in axes.texts}
    return {(round(y), round(x)): text for text, (x, y) in places.items()}


def test_cells_hold_the_counts_and_the_errors_their_share_of_the_row(tmp_path):
    figure = confusion_figure(MATRIX, path=tmp_path / "confusion.png")
    table = figure.axes[0]
    assert numbers(table) == {(i, k): str(MATRIX[i, k]) for i, k in np.argwhere(MATRIX) if MATRIX[i, k]}
    errors = np.asarray(table.images[0].get_array())
    np.testing.assert_allclose(errors, [[0, 8, 2], [2, 0, 0], [0, 0, 0]])
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_the_diagonal_is_covered_in_grey():
    _, cover = confusion_figure(MATRIX).axes[0].images
    assert np.ma.getmaskarray(cover.get_array()).tolist() == (np.eye(3) == 0).tolist()


def test_beside_it_stands_the_recall_of_each_row():
    beside = confusion_figure(MATRIX).axes[1]
    np.testing.assert_allclose([bar.get_width() for bar in beside.patches], 100 * (1 - per_class(MATRIX).recall))
    assert [text.get_text() for text in beside.texts] == ["90.0 %", "98.0 %", "100.0 %"]


def test_the_title_counts_the_errors_and_names_the_most_frequent():
    title = confusion_figure(MATRIX, ["cat", "dog", "owl"]).get_suptitle()
    assert "11 of 200 examples are wrong (5.50 %)" in title
    assert "cat taken for dog (8), cat taken for owl (2), dog taken for cat (1)" in title
    assert confusion_figure(MATRIX, title="mine").get_suptitle() == "mine"


@pytest.mark.parametrize(("num_classes", "cells", "names"), [(20, 20, 20), (21, 0, 21), (101, 0, None)])
def test_numbers_go_at_20_classes_and_names_at_100(num_classes, cells, names):
    table = confusion_figure(np.eye(num_classes, dtype=int)).axes[0]
    assert len(table.texts) == cells
    assert names is None or len(table.get_yticklabels()) == names


def test_classes_without_examples_without_errors_and_long_names_are_drawn(tmp_path):
    figure = confusion_figure(np.diag([5, 0]), ["a" * 40, "b"], tmp_path / "long.png")
    assert figure.axes[0].get_yticklabels()[0].get_text() == "a" * 15 + "…"
    assert [text.get_text() for text in figure.axes[1].texts] == ["100.0 %", "no example"]
    confusion_figure([[0, 4], [0, 0]], path=tmp_path / "wrong.png")


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [
        (np.zeros((2, 3), int), None, r"int64\[2, 3\]; expected counts \[K, K\]"),
        (np.eye(2), None, "float64"),
        (-np.eye(2, dtype=int), None, "expected counts"),
        (np.zeros((2, 2), int), None, "holds no example"),
        (MATRIX, ["cat", "dog"], "2 class names for 3 classes"),
    ],
)
def test_what_is_no_matrix_of_counts_is_refused(matrix, names, message):
    with pytest.raises(RequestError, match=message):
        confusion_figure(matrix, names)


def test_a_file_that_cannot_be_written_is_the_worlds_fault(tmp_path):
    with pytest.raises(WorldError, match="cannot be written"):
        confusion_figure(MATRIX, path=tmp_path / "missing" / "confusion.png")


def test_pyplot_is_never_loaded(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    confusion_figure(MATRIX, path=tmp_path / "confusion.png")
    assert ("matplotlib.pyplot" in sys.modules) == before
