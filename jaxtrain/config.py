"""The static choices of a run: shapes, names and counts, as frozen dataclasses.

Imports nothing of jaxtrain but `types` and `errors`. Everything here is hashable, as
compiled programs are keyed on it, and nothing is a number one would tune: those are in `types.Hyper`, which travels
beside `Config` and is traced.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtrain.errors import RequestError
from jaxtrain.types import Array, Hyper

LARGEST = 3.4e38
"""About what float32 holds; a larger number would be infinite in every program."""

UnitSchedule = Callable[[Array], Array]
"""Step (i32[]) -> factor in [0, 1] (f32[]) by which the learning rate is multiplied."""


Tta = Literal["none", "mirror", "mirror_translate"]
"""Views of an image whose outputs are averaged in evaluation."""


@dataclass(frozen=True)
class Schedule:
    """Annealing of the learning rate, as a factor in [0, 1]. t counts from the end of the warm-up, in `unit`."""

    kind: Literal["constant", "step", "exponential", "inverse", "linear", "cosine", "cosine_restarts", "one_cycle"] = (
        "cosine"
    )
    """Shape of the schedule."""
    unit: Literal["epochs", "steps"] = "epochs"
    """Unit of t, warmup, period and rate."""
    warmup: float = 0.0
    """Length of the linear warm-up from 0 (one_cycle: of its rise, 0 means 30 % of the run)."""
    period: float = 5.0
    """step: t between two reductions; cosine_restarts: length of the first cycle."""
    factor: float = 0.5
    """step: the factor of each reduction."""
    rate: float = 0.1
    """exponential: k of exp(-k t); inverse: k of 1 / (1 + k t)."""
    stretch: float = 1.0
    """cosine_restarts: each cycle is this many times longer than the one before."""
    floor: float = 0.0
    """linear, cosine, cosine_restarts, one_cycle: the factor at the end."""


@dataclass(frozen=True)
class Adam:
    """Adam (momentum is beta1), with decoupled L2 where `Hyper.weight_decay` is a number: AdamW."""

    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    nesterov: bool = False
    """NAdam's look-ahead."""
    decay: Literal["lr", "paper"] = "lr"
    """Decoupled L2 times the rate, as torch and optax, or times the schedule only, as in the AdamW paper."""
    decay_mask: Literal["kernels", "all"] = "kernels"
    """What decays: kernels only, or every parameter."""


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent, with momentum where `Hyper.momentum` is a number."""

    nesterov: bool = False
    """Nesterov's momentum."""
    decay: Literal["lr", "paper"] = "lr"
    """Decoupled L2 times the rate, as torch and optax, or times the schedule only, as in the AdamW paper."""
    decay_mask: Literal["kernels", "all"] = "kernels"
    """What decays: kernels only, or every parameter."""


@dataclass(frozen=True)
class Muon:
    """Muon on the kernels of hidden layers: Nesterov's momentum, made nearly orthogonal; on all else Nesterov's SGD."""

    steps: int = 5
    """Of Newton and Schulz's iteration; 3 are enough for small convolutions."""
    hold_norm: bool = False
    """Bring each hidden kernel back to the length of the root of its number of outputs before each update; for layers
    before BatchNorm, where the length means nothing, and decay then does nothing either."""
    rest: tuple[str, ...] = ("outputs",)
    """Parameter paths (their beginnings) of kernels that SGD updates, as it does whatever is no kernel; of a network of
    your own name its last layer."""
    decay: Literal["lr", "paper"] = "lr"
    """Decoupled L2 times the rate, as torch and optax, or times the schedule only, as in the AdamW paper."""
    decay_mask: Literal["kernels", "all"] = "kernels"
    """What decays: kernels only, or every parameter."""


@dataclass(frozen=True)
class Augment:
    """Random changes of the training images, on the device, inside the step."""

    crop: int = 0
    """Pad by this many reflected pixels, then crop a random window of the original size."""
    flip: bool = False
    """Mirror left and right with probability one half."""
    alternate: bool = False
    """With flip: mirror each image in every second epoch instead, half of the images in the first one."""
    cutout: int = 0
    """Side in pixels of a square set to 0, which is the mean of standardized data; 0 is off."""


