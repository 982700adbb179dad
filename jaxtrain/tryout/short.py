"""A short run in the place of a whole one: so many of its steps, with all that counts epochs shortened alike.

Imports config, data and errors. The fact that surprises: less than an epoch is an epoch over fewer examples, drawn at
random. That is what stopping within the first epoch would train on, and every epoch still ends with an evaluation.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtrain.config import Config, Experiment, Schedule, UnitSchedule
from jaxtrain.data import Data, fit_preprocess
from jaxtrain.errors import RequestError
from jaxtrain.types import Array

ROUNDING = 1e-9
"""0.29 times 100 is a little less than 29."""


def shorten(changed: Experiment, original: Experiment, data: Data, share: float) -> tuple[Experiment, Data]:
    """The short run of a changed experiment, and the data to train it on: without test split, for nothing may be chosen
    by its scores.

    Neither steps nor epochs are more than `share` of those of `original`; where that is less than an epoch, it is an
    epoch over fewer examples. Warm-up, periods and patience shrink with the run, so the schedule is passed as a whole.

    Args:
      changed: what is tried.
      original: the run's experiment, whose steps are shared out.
      data: that of `original`; its validation split stays as it is.
      share: of the steps of the whole run, in (0, 1].

    Raises:
      RequestError: `share` is out of range or less than a step; a batch is larger than the data; the data differs in
        more than its preprocessing.
    """
    if not 0 < share <= 1:
        raise RequestError(f"share is {share}; it must lie in (0, 1], for example 0.33: a third of the run's steps")
    config, whole = changed.config, original.config.epochs
    per_epoch, num_steps = data.num_train // config.batch_size, whole * (data.num_train // original.config.batch_size)
    if not per_epoch:
        raise RequestError(f"batches of {config.batch_size} are more than the {data.num_train} training examples")
    data = _without_test(_preprocessed(changed, original, data))
    most = int(share * num_steps + ROUNDING)
    epochs = min(int(share * whole + ROUNDING), most // per_epoch)
    if not epochs:
        steps = min(most, int(share * whole * data.num_train + ROUNDING) // config.batch_size)
        if not steps:
            raise RequestError(f"{share:.3g} of the run's {num_steps} steps is less than one; give a larger share")
        epochs, data = 1, _drawn(data, steps * config.batch_size)
    steps_in_all = epochs * (data.num_train // config.batch_size)
    short = _shortened(config, epochs, steps_in_all / (config.epochs * per_epoch))
    return dataclasses.replace(changed, config=short), data


def _preprocessed(changed: Experiment, original: Experiment, data: Data) -> Data:
    """The same examples, with another preprocessing where that is what is tried."""
    before, now = original.data, changed.data
    if dataclasses.replace(now, preprocess=before.preprocess, num_components=before.num_components) != before:
        raise RequestError("a remedy may change of the data only its preprocessing, or it would be scored on others")
    if now == before:
        return data
    fitted = fit_preprocess(now.preprocess, data.image[: data.num_train], now.num_components)
    return dataclasses.replace(data, preprocess=fitted)


def _without_test(data: Data) -> Data:
    stop = data.num_train + data.num_val
    return dataclasses.replace(data, image=data.image[:stop], label=data.label[:stop], num_test=0)


def _drawn(data: Data, count: int) -> Data:
    """So many of the training examples, at random: as they lie, they may be sorted by class."""
    drawn = np.sort(np.random.default_rng(0).permutation(data.num_train)[:count])
    kept = np.concatenate([drawn, np.arange(*data.val)])
    return dataclasses.replace(data, image=data.image[kept], label=data.label[kept], num_train=count)


def _shortened(config: Config, epochs: int, share_of_steps: float) -> Config:
    """Nothing is looked at closely, no snapshot is kept, and a member that diverges is a result."""
    share = epochs / config.epochs
    eval_every = max(1, int(config.eval_every_epochs * share))
    short: dict[str, Any] = {"epochs": epochs, "eval_every_epochs": eval_every}
    for name in ("early_stopping", "plateau"):
        part = getattr(config, name)
        if part is not None:
            patience = max(1, round(part.patience * config.eval_every_epochs * share / eval_every))
            short[name] = dataclasses.replace(part, patience=patience)
    return dataclasses.replace(
        config,
        **short,
        schedule=_shortened_schedule(config.schedule, share, share_of_steps),
        snapshot_every_epochs=None,
        probe_every_steps=None,
        nonfinite="skip" if config.nonfinite == "skip" else "mark",
    )


def _shortened_schedule(schedule: Schedule | UnitSchedule, share: float, share_of_steps: float) -> Any:
    if share == share_of_steps == 1:
        return schedule
    if not isinstance(schedule, Schedule):
        return Stretched(schedule, share_of_steps)
    times = share if schedule.unit == "epochs" else share_of_steps
    lengths = {"warmup": schedule.warmup * times, "period": schedule.period * times, "rate": schedule.rate / times}
    return dataclasses.replace(schedule, **lengths)


@dataclass(frozen=True)
class Stretched:
    """A schedule of the user's own, passed in `share` of its steps."""

    schedule: UnitSchedule
    share: float

    def __call__(self, step: Array) -> Array:
        """The factor, f32[], of step i32[]."""
        return self.schedule(jnp.floor(step / np.float32(self.share)).astype(jnp.int32))
