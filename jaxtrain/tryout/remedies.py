"""What can be tried for each finding: changes of an experiment, in the order of the lecture.

Imports config, models, fields and what a finding is. The fact that surprises: no remedy asks whether it applies. It
sets what it sets, where the network has such a field, and one that leaves the experiment as it was is left out.

References:
  CS231n, https://cs231n.github.io/neural-networks-3/ (the order), https://cs231n.github.io/neural-networks-2/
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from jaxtrain.config import Adam, Augment, EarlyStopping, Experiment, Muon, Schedule, Sgd
from jaxtrain.diagnose import Finding
from jaxtrain.diagnose.advice import SHRINKING, shrinking
from jaxtrain.fields import field_names, is_instance_of_dataclass, replace_at
from jaxtrain.models import MLP, Linear
from jaxtrain.types import Model

Change = Callable[[Experiment], Experiment]

MOST_FINDINGS = 3
"""Findings whose remedies are tried; of the first all, of the others `MOST_OF_OTHERS` each that are not among them."""
MOST_OF_OTHERS = 3

NARROW = 32
"""Units or channels up to which a network is also tried far wider."""

NO_REMEDY: Mapping[str, str] = {
    "wrong_target": "no change of a config mends a wrong loss or wrong labels; scripts/check.py looks for them",
    "leaked_validation": "no change of a config mends a leak; split by person, place or source, and train again",
    "stale_batch_norm": "BatchNorm's momentum is set in the network, where no change of a config reaches it",
}
"""Finding -> why nothing is tried for it."""


@dataclass(frozen=True)
class Remedy:
    """One thing to try: a name for the reader, and the experiment that it makes of another.

    Attributes:
      name: in words and numbers.
      change: leaves the experiment as it is where there is nothing to change.
      finding: what it is suggested for, a key of `diagnose.NAMES`.
    """

    name: str
    change: Change
    finding: str = ""


def remedies(
    findings: Sequence[Finding], experiment: Experiment, *, image_shape: Sequence[int] | None = None
) -> list[Remedy]:
    """What to try, the first first; what the experiment has already is left out, and what two findings ask for is once.

    Args:
      findings: of a diagnosis, in its order; the first three count. Where there are none, or none but "healthy", a few
        changes that often gain something.
      experiment: that of the run.
      image_shape: of an image, [H, W, C], as far as known; without it nothing is augmented.

    Returns:
      Remedies that change `experiment`, no two to the same. Empty where no change of a config mends what was found.
    """
    names = [finding.name for finding in findings[:MOST_FINDINGS]] or ["healthy"]
    kept: list[Remedy] = []
    seen = [experiment]
    for rank, name in enumerate(names):
        new: list[Remedy] = []
        for remedy in _REMEDIES.get(name, _healthy)(experiment, tuple(image_shape or ())):
            changed = remedy.change(experiment)
            if all(changed != other for other in seen) and not (rank and len(new) == MOST_OF_OTHERS):
                seen.append(changed)
                new.append(dataclasses.replace(remedy, finding=name))
        kept += new
    return kept


# --- Changes, each a function of the experiment.


def _set(path: str, value: Any) -> Change:
    """Sets a field by its dotted path, as in hyper.dropout_rate."""
    return lambda experiment: replace_at(experiment, path, value)


def _chain(*changes: Change) -> Change:
    def changed(experiment: Experiment) -> Experiment:
        for change in changes:
            experiment = change(experiment)
        return experiment

    return changed


def _set_model(**values: Any) -> Change:
    """Sets fields of the network, those that it has."""

    def changed(experiment: Experiment) -> Experiment:
        for name, value in values.items():
            if name in _model_fields(experiment):
                experiment = replace_at(experiment, _model_path(experiment, name), value)
        return experiment

    return changed


def _wider(factor: int) -> Change:
    """Hidden layers, channels and stages `factor` times as wide, whichever the network has as fields."""

    def times(value: Any) -> Any:
        return tuple(factor * width for width in value) if isinstance(value, tuple) else factor * value

    def changed(experiment: Experiment) -> Experiment:
        fields = _model_fields(experiment)
        widths = {name: times(fields[name]) for name in ("hidden", "features", "widths") if fields.get(name)}
        return _set_model(**widths)(experiment)

    return changed


def _widest(experiment: Experiment) -> int:
    """Of the network's layers; 0 where it has no such field."""
    fields = _model_fields(experiment)
    widths = [fields.get(name) or () for name in ("hidden", "features", "widths")]
    return max((w for each in widths for w in (each if isinstance(each, tuple) else (each,))), default=0)


