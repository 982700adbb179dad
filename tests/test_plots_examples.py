import sys

import numpy as np
import pytest

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.plots import batch_figure, worst_figure
from jaxtrain.plots.pictures import scaled

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(4, 6, 5, 1)).astype(np.float32)
STORED = RANDOM.integers(0, 256, (4, 6, 5, 1), dtype=np.uint8)
ANSWER = np.log([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.0005, 0.9991, 0.0004], [0.3, 0.3, 0.4]])
LABEL = np.array([0, 0, 2, 0])  # the first is right


def words(figure) -> list[str]:
    """All captions, in their order."""
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_a_batch_is_drawn_with_its_labels_on_one_stated_scale(tmp_path):
    figure = batch_figure(IMAGE, LABEL, ["cat", "dog", "owl"], tmp_path / "batch.png")
    *captions, scale = words(figure)
    assert captions == ["cat", "cat", "owl", "cat"]
    assert scale == f"one scale for all: black is {IMAGE.min():.3g}, white is {IMAGE.max():.3g}"
    pictures = [np.asarray(picture.get_array()) for picture in figure.axes[0].images]
    np.testing.assert_array_equal(pictures, scaled(IMAGE)[0])
    assert figure.get_suptitle() == "A batch as the network sees it: float32[4, 6, 5, 1]"
    assert (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG")


def test_at_most_32_are_drawn_and_the_title_says_so():
    figure = batch_figure(np.zeros((40, 2, 2, 3), np.float32), np.arange(40))
    assert len(figure.axes[0].images) == 32 and words(figure)[:32] == list(map(str, range(32)))
    assert "The first 32 of a batch of 40" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("label", "captions"),
    [
        (np.array([[0.7, 0.0, 0.3], [0.0, 1.0, 0.0]], np.float32), ["a: 70 %", "c: 30 %", "b: 100 %"]),  # mixup
        (np.array([[0.4, 0.35, 0.25], [0.999, 0.001, 0]]), ["a: 40 %", "b: 35 %", "a: 100 %"]),
        (np.array([[1.5, -2.0], [0.25, 3.0]]), ["1.5, -2", "0.25, 3"]),
        (np.array([0.5, 1234.5]), ["0.5", "1.23e+03"]),
        (np.array([[1.0], [1.0]]), ["1", "1"]),  # one column is a target, though it sums to 1
        (np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]), ["1, 2, 3, …", "5, 6, 7, …"]),
    ],
)
def test_labels_may_be_mixed_or_be_targets(label, captions):
    assert words(batch_figure(IMAGE[:2], label, ["a", "b", "c"]))[:-1] == captions


def test_features_are_the_rows_of_a_heat_map_around_zero(tmp_path):
    feature = np.array([[1.0, -3.0], [0.5, 2.0], [0.0, 0.0]])
    axes = batch_figure(feature, [1, 0, 1], ["a", "b"], tmp_path / "features.png").axes[0]
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), feature)
    assert axes.images[0].get_clim() == (-3.0, 3.0)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a", "b"]
    batch_figure(np.zeros((2, 3)), [0, 1], path=tmp_path / "zeros.png")


def test_pixels_go_from_the_lowest_to_the_highest_and_bytes_stay():
    pixels, low, high = scaled(np.array([-1.0, 0.0, 1.0, 3.0]).reshape(1, 2, 2, 1))
    assert pixels[0, :, :, 0].tolist() == [[0, 64], [128, 255]] and (low, high) == (-1, 3)
    np.testing.assert_array_equal(scaled(STORED)[0][..., :1], STORED)
    assert (scaled(np.full((1, 2, 2, 3), 7.0))[0] == 128).all()


