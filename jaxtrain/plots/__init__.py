"""Figures from arrays and rows, written as PNG.

Imports `types`, `errors`, `config` and `optim.schedules`; Matplotlib is imported when a figure is drawn. The fact that
surprises: pyplot is not used, so nothing is kept open and nothing depends on a display.
"""

from jaxtrain.plots.curves import curves, plot_schedule

__all__ = ["curves", "plot_schedule"]
