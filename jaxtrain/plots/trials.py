"""The trials of a search as arrays, and the part of the metric that is worth an axis.

Imports as `plots` says, and `hparams` for its words. The fact that surprises: terrible trials are off the axis. Much of
a good search space diverges, and on an axis down to chance the others would be one line.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.hparams import plain
from jaxtrain.plots import style

Trial = Mapping[str, Any]
"""{"number": 7, "params": {"learning_rate": 1e-3}, "value": 0.97 or None, "state": "complete", ...}"""

GOLDEN = 0.618034
"""Multiples of the golden section, modulo 1, spread evenly however many there are."""


class Window(NamedTuple):
    """The part of a metric that is drawn; `edge` is the end beyond which worse trials are gathered."""

    bottom: float
    top: float
    edge: float


class Trials:
    """N trials as arrays of that length. The metric is in the unit in which it is drawn."""

    def __init__(self, trials: Sequence[Trial], metric: str, larger_is_better: bool) -> None:
        self.params: list[Mapping[str, Any]] = [trial["params"] for trial in trials]
        self.metric = metric
        self.number = np.array([trial["number"] for trial in trials])
        self.value = style.unit(metric) * style.column(trials, "value")
        state = np.array([trial["state"] for trial in trials])
        self.complete = np.isfinite(self.value) & (state == "complete")
        self.pruned = np.isfinite(self.value) & (state == "pruned")
        self.failed = ~(self.complete | self.pruned)
        signed = self.value if larger_is_better else -self.value
        best = signed.max(initial=-np.inf, where=self.complete)
        self.window = window(self.value[self.complete | (self.pruned & (signed > best))], larger_is_better)
        worse = self.value < self.window.bottom if larger_is_better else self.value > self.window.top
        self.beyond = worse & ~self.failed
        self.best = int(np.where(self.complete, signed, -np.inf).argmax()) if self.complete.any() else None

    @property
    def downward(self) -> bool:
        """Whether worse is lower."""
        return self.window.edge == self.window.bottom

    def numbers_of(self, name: str) -> np.ndarray:
        """f64[N], the values of a hyper-parameter; NaN for a trial without it."""
        return style.column(self.params, name)

    def places_of(self, name: str, choices: Sequence[Any]) -> np.ndarray:
        """f64[N], the index of each trial's choice; NaN for a trial without one of them."""
        index = {word(choice): float(place) for place, choice in enumerate(choices)}
        return np.array([index.get(word(params[name]), np.nan) if name in params else np.nan for params in self.params])

    def spread(self) -> np.ndarray:
        """f64[N] in [-0.5, 0.5), always the same, by which the trials of one choice are moved apart."""
        return self.number * GOLDEN % 1 - 0.5


def window(values: np.ndarray, larger_is_better: bool) -> Window:
    """The axis for f64[N]: from the best to five times as far from it as the best 40 % are, if any lie so far."""
    if not values.size:
        return Window(0.0, 1.0, 0.0 if larger_is_better else 1.0)
    sign = 1.0 if larger_is_better else -1.0
    signed = sign * values
    best = signed.max()
    worst = max(signed.min(), best - 5 * (best - np.quantile(signed, 0.6)))
    pad = 0.06 * (best - worst) or 0.01 * abs(best) or 0.01  # of trials that are all alike: a hundredth
    edge, other = sign * (worst - pad), sign * (best + pad)
    return Window(min(edge, other), max(edge, other), edge)


def word(value: Any) -> str:
    """A value in few letters: 0.0032, none, [256, 256]."""
    short = plain(value)
    return f"{short:.4g}" if isinstance(short, float) else str(short)