@dataclass(frozen=True)
class Plateau:
    """Reduce the rate when the watched metric stalls."""

    factor: float = 0.5
    """What the rate is multiplied by."""
    patience: int = 3
    """Evaluations without improvement before a reduction."""
    min_delta: float = 0.0
    """Smallest change that counts as an improvement."""


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the watched metric no longer improves."""

    patience: int = 5
    """Evaluations without improvement before the run stops."""
    min_delta: float = 0.0
    """Smallest change that counts as an improvement."""


@dataclass(frozen=True)
class Config:
    """How to train. Changed only with `dataclasses.replace`."""

    epochs: int = 10
    """Passes over the training split; the last steps of an epoch that fill no batch are left out."""
    batch_size: int = 128
    """Examples per update."""
    num_micro_batches: int = 1
    """Gradient accumulation: parts into which a batch is split; BatchNorm sees each part alone."""
    eval_batch_size: int = 1000
    """Examples per step of evaluation; changes speed and memory, never results."""
    optimizer: Adam | Sgd | Muon | Callable[..., Any] = Adam()
    """Adam, Sgd, Muon, or any function (hyper, schedule) -> optax.GradientTransformation."""
    schedule: Schedule | UnitSchedule = Schedule()
    """Annealing of the learning rate: a Schedule, or any function step -> factor."""
    plateau: Plateau | None = None
    """Reduce the rate when the watched metric stalls."""
    early_stopping: EarlyStopping | None = None
    """Stop when the watched metric stalls; then `final` is the best weights unless stated."""
    watch: str = "auto"
    """Metric that chooses the best weights; auto: accuracy, else loss. A task's own with its sign: '-rmse'."""
    augment: Augment = Augment()
    """Random changes of the training images."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the parameters with this decay."""
    swa_start: float | None = None
    """Average the parameters at the end of each epoch from this share of the run on (stochastic weight averaging)."""
    snapshot_every_epochs: int | None = None
    """Keep the weights at the end of every so many epochs (a cycle of cosine_restarts, say) as a snapshot ensemble."""
    final: Literal["auto", "last", "best", "ema", "swa"] = "auto"
    """Which weights are scored at the end and exported; auto: best with early stopping, else last."""
    frozen: tuple[str, ...] = ()
    """Parameter paths (their beginnings, as in Dense_0 or Block_1/Conv_0) that stay as they are."""
    frozen_after: tuple[tuple[str, float], ...] = ()
    """(path, epochs), paths as of `frozen`: parameters that are trained in the first so many epochs only. Their updates
    are times a factor that falls linearly to 0 by then, on top of the schedule."""
    tta: Tta = "none"
    """Test-time augmentation, in every evaluation and prediction: the mean of the outputs for an image and its mirror
    image (mirror), and for windows of both that are moved by a pixel (mirror_translate). For data whose mirror images
    mean the same; 2 or 6 times the work and the memory of an evaluation's batch."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """Precision of float32 matrix products: default lets a GPU use TF32, highest is full float32."""
    eval_every_epochs: int = 1
    """Epochs between two evaluations."""
    train_eval_examples: int = 10_000
    """Examples of the training split that each evaluation scores, for the curve beside validation."""
    nonfinite: Literal["auto", "stop", "mark", "skip"] = "auto"
    """What a NaN or infinity does: stop ends the run and says where it came from; mark leaves that member behind; skip
    leaves out that step, and stops after ten in a row. auto: stop, but mark with several members."""
    log_every_steps: int = 100
    """Steps between two points of the step loss."""
    probe_every_steps: int | None = 500
    """Most steps between two looks at each layer and its gradient (a short run has ten looks); None: none."""
    max_chunk_seconds: float = 5.0
    """Longest stay in compiled code, so that signals are answered."""
    checkpoint_every_seconds: float = 60.0
    """Seconds between two checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """Checkpoints kept in the folder, the newest ones."""
    stream: Literal["auto", "never", "always"] = "auto"
    """Whether the data stays on the host and streams to the device; auto: when it does not fit."""


