"""From numbers of single examples to sums that merge by addition, and to means when they are shown.

Imports `types` and `errors`. The fact that surprises: means are never averaged. A last batch of three examples counts
for three, because only sums and counts travel.
"""

from collections.abc import Iterable, Mapping

import chex
import jax
import jax.numpy as jnp

from jaxtrain.errors import RequestError
from jaxtrain.types import Array, Metrics

EVIDENCE = "evidence/"
"""How the names of sums begin that are no scores: a diagnosis reads them, and no table shows them."""


def from_examples(values: Mapping[str, Array], weight: Array) -> Metrics:
    """The weighted sums of each value. Weight 0 is an absent example, even where its value is NaN or infinite.

    Args:
      values: name -> f32[B] (or bool[B]).
      weight: f32[B], 0 for padding.
    """
    chex.assert_rank(weight, 1)
    chex.assert_equal_shape([weight, *values.values()])
    sums = {name: jnp.sum(jnp.where(weight == 0, 0.0, value * weight)) for name, value in values.items()}
    return Metrics(jnp.sum(weight), sums)


def empty(names: Iterable[str]) -> Metrics:
    """The neutral element of `+` for these names."""
    return Metrics(jnp.zeros((), jnp.float32), {name: jnp.zeros((), jnp.float32) for name in names})


def compute(metrics: Metrics) -> dict[str, float]:
    """Name -> mean of each score, on the host: fetches all sums at once.

    Raises:
      RequestError: nothing was counted, so there is no mean.
    """
    fetched = jax.device_get(metrics)
    if float(fetched.count) == 0:
        raise RequestError("metrics of no examples were asked for; the split is empty or every weight is 0")
    means = {name: float(total) / float(fetched.count) for name, total in fetched.sums.items()}
    return {name: mean for name, mean in means.items() if not name.startswith(EVIDENCE)}


def scores_alone(metrics: Metrics) -> Metrics:
    """The same without what is no score: the sums that training steps have."""
    return Metrics(metrics.count, {name: x for name, x in metrics.sums.items() if not name.startswith(EVIDENCE)})


def evidence(metrics: Metrics) -> dict[str, float]:
    """Name -> mean of each sum that is no score, of metrics on the host; empty where nothing was counted."""
    count = float(metrics.count)
    found = {name.removeprefix(EVIDENCE): total for name, total in metrics.sums.items() if name.startswith(EVIDENCE)}
    return {name: float(total) / count for name, total in found.items() if count}
