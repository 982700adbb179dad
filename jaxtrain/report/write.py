"""`write_report` and `write_comparison`: facts, figures, and the pages of both kinds.

Imports its neighbours. The fact that surprises: a report says nothing of when it was written, so the same run and data
give the same bytes, and a report that changes has another run behind it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from jaxtrain.data import Data
from jaxtrain.events import EventWriter
from jaxtrain.files import write_bytes, write_text
from jaxtrain.report import rows, words
from jaxtrain.report.comparison import hold_contest
from jaxtrain.report.facts import Facts, Finding, gather_facts
from jaxtrain.report.mistakes import Mistakes
from jaxtrain.report.overlay import overlay_figure
from jaxtrain.report.pages import render
from jaxtrain.report.pictures import Picture, Place, at, board_figures, pictures, png_of
from jaxtrain.result import Run
from jaxtrain.runs import Ensemble


def write_report(
    run: Run | Ensemble,
    data: Data | None,
    folder: Path,
    *,
    diagnosis: Sequence[Finding] | None = None,
    baseline: bool = True,
    no_data: str = "",
    events: EventWriter | None = None,
) -> Path:
    """Write report.html, which needs no other file, and report.md with its figures in report/.

    Args:
      run: a finished run, of one member or of several.
      data: what it was trained on; None leaves out what needs it.
      folder: of the run; manifest.json, config.json, checks.json and curves.png in it are made use of.
      diagnosis: lines of a section of that name; by default those of the summary.
      baseline: whether to train a linear network for comparison, which takes a few seconds once a process.
      no_data: why there is no data, for the reader.
      events: where figures of the mistakes go, for TensorBoard.

    Returns:
      The path of report.html.

    Raises:
      RequestError: the run was stopped and has no result yet.
      WorldError: a file cannot be written.
    """
    facts = gather_facts(run, data, folder, diagnosis=diagnosis, baseline=baseline, no_data=no_data)
    drawn = pictures(run, facts, folder)
    values = page_values(facts, drawn)
    for picture in drawn:
        if picture.own:
            (folder / picture.file).parent.mkdir(exist_ok=True)
            write_bytes(folder / picture.file, picture.png)
    write_text(folder / "report.md", render("report.md.j2", **values))
    write_text(folder / "report.html", render("report.html.j2", **values))
    if events is not None:
        for tag, figure in board_figures(facts).items():
            events.figure(tag, figure, facts.summary["steps"])
    return folder / "report.html"


def write_comparison(
    folders: Sequence[Path], output: Path, *, split: str | None = None, metric: str | None = None
) -> Path:
    """Write OUTPUT.html, which needs no other file, and OUTPUT.md with OUTPUT.png: finished runs against the first.

    Args:
      folders: of two finished runs or more.
      output: path of the files, without their endings or with .html.
      split: whose scores are compared; by default validation.
      metric: by default accuracy where the first has it, else loss.

    Returns:
      The path of the HTML file.

    Raises:
      RequestError: a run that is not finished, given twice, or without such a score.
      WorldError: a file cannot be written.
    """
    contest = hold_contest(folders, split=split, metric=metric)
    stem = output.with_suffix("") if output.suffix in (".html", ".md") else output
    page, text, image = (stem.with_name(stem.name + ending) for ending in (".html", ".md", ".png"))
    figure = overlay_figure({run.name: run.history for run in contest.contenders})
    picture = None
    if figure is not None:
        caption = "The mean over each run's seeds; the band is one standard deviation to either side."
        picture = Picture("curves", "Validation curves", caption, png_of(figure), image.name)
        write_bytes(image, picture.png)
    values = {"contest": contest, "words": words, "picture": picture}
    write_text(text, render("compare.md.j2", **values))
    write_text(page, render("compare.html.j2", **values))
    return page


def page_values(facts: Facts, drawn: Sequence[Picture]) -> dict[str, Any]:
    """What the templates of a run's report are given."""
    return {
        "facts": facts,
        "words": words,
        "rows": rows,
        "picture": {place: at(place, drawn) for place in get_args(Place)},
        "headline": facts.score(facts.split, facts.metric),
        "several": len(facts.seeds) > 1,
        "weakest": rows.weakest(facts),
        "is_classes": isinstance(facts.mistakes, Mistakes),
    }
