"""Figures from arrays and rows, written as PNG.

Imports `types`, `errors`, `config` and `optim.schedules`; Matplotlib is imported when a figure is drawn. The fact that
surprises: pyplot is not used, so nothing is kept open and nothing depends on a display.
"""

from jaxtrain.plots.curves import curves, plot_schedule
from jaxtrain.plots.ensemble import ensemble_figure
from jaxtrain.plots.members import member_curves
from jaxtrain.plots.rates import lr_range_figure
from jaxtrain.plots.search import trials_figure

__all__ = ["curves", "ensemble_figure", "lr_range_figure", "member_curves", "plot_schedule", "trials_figure"]
