"""What a probe saw, in the terms of TensorBoard: numbers, distributions, pictures.

Imports the probe, the figures and the log. The fact that surprises: nothing is computed from arrays here but pictures;
distributions were counted on the device, so a few hundred numbers of each layer is all that leaves it.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from jaxtrain.data import DataInfo
from jaxtrain.log import Look
from jaxtrain.plots import batch_figure
from jaxtrain.plots.filters import filter_image, first_kernel
from jaxtrain.probe import Histogram, Probe
from jaxtrain.types import Batch, PyTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_COLUMNS = 3
"""Images in a row of the batch."""


def look_at(probe: Probe, params: PyTree, image_shape: tuple[int, ...], info: DataInfo, *, first: bool) -> Look:
    """A probe of one member, fetched, as it is logged.

    Args:
      probe: arrays on the host.
      params: of the member; only the first layer's kernel is fetched.
      image_shape: of one image as the network gets it.
      info: of the data, for the names of the classes.
      first: whether the batch is drawn too; it takes longer than all else.
    """
    kernel = first_kernel(params, image_shape)
    picture = None if kernel is None else filter_image(np.asarray(kernel[1]), image_shape)
    images = {} if picture is None else {"first_layer_filters": picture}
    return Look(
        scalars={name: float(value) for name, value in probe.scalars.items() if math.isfinite(value)},
        histograms={
            name: (edges, np.asarray(counted.count))
            for name, counted in probe.histograms.items()
            if (edges := _edges(counted)) is not None
        },
        images=images,
        figures={"batch": _batch(probe.shown, info)} if first else {},
    )


def _batch(shown: Batch, info: DataInfo) -> "Figure":
    """As wide as TensorBoard shows an image: what is wider is shrunk until nobody can read it."""
    count, title = NUM_COLUMNS * 4, "as the network sees it"
    image, label = shown.image[:count], shown.label[:count]
    return batch_figure(image, label, info.class_names, title=title, columns=NUM_COLUMNS)


def _edges(counted: Histogram) -> np.ndarray | None:
    """f64[NUM_BINS + 1]; None where the values were not finite. Of values that are all the same, a little around it."""
    low, high = float(counted.low), float(counted.high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    margin = max(abs(low), 1.0) * 1e-6 if high <= low else 0.0
    return np.linspace(low - margin, high + margin, len(counted.count) + 1)
