"""From numbers to degrees, confidences and words, which all rules share.

Imports signs. The fact that surprises: thresholds are ramps. Nothing is found a little below one and certain a little
above it.
"""

import math

import numpy as np

from jaxtrain.diagnose.signs import Signs, known

BELOW_KERNEL, FAR_BELOW_KERNEL = 0.045, 0.12
"""Of the way from chance to perfect, by which a network is worse than kernel ridge regression: from where on it tells
something, unless that score is less certain, and where there is no doubt."""


def behind_kernel(signs: Signs) -> float:
    """The degree to which a network is worse than kernel ridge regression; 0 where either is not known."""
    if signs.is_early:
        return 0.0
    excess = max(0.0, signs.kernel_noise - BELOW_KERNEL) if signs.by_accuracy else 0.0
    return ramp(signs.below_kernel - excess, BELOW_KERNEL, FAR_BELOW_KERNEL)


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, straight between; 0 of NaN. `high` may be the smaller one."""
    if math.isnan(value):
        return 0.0
    return min(1.0, max(0.0, (value - low) / (high - low)))


def sure(share: float, least: float = 0.5, most: float = 0.98) -> float:
    """The confidence of a degree in (0, 1]: what is found at all begins at `least`."""
    return least + (most - least) * share


def highest(values: np.ndarray) -> float:
    """The largest number; NaN of none."""
    return float(np.nanmax(values)) if known(values) else math.nan


def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if abs(value) < 0.1 else f"{100 * value:.0f} %"


def number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