def _anneal(kind: str) -> Change:
    """Anneals a rate that is not brought down to nothing at the end as it is."""

    def changed(experiment: Experiment) -> Experiment:
        schedule = experiment.config.schedule
        if not isinstance(schedule, Schedule) or schedule.kind not in ("constant", "step", "exponential", "inverse"):
            return experiment
        return replace_at(experiment, "config.schedule.kind", kind)

    return changed


def _warm_up(experiment: Experiment) -> Experiment:
    """One epoch of warm-up at least; a schedule that counts steps, or is a function, stays as it is."""
    schedule = experiment.config.schedule
    if not isinstance(schedule, Schedule) or schedule.unit != "epochs" or experiment.config.epochs < 2:
        return experiment
    return replace_at(experiment, "config.schedule.warmup", max(schedule.warmup, 1.0))


def _to_adam(experiment: Experiment) -> Experiment:
    if not isinstance(experiment.config.optimizer, Sgd | Muon):
        return experiment
    adam = replace_at(experiment, "config.optimizer", Adam())
    return replace_at(adam, "hyper.learning_rate", 1e-3)


def _clip(experiment: Experiment) -> Experiment:
    clip = experiment.hyper.clip_norm
    if clip is not None and float(clip) <= 1:
        return experiment
    return replace_at(experiment, "hyper.clip_norm", 1.0)


def _standardise(kind: str) -> Change:
    """Inputs that nothing has brought to mean 0 and deviation 1 yet."""

    def changed(experiment: Experiment) -> Experiment:
        if experiment.data.preprocess not in ("none", "unit"):
            return experiment
        return replace_at(experiment, "data.preprocess", kind)

    return changed


def _stop_early(experiment: Experiment) -> Experiment:
    if experiment.config.early_stopping is not None:
        return experiment
    return replace_at(experiment, "config.early_stopping", EarlyStopping())


def _add_hidden_layer(experiment: Experiment) -> Experiment:
    """A network with one hidden layer in the place of a linear one."""
    module = _module(experiment)
    if not isinstance(module, Linear):
        return experiment
    return dataclasses.replace(experiment, model=MLP(num_outputs=module.num_outputs, hidden=(256,)))


def _module(experiment: Experiment) -> Any:
    return experiment.model.module if isinstance(experiment.model, Model) else experiment.model


def _model_path(experiment: Experiment, name: str) -> str:
    return f"model.module.{name}" if isinstance(experiment.model, Model) else f"model.{name}"


def _model_fields(experiment: Experiment) -> dict[str, Any]:
    """The fields of the network that a config can set; none of what is no dataclass."""
    module = _module(experiment)
    if not (isinstance(module, nn.Module) or is_instance_of_dataclass(module)):
        return {}
    return {name: getattr(module, name) for name in field_names(type(module))}


# --- Remedies by what they are about. Each takes the experiment, for its name tells the number that is tried.

Suggested = Iterator[Remedy]
Shape = tuple[int, ...]


def _rate(experiment: Experiment, factor: float) -> Remedy:
    """Another learning rate, to three digits."""
    value = float(f"{float(experiment.hyper.learning_rate) * factor:.3g}")
    times = f"x{factor:g}" if factor > 1 else f"/{1 / factor:g}"
    return Remedy(f"learning rate {value:g} ({times})", _set("hyper.learning_rate", value))


def _warmed(experiment: Experiment, factor: float) -> Remedy:
    """Another learning rate, warmed up over an epoch."""
    slower = _rate(experiment, factor)
    return Remedy(f"{slower.name}, warmed up", _chain(slower.change, _warm_up))


def _annealing() -> Suggested:
    yield Remedy("annealed: cosine", _anneal("cosine"))
    yield Remedy("annealed: linear", _anneal("linear"))


def _adam() -> Remedy:
    return Remedy("Adam, learning rate 0.001", _to_adam)


