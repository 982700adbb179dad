"""The CUSTOM SCALARS tab: which curves share a chart, and the band of a mean over members.

Imports nothing of jaxtrain; tensorboardX inside the function that needs it. The fact that surprises: TensorBoard
colours a line by the folder it lies in, never by its tag. Two bands of one folder would look alike, so each split's
band lies in the split's own folder, as the curves of a single run do.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Band(NamedTuple):
    """A line with a margin: the exact tags of three curves of one folder, which must have equal steps."""

    value: str
    lower: str
    upper: str


Charts = Mapping[str, Mapping[str, Band | Sequence[str]]]
"""Heading -> title of a chart -> what is on it: a Band, or regular expressions of the tags that share the chart."""


def custom_scalars(charts: Charts) -> Any:
    """A Summary for `EventWriter.put` by which the CUSTOM SCALARS tab shows `charts`.

    Each run that has the tags is drawn. Written by one folder they serve all; TensorBoard merges those of several
    folders, leaves out doubles, and takes the latest ones of each.
    """
    from tensorboardX import summary

    layout = importlib.import_module("tensorboardX.proto.layout_pb2").Layout()
    for heading, parts in charts.items():
        category = layout.category.add(title=heading)
        for title, content in parts.items():
            chart = category.chart.add(title=title)
            if isinstance(content, Band):
                # One a chart: with two, TensorBoard complains of every run that has neither.
                chart.margin.series.add(**content._asdict())
            else:
                chart.multiline.tag.extend(content)
    whole = summary.custom_scalars({})
    whole.value[0].tensor.string_val[0] = layout.SerializeToString()
    return whole


def run_layout(metrics: Sequence[str]) -> Charts:
    """Training against validation, and below it how far they are apart; for a single run."""
    together = {metric: [f"^{metric}$"] for metric in metrics}
    apart = {f"gap of the {metric}: validation less training": [f"^gap/{metric}$"] for metric in metrics}
    return {"training against validation": together, "gap (overfitting)": apart}


def band(metric: str) -> Band:
    """The tags of a metric's mean over members, and of the mean less and plus one standard deviation.

    They belong in the folder of a split (train/, val/) of the run that holds the members. None of them is `metric`
    itself, which is the members' own: TensorBoard complains of each run that has a part of a band.
    """
    return Band(f"{metric}/mean", f"{metric}/low", f"{metric}/high")


def band_scalars(metric: str, mean: float, deviation: float) -> dict[str, float]:
    """The points of `band(metric)` at a step, tag -> number; with "val/accuracy" as `metric` they begin with val/."""
    return dict(zip(band(metric), (mean, mean - deviation, mean + deviation), strict=True))


def member_layout(metrics: Sequence[str]) -> Charts:
    """One chart a metric with its band, training and validation together; for the run that holds the members."""
    return {"members (mean ± standard deviation)": {metric: band(metric) for metric in metrics}}