@dataclass(frozen=True)
class DataConfig:
    """Which data, how it is split and how it is prepared."""

    name: Literal["digits", "mnist", "fashion_mnist", "cifar10", "npz", "folder"] = "digits"
    """Source; npz and folder read `path`."""
    dir: str | None = None
    """Folder that holds the data sets, looked in first; then $JAXTRAIN_DATA, then the user's cache."""
    path: str | None = None
    """npz: the file; folder: the folder of images, one sub-folder a class."""
    download: bool = True
    """Download a published data set that is found nowhere."""
    fallback: Literal["digits"] | None = None
    """Stand-in, loudly announced, for data that can be neither found nor downloaded."""
    val_share: float = 0.1
    """Share of the training examples held out for validation, in (0, 1)."""
    split_seed: int = 0
    """Seed of the validation split, apart from the seed of training."""
    preprocess: Literal["none", "unit", "standardize", "standardize_features", "pca", "whiten"] = "standardize"
    """unit: to [0, 1]; standardize: mean 0 and deviation 1 per channel; standardize_features: per pixel or feature."""
    num_components: int | None = None
    """pca, whiten: components kept; None keeps all."""
    image_size: int | None = None
    """folder: side in pixels to which images are resized (needed where they differ)."""


@dataclass(frozen=True)
class Experiment:
    """What a config file returns: the network, the data, how to train, and the hyper-parameters."""

    model: Any
    """A Linen module, or any frozen dataclass with make() -> Model."""
    data: DataConfig
    """Which data, how it is split and how it is prepared."""
    config: Config = Config()
    """How to train."""
    hyper: Hyper = field(default_factory=Hyper)
    """Numbers that may be tuned; never part of what a compiled program is keyed on."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, dropout and augmentation."""
    seeds: tuple[int, ...] | None = None
    """Several members, one for each of these seeds, trained as one program; None: one run with `seed`."""
    parallel: Literal["auto", "vmap", "loop"] = "auto"
    """vmap: one batched program; loop: the single run's program, member by member; auto: loop on a CPU, else vmap."""


def own_functions(config: Config) -> dict[str, Any]:
    """What of a config is a function of the user's, which JSON can only name: optimizer, schedule."""
    return {name: part for name in ("optimizer", "schedule") if callable(part := getattr(config, name))}