def _batch_norm() -> Remedy:
    return Remedy("BatchNorm", _set_model(batch_norm=True))


def _clipping() -> Remedy:
    return Remedy("gradient clipped at 1", _clip)


def _normalising(shape: Shape) -> Remedy:
    """Standardised inputs: of images each channel, of tables each feature."""
    if len(shape) == 1:
        return Remedy("each feature standardised", _standardise("standardize_features"))
    return Remedy("inputs standardised", _standardise("standardize"))


def _initialising(experiment: Experiment) -> Remedy:
    """He's rule for what is half off, Glorot's for what is symmetric."""
    symmetric = _model_fields(experiment).get("activation") in ("tanh", "sigmoid")
    rule, name = ("glorot", "Glorot") if symmetric else ("he", "He")
    return Remedy(f"initialised by {name}", _set_model(kernel_init=rule))


def _activation(name: str) -> Remedy:
    return Remedy(f"{name}, initialised by He", _set_model(activation=name, kernel_init="he"))


def _decaying(experiment: Experiment) -> Remedy:
    """Ten times the weight decay, or where there is none what is usual: rates of SGD and Muon are far above Adam's."""
    decay = experiment.hyper.weight_decay
    usual = 1e-3 if isinstance(experiment.config.optimizer, Sgd | Muon) else 0.1
    value = float(f"{10 * float(decay):.3g}") if decay else usual
    return Remedy(f"weight decay {value:g}", _set("hyper.weight_decay", value))


def _dropping(experiment: Experiment) -> Suggested:
    """More dropout than there is; a linear network has nothing to drop."""
    now = float(experiment.hyper.dropout_rate or 0)
    for rate in (0.3, 0.5):
        if rate > now and not isinstance(_module(experiment), Linear):
            yield Remedy(f"dropout {rate:g}", _set("hyper.dropout_rate", rate))


def _smoothing(experiment: Experiment, *shares: float) -> Suggested:
    now = float(experiment.hyper.label_smoothing or 0)
    for share in shares:
        if share > now:
            yield Remedy(f"label smoothing {share:g}", _set("hyper.label_smoothing", share))


