"""The figures of a report as PNG, each with what a newcomer has to know to read it.

Imports facts and plots. The fact that surprises: the curves are taken from the run's folder where they are, for drawing
them again is a third of the report's time.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxtrain import plots
from jaxtrain.report.facts import Facts
from jaxtrain.report.mistakes import Mistakes, Residuals
from jaxtrain.result import Run
from jaxtrain.runs import Ensemble

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
NUM_WORST = 16
Place = Literal["curves", "together", "confusion", "worst", "calibration", "residuals"]


@dataclass(frozen=True)
class Picture:
    """A figure, where it belongs, and what it says."""

    place: Place
    title: str
    caption: str
    png: bytes
    file: str  # below the run's folder, for Markdown; written there unless it is the run's own
    own: bool = True
    photograph: bool = False  # it shows examples, whose brightness must not be turned round on a dark page

    @property
    def width(self) -> int:
        """In pixels; the header of a PNG has it at a fixed place."""
        return int.from_bytes(self.png[16:20], "big")

    @property
    def height(self) -> int:
        """In pixels."""
        return int.from_bytes(self.png[20:24], "big")


def pictures(run: Run | Ensemble, facts: Facts, folder: Path) -> tuple[Picture, ...]:
    """All figures that there is something to draw for, in the order of the report."""
    found = [*_curves(run, facts, folder), *_together(facts)]
    if isinstance(facts.mistakes, Mistakes):
        found += _of_classes(facts, facts.mistakes)
    elif isinstance(facts.mistakes, Residuals):
        caption = "Left: on the line, the answer is right. Right: how far it is off; a hill beside 0 is a bias."
        figure = plots.residual_figure(facts.mistakes.target, facts.mistakes.predicted)
        found.append(_picture("residuals", "Predicted against true", caption, figure))
    return tuple(found)


def board_figures(facts: Facts) -> "dict[str, Figure]":
    """The mistakes for TensorBoard's IMAGES tab, by tag: as narrow as it shows an image, with a short title."""
    mistakes = facts.mistakes
    if isinstance(mistakes, Residuals):
        return {"residuals": plots.residual_figure(mistakes.target, mistakes.predicted)}
    if not isinstance(mistakes, Mistakes):
        return {}
    names = [row.name for row in mistakes.classes]
    title = "the worst answers on validation"
    examples = (mistakes.image, mistakes.label, mistakes.log_probability)
    return {
        "confusion_matrix": plots.confusion_figure(mistakes.matrix, names, compact=True),
        "worst_examples": plots.worst_figure(*examples, names, count=12, columns=3, title=title),
    }


def _curves(run: Run | Ensemble, facts: Facts, folder: Path) -> Iterator[Picture]:
    caption = (
        "Both are measured alike, without dropout and augmentation, so the gap between them was learnt by heart."
        " While both losses still fall, longer training helps; where only that of training does, it helps no more."
    )
    title, path = "Curves", folder / "curves.png"
    if path.is_file():
        yield Picture("curves", title, caption, path.read_bytes(), "curves.png", own=False)
        return
    figure = _draw_curves(run, facts)
    if figure is not None:
        yield _picture("curves", title, caption, figure)


def _draw_curves(run: Run | Ensemble, facts: Facts) -> "Figure | None":
    test = facts.summary.get("test")
    if isinstance(run, Run):
        return plots.curves(run.history, test=test) if run.history else None
    members = [member for member in run.living if member.history]
    seeds = [member.seed for member in members]
    return plots.member_curves([member.history for member in members], seeds=seeds, test=test) if members else None


def _together(facts: Facts) -> Iterator[Picture]:
    report = facts.summary.get("ensemble", {}).get("val", {})
    if report.get("num_members", 1) > 1 and "mean_of_probabilities" in report:
        caption = (
            "Left and middle: the answer of 1, 2, … members together; what rises on the left, or falls in the middle,"
            " is gained by training several. Right: how often an answer is right, by how sure it is."
        )
        figure = plots.ensemble_figure(report)
        yield _picture("together", "What the members gain together, on validation", caption, figure)


def _of_classes(facts: Facts, mistakes: Mistakes) -> Iterator[Picture]:
    names = [row.name for row in mistakes.classes]
    caption = "A row is what it is, a column what the network says. The diagonal is right and has no colour."
    yield _picture(
        "confusion", "Which class is taken for which", caption, plots.confusion_figure(mistakes.matrix, names)
    )
    caption = (
        "The examples that cost the most. Look for labels that are wrong, examples that nobody could tell, and a kind"
        " that is missing from training."
    )
    worst = plots.worst_figure(mistakes.image, mistakes.label, mistakes.log_probability, names, count=NUM_WORST)
    yield _picture("worst", "The worst answers", caption, worst, photograph=mistakes.image.ndim > 2)
    if len(facts.seeds) == 1:  # of several the figure of what they gain together has it
        caption = (
            "If of all answers given with 80 % confidence 80 % are right, the curve is on the line and the"
            " probabilities can be believed."
        )
        figure = plots.reliability_figure(mistakes.log_probability, mistakes.label)
        yield _picture("calibration", "Can its probabilities be believed?", caption, figure)


def _picture(place: Place, title: str, caption: str, figure: "Figure", *, photograph: bool = False) -> Picture:
    return Picture(place, title, caption, png_of(figure), f"report/{place}.png", photograph=photograph)


def png_of(figure: "Figure") -> bytes:
    """The file, without the name of the program that wrote it, so that equal figures are equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def at(place: Place, found: Sequence[Picture]) -> Picture | None:
    """The figure of a place, if there is one."""
    return next((picture for picture in found if picture.place == place), None)