def check_config(config: Config) -> None:
    """Raise RequestError for the first field of `config` that is out of range."""
    positive = ("epochs", "batch_size", "num_micro_batches", "eval_batch_size", "eval_every_epochs")
    positive += ("train_eval_examples", "log_every_steps", "max_chunk_seconds", "keep_checkpoints")
    for name in positive:
        if not getattr(config, name) > 0:
            raise RequestError(f"config.{name} is {getattr(config, name)}; it must be larger than 0")
    if config.batch_size % config.num_micro_batches:
        raise RequestError(
            f"config.batch_size {config.batch_size} is no multiple of {config.num_micro_batches} micro-batches;"
            " choose a divisor for config.num_micro_batches"
        )
    for name in ("ema_decay", "swa_start"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise RequestError(f"config.{name} is {value}; it must lie in [0, 1), or be None for none")
    for path, epochs in config.frozen_after:
        if not epochs > 0:
            raise RequestError(
                f"config.frozen_after has {path!r} after {epochs} epochs; give more than 0, or name it in config.frozen"
            )
    if config.augment.alternate and not config.augment.flip:
        raise RequestError("config.augment.alternate is a way of mirroring; it needs config.augment.flip, too")
    if config.snapshot_every_epochs is not None and not 1 <= config.snapshot_every_epochs <= config.epochs:
        raise RequestError(
            f"config.snapshot_every_epochs is {config.snapshot_every_epochs}; it must lie in 1..{config.epochs}, the"
            " number of epochs, or be None for none"
        )
    if config.probe_every_steps is not None and not config.probe_every_steps >= 1:
        raise RequestError(f"config.probe_every_steps is {config.probe_every_steps}; give at least 1, or None for none")
    needed = {"ema": "ema_decay", "swa": "swa_start"}.get(config.final)
    if needed and getattr(config, needed) is None:
        raise RequestError(f"config.final is {config.final!r}, which needs config.{needed}; give it a value")
    if not config.checkpoint_every_seconds > 0:
        raise RequestError(
            f"config.checkpoint_every_seconds is {config.checkpoint_every_seconds}; it must be larger than 0"
        )
    if isinstance(config.optimizer, Adam) and not config.optimizer.epsilon > 0:
        raise RequestError(
            f"config.optimizer.epsilon is {config.optimizer.epsilon}; it must be larger than 0, or 0 is divided by 0"
        )
    if isinstance(config.optimizer, Muon) and config.optimizer.steps < 1:
        raise RequestError(f"config.optimizer.steps is {config.optimizer.steps}; give at least 1, 5 as a rule")
    for name in ("plateau", "early_stopping"):
        _check_patience(name, getattr(config, name))
    _check_schedule(config.schedule)


def check_hyper(hyper: Hyper) -> None:
    """Raise RequestError for the first field of `hyper` that is not finite or out of range. Concrete numbers only."""
    below_one = {"dropout_rate", "input_dropout_rate", "label_smoothing", "momentum", "beta2", "rest_momentum"}
    above_zero = {"max_norm", "clip_norm", "mixup"}
    values = {f.name: getattr(hyper, f.name) for f in dataclasses.fields(hyper) if f.name != "extra"}
    for name, value in {**values, **{f"extra.{k}": v for k, v in hyper.extra.items()}}.items():
        if value is None and name != "learning_rate" and name != "beta2":
            continue
        number = _number(name, value)
        if not abs(number) <= LARGEST:
            raise RequestError(f"hyper.{name} is {number}; it must be a finite number, in float32 too")
        if name in below_one and not 0 <= number < 1:
            raise RequestError(f"hyper.{name} is {number:g}; it must lie in [0, 1)")
        if name in above_zero and not number > 0:
            raise RequestError(f"hyper.{name} is {number:g}; it must be larger than 0, or None for none")
        if number < 0 and not name.startswith("extra."):
            raise RequestError(f"hyper.{name} is {number:g}; it must not be negative")


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RequestError(f"hyper.{name} is {value!r}; it must be one number") from None


def _check_patience(name: str, part: Plateau | EarlyStopping | None) -> None:
    if part is None:
        return
    if part.patience < 1:
        raise RequestError(f"config.{name}.patience is {part.patience}; it must be at least 1")
    if not (part.min_delta >= 0 and math.isfinite(part.min_delta)):
        raise RequestError(f"config.{name}.min_delta is {part.min_delta}; it must be finite and not negative")
    if isinstance(part, Plateau) and not 0 < part.factor < 1:
        raise RequestError(f"config.{name}.factor is {part.factor}; it must lie between 0 and 1")


def _check_schedule(schedule: Schedule | UnitSchedule) -> None:
    if not isinstance(schedule, Schedule):
        return
    if not schedule.period > 0:
        raise RequestError(f"config.schedule.period is {schedule.period}; it must be larger than 0")
    if not schedule.stretch >= 1:
        raise RequestError(f"config.schedule.stretch is {schedule.stretch}; it must be at least 1")
    for name in ("warmup", "rate"):
        if not (getattr(schedule, name) >= 0 and math.isfinite(getattr(schedule, name))):
            raise RequestError(f"config.schedule.{name} is {getattr(schedule, name)}; it must not be negative")
    for name in ("factor", "floor"):
        if not 0 <= getattr(schedule, name) <= 1:
            raise RequestError(f"config.schedule.{name} is {getattr(schedule, name)}; it must lie in [0, 1]")