def _augmenting(experiment: Experiment, shape: Shape) -> Suggested:
    """Random crops of images, as small as these allow; only photographs look the same in a mirror, digits do not."""
    if len(shape) != 3 or min(shape[:2]) < 8:
        return
    now, side = experiment.config.augment, min(shape[:2])
    crop = max(1, side // 14)
    if shape[2] == 3:
        more = Augment(crop=max(now.crop, side // 8), flip=True, cutout=now.cutout)
        yield Remedy(f"crops of {more.crop} pixels, mirrored", _set("config.augment", more))
    elif crop > now.crop:
        yield Remedy(f"crops of {crop} pixels", _set("config.augment.crop", crop))


def _larger_batch(experiment: Experiment, factor: int, rate_factor: float = 1) -> Remedy:
    size = factor * experiment.config.batch_size
    change, name = _set("config.batch_size", size), f"batch {size}"
    if rate_factor == 1:
        return Remedy(name, change)
    faster = _rate(experiment, rate_factor)
    return Remedy(f"{name}, {faster.name}", _chain(change, faster.change))


# --- Findings.


def _diverged(experiment: Experiment, shape: Shape) -> Suggested:
    yield _normalising(shape)
    yield from _too_high(experiment, shape)
    yield _rate(experiment, 1 / 1000)
    yield _batch_norm()


def _too_high(experiment: Experiment, shape: Shape) -> Suggested:
    rate, decay = float(experiment.hyper.learning_rate), float(experiment.hyper.weight_decay or 0)
    if shrinking(rate, decay, getattr(experiment.config.optimizer, "decay", None)) > SHRINKING:
        yield Remedy("no weight decay", _set("hyper.weight_decay", None))
    yield _rate(experiment, 1 / 3)
    yield _rate(experiment, 1 / 10)
    yield _rate(experiment, 1 / 100)
    yield _warmed(experiment, 1 / 10)
    yield _adam()
    yield _clipping()
    yield Remedy("annealed: cosine", _anneal("cosine"))


def _too_low(experiment: Experiment, shape: Shape) -> Suggested:
    yield _rate(experiment, 3)
    yield _rate(experiment, 10)
    yield _rate(experiment, 100)
    yield _rate(experiment, 1000)
    yield _adam()


def _not_normalised(experiment: Experiment, shape: Shape) -> Suggested:
    yield _normalising(shape)
    yield _batch_norm()
    if experiment.data.preprocess in ("none", "unit", "standardize"):  # features of a channel may still differ in size
        yield Remedy("each feature standardised", _set("data.preprocess", "standardize_features"))


def _exploding(experiment: Experiment, shape: Shape) -> Suggested:
    yield _normalising(shape)
    yield _initialising(experiment)
    yield _batch_norm()
    yield _clipping()
    yield _rate(experiment, 1 / 3)
    yield _rate(experiment, 1 / 10)


def _vanishing(experiment: Experiment, shape: Shape) -> Suggested:
    yield _activation("relu")
    yield _initialising(experiment)
    yield _batch_norm()
    yield _activation("gelu")
    yield _rate(experiment, 3)


def _dying(experiment: Experiment, shape: Shape) -> Suggested:
    yield _rate(experiment, 1 / 3)
    yield _rate(experiment, 1 / 10)
    yield _initialising(experiment)
    yield _batch_norm()
    yield _activation("leaky_relu")
    yield _activation("gelu")


def _plateau(experiment: Experiment, shape: Shape) -> Suggested:
    yield from _annealing()
    yield _rate(experiment, 1 / 3)
    yield _rate(experiment, 1 / 10)


def _noisy(experiment: Experiment, shape: Shape) -> Suggested:
    yield _larger_batch(experiment, 8)
    yield _larger_batch(experiment, 16)
    yield _larger_batch(experiment, 8, 2)
    yield _rate(experiment, 1 / 3)
    yield Remedy("annealed: cosine", _anneal("cosine"))


def _overfitting(experiment: Experiment, shape: Shape) -> Suggested:
    yield _decaying(experiment)
    yield from _dropping(experiment)
    yield from _augmenting(experiment, shape)
    yield from _smoothing(experiment, 0.1)
    yield Remedy("early stopping", _stop_early)


def _underfitting(experiment: Experiment, shape: Shape) -> Suggested:
    yield Remedy("no dropout", _chain(_set("hyper.dropout_rate", None), _set("hyper.input_dropout_rate", None)))
    yield Remedy("a hidden layer of 256", _add_hidden_layer)
    yield Remedy("twice as wide", _wider(2))
    yield Remedy("four times as wide", _wider(4))
    if 0 < _widest(experiment) <= NARROW:
        yield Remedy("sixteen times as wide", _wider(16))
    yield Remedy("no weight decay", _set("hyper.weight_decay", None))
    yield _rate(experiment, 3)
    yield _batch_norm()


def _label_noise(experiment: Experiment, shape: Shape) -> Suggested:
    yield Remedy("early stopping", _stop_early)
    yield from _smoothing(experiment, 0.1, 0.2)
    if not float(experiment.hyper.dropout_rate or 0) >= 0.5:
        yield Remedy("dropout 0.5", _set("hyper.dropout_rate", 0.5))
    if not experiment.hyper.mixup:
        yield Remedy("mixup 0.2", _set("hyper.mixup", 0.2))


def _healthy(experiment: Experiment, shape: Shape) -> Suggested:
    yield Remedy("annealed: cosine", _anneal("cosine"))
    yield _rate(experiment, 3)
    yield _rate(experiment, 1 / 3)
    yield _decaying(experiment)
    yield from _dropping(experiment)
    yield from _smoothing(experiment, 0.1)


def _none(experiment: Experiment, shape: Shape) -> Suggested:
    yield from ()


_REMEDIES: Mapping[str, Callable[[Experiment, Shape], Suggested]] = {
    "diverged": _diverged,
    "not_normalised": _not_normalised,
    "exploding_gradients": _exploding,
    "vanishing_gradients": _vanishing,
    "dying_relus": _dying,
    "lr_too_high": _too_high,
    "lr_too_low": _too_low,
    "plateau": _plateau,
    "noisy": _noisy,
    "label_noise": _label_noise,
    "overfitting": _overfitting,
    "underfitting": _underfitting,
    "healthy": _healthy,
    **dict.fromkeys(NO_REMEDY, _none),
}