def test_what_is_not_finite_is_red_and_does_not_set_the_scale():
    image = np.array([0.0, 1.0, np.nan, np.inf]).reshape(1, 2, 2, 1)
    pixels, low, high = scaled(image)
    assert pixels.reshape(4, 3).tolist() == [[0, 0, 0], [255, 255, 255], [255, 0, 0], [255, 0, 0]]
    assert (low, high) == (0, 1)
    assert (scaled(image[:, 1:])[0] == (255, 0, 0)).all()


def test_the_worst_come_first_with_what_was_said_and_what_is_right(tmp_path):
    figure = worst_figure(STORED, LABEL, ANSWER, ["cat", "dog", "owl"], tmp_path / "worst.png", count=3)
    assert words(figure) == [
        *["said dog: > 99.9 %", "is owl: < 0.1 %", "example 2"],
        *["said dog: 90.0 %", "is cat: 5.0 %", "example 1"],
        *["said owl: 40.0 %", "is cat: 30.0 %", "example 3"],
    ]
    pictures = [np.asarray(picture.get_array())[..., :1] for picture in figure.axes[0].images]
    np.testing.assert_array_equal(pictures, STORED[[2, 1, 3]])
    assert figure.get_suptitle().endswith("3 of 4 examples are wrong")
    assert (tmp_path / "worst.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ([0, 0, 2, 0], "only 3 of 4 examples are wrong;\n1 of the 4 shown are right"),
        ([0, 1, 2, 2], "only 1 of 4 examples is wrong;\n3 of the 4 shown are right"),
        ([0, 1, 1, 2], "none of 4 examples is wrong;\nthose shown are right"),
    ],
)
def test_fewer_errors_than_pictures_are_said(label, says):
    figure = worst_figure(STORED, label, ANSWER)
    assert says in figure.get_suptitle() and words(figure).count("right") == (ANSWER.argmax(axis=1) == label).sum()


def test_the_worst_of_features_are_a_heat_map():
    axes = worst_figure(IMAGE.reshape(4, -1), LABEL, ANSWER, count=2).axes[0]
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), IMAGE.reshape(4, -1)[[2, 1]])
    assert axes.get_yticklabels()[1].get_text() == "said 1: 90.0 %, is 0: 5.0 %, example 1"


@pytest.mark.parametrize(
    ("image", "label", "names", "message"),
    [
        (np.zeros(3), [0, 0, 0], None, r"shape \(3,\); expected"),
        (np.zeros((0, 2, 2, 1)), [], None, "none 0"),
        (IMAGE, [0, 1], None, r"4 examples and labels of shape \(2,\)"),
        (IMAGE, [0, 1, 3, 2], ["a", "b", "c"], "labels go from 0 to 3; expected 0 to 2"),
        (IMAGE, [0, 1, -1, 2], None, "go from -1"),
        (IMAGE, np.eye(4), ["a", "b"], "2 class names for 4 classes"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(image, label, names, message):
    with pytest.raises(RequestError, match=message):
        batch_figure(image, label, names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count is 0; give 1 to 32"),
        ({"count": 33}, "count is 33"),
        ({"image": STORED[:3]}, "3 examples and 4 labels"),
        ({"label": [0, 0, 3, 0]}, "expected 0 to 2"),
        ({"class_names": ["a"]}, "1 class names for 3 classes"),
        ({"log_probability": np.exp(ANSWER) * 5}, "log_softmax"),
    ],
)
def test_worst_examples_that_do_not_fit_are_refused(change, message):
    with pytest.raises(RequestError, match=message):
        worst_figure(**({"image": STORED, "label": LABEL, "log_probability": ANSWER} | change))


def test_a_file_that_cannot_be_written_is_the_worlds_fault(tmp_path):
    with pytest.raises(WorldError, match="cannot be written"):
        batch_figure(IMAGE, LABEL, path=tmp_path / "missing" / "batch.png")


def test_pyplot_is_never_loaded(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    batch_figure(IMAGE, LABEL, path=tmp_path / "batch.png")
    assert ("matplotlib.pyplot" in sys.modules) == before
