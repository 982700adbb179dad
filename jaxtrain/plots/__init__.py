"""Figures from arrays and rows, written as PNG.

Imports `types`, `errors`, `config`, `optim.schedules` and `scores`; Matplotlib is imported when a figure is drawn. The
fact that surprises: pyplot is not used, so nothing is kept open and nothing depends on a display.
"""

from jaxtrain.plots.calibration import reliability_figure, residual_figure
from jaxtrain.plots.confusion import confusion_figure
from jaxtrain.plots.curves import curves, plot_schedule
from jaxtrain.plots.ensemble import ensemble_figure
from jaxtrain.plots.examples import batch_figure, worst_figure
from jaxtrain.plots.filters import filter_image, first_kernel
from jaxtrain.plots.members import member_curves
from jaxtrain.plots.rates import lr_range_figure
from jaxtrain.plots.search import trials_figure

__all__ = [
    "batch_figure",
    "confusion_figure",
    "curves",
    "ensemble_figure",
    "filter_image",
    "first_kernel",
    "lr_range_figure",
    "member_curves",
    "plot_schedule",
    "reliability_figure",
    "residual_figure",
    "trials_figure",
    "worst_figure",
]
