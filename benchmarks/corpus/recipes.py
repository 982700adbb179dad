"""What the corpus is made of: healthy trainings, and the same with one fault put in on purpose, in graded strengths.

Imports the networks and data of the corpus. The fact that surprises: nothing here says how a fault is to be recognised;
rules see histories only, and whether a fault has cost anything is measured against the healthy twin.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import nets
import numpy as np
import sets

import jaxtrain as jt
from jaxtrain.data import Data


@dataclass(frozen=True)
class Case:
    """A training before it is started."""

    model: Any
    arrays: sets.Arrays
    config: jt.Config
    hyper: jt.Hyper
    preprocess: str = "standardize"
    val_share: float = 0.2
    task: Any = None

    def number(self, **factors: float) -> "Case":
        """Hyper-parameters times these factors."""
        return replace(self, hyper=replace(self.hyper, **{k: getattr(self.hyper, k) * v for k, v in factors.items()}))

    def hypers(self, **values: Any) -> "Case":
        """Other hyper-parameters."""
        return replace(self, hyper=replace(self.hyper, **values))

    def configs(self, **values: Any) -> "Case":
        """Other static choices."""
        return replace(self, config=replace(self.config, **values))

    def networks(self, **values: Any) -> "Case":
        """The network with other fields."""
        return replace(self, model=self.model.clone(**values))

    def stack(self, **values: Any) -> "Case":
        """`Stack` in the place of the network, of about its size."""
        convolves = isinstance(self.model, jt.CNN | jt.ResNet)
        own: dict[str, Any] = {"features": (8, 16), "hidden": (64,)} if convolves else {"hidden": (128, 128)}
        return replace(self, model=nets.Stack(**{**own, "num_outputs": self.model.num_outputs, **values}))


@dataclass(frozen=True)
class Recipe:
    """One training of the corpus, or with its seeds several."""

    half: str  # tuning, or held-out: what the rules have never seen
    data: str
    network: str
    kind: str  # the fault; "healthy"
    strength: str
    twin: str  # the name of the recipe that it is compared with
    seeds: tuple[int, ...]
    make: Callable[[], Case]

    @property
    def name(self) -> str:
        """What it is called in the corpus."""
        return "/".join((self.data, self.network, self.kind, self.strength))


Change = Callable[[Case, np.random.Generator], Case]


def data_of(case: Case, name: str = "arrays") -> Data:
    """Its arrays, split and prepared."""
    arrays = case.arrays
    return jt.from_arrays(
        arrays.image,
        arrays.label,
        val_share=case.val_share,
        test=(arrays.test_image, arrays.test_label),
        preprocess=case.preprocess,  # pyright: ignore[reportArgumentType]
        num_classes=arrays.num_classes,
        name=name,
    )


def _outputs(arrays: sets.Arrays) -> int:
    return arrays.num_classes or 1


def base(data: str, network: str) -> Case:
    """The healthy training that all others of its data and network are changes of."""
    arrays = sets.read(data, small=network in ("cnn", "resnet"))
    outputs = _outputs(arrays)
    flat = arrays.image.ndim == 2
    hyper = jt.Hyper(learning_rate=2e-3, weight_decay=3e-2, dropout_rate=0.3)
    config = jt.Config(epochs=20, batch_size=64, log_every_steps=20)
    preprocess = "standardize_features" if flat else "standardize"
    if network == "mlp":
        model = jt.MLP(outputs, hidden=(128, 128))
        if flat:
            hyper = replace(hyper, learning_rate=5e-3, dropout_rate=0.0)
            config = replace(config, epochs=40)
        if data == "waveform":  # which is half noise
            hyper = replace(hyper, learning_rate=2e-3, dropout_rate=0.5)
    elif network == "sgd":
        model = jt.MLP(outputs, hidden=(128,), batch_norm=False)
        hyper = replace(hyper, learning_rate=0.05, weight_decay=1e-3)
        config = replace(config, optimizer=jt.Sgd(nesterov=True))
        if flat:
            hyper = replace(hyper, learning_rate=0.01, dropout_rate=0.0)
            config = replace(config, epochs=80, batch_size=32)
    elif network == "cnn":
        model = jt.CNN(outputs, features=(8, 16), hidden=64)
        config = replace(config, epochs=12)
        if data == "cifar":
            config = replace(config, epochs=16, augment=jt.Augment(crop=2, flip=True))
    else:
        model = jt.ResNet(outputs, widths=(8, 16), blocks_per_stage=1)
        config = replace(config, epochs=24, batch_size=32, augment=jt.Augment(crop=2, flip=data == "cifar"))
        hyper = replace(hyper, learning_rate=1e-2, dropout_rate=0.1)
    return Case(model, arrays, config, hyper, preprocess)


# --- Faults: strength -> change. A network without BatchNorm is a Stack, whose healthy twin is one, too.


def _noisy_labels(share: float) -> Change:
    def change(case: Case, rng: np.random.Generator) -> Case:
        arrays, wrong = case.arrays, rng.random(len(case.arrays.label)) < share
        others = (arrays.label + rng.integers(1, arrays.num_classes or 2, len(arrays.label))) % (
            arrays.num_classes or 2
        )
        return replace(case, arrays=arrays._replace(label=np.where(wrong, others, arrays.label).astype(np.int32)))

    return change


def _shuffled_labels(case: Case, rng: np.random.Generator) -> Case:
    return replace(case, arrays=case.arrays._replace(label=rng.permutation(case.arrays.label)))


def _few(count: int) -> Change:
    """So many examples to train on, the rest of a thousand for validation; nothing against overfitting."""

    def change(case: Case, rng: np.random.Generator) -> Case:
        keep = rng.permutation(len(case.arrays.label))[: count + 800]
        arrays = case.arrays._replace(image=case.arrays.image[keep], label=case.arrays.label[keep])
        epochs = min(150, case.config.epochs * 3000 // count)
        case = replace(case, arrays=arrays, val_share=800 / (count + 800))
        case = case.configs(epochs=epochs, batch_size=32, augment=jt.Augment(), eval_every_epochs=max(1, epochs // 50))
        return case.hypers(weight_decay=None, dropout_rate=None)

    return change


def _leaked(copies: int, count: int) -> Change:
    """Few examples, each several times, so that those of validation are among those of training."""

    def change(case: Case, rng: np.random.Generator) -> Case:
        keep = np.repeat(rng.permutation(len(case.arrays.label))[:count], copies)
        arrays = case.arrays._replace(image=case.arrays.image[keep], label=case.arrays.label[keep])
        case = case.configs(epochs=max(case.config.epochs, 40 * 500 // count), augment=jt.Augment(), batch_size=32)
        return replace(case, arrays=arrays).hypers(weight_decay=None, dropout_rate=None)

    return change


def unscaled(case: Case, rng: np.random.Generator) -> Case:
    """Pixels from 0 to 255 as they come; features of scales that differ by up to a thousand."""
    arrays = case.arrays
    if arrays.image.ndim == 2:
        scale, offset = 10.0 ** rng.uniform(0, 3, arrays.image.shape[1]), rng.uniform(0, 3, arrays.image.shape[1])
        images = [((x + offset) * scale).astype(np.float32) for x in (arrays.image, arrays.test_image)]
        arrays = arrays._replace(image=images[0], test_image=images[1])
    return replace(case, arrays=arrays, preprocess="none")


def _tiny(case: Case, width: int) -> Case:
    if isinstance(case.model, jt.ResNet | jt.CNN):
        return case.stack(features=(width,) * 2, hidden=(width,), norm="none").hypers(dropout_rate=None)
    return case.stack(features=(), hidden=(width,), norm="none").hypers(dropout_rate=None)


def _with_batch(case: Case, size: int, share: float = 1.0) -> Case:
    """Fewer epochs, as each takes longer: a fault of many small steps is seen soon."""
    return case.configs(batch_size=size, epochs=max(4, int(case.config.epochs * share)))


def faults(case: Case) -> Iterator[tuple[str, str, str, Change]]:
    """(kind, strength, twin's strength, change) of all that can be put into a training of this kind."""
    classes, adam = case.arrays.num_classes is not None, isinstance(case.config.optimizer, jt.Adam)
    convolves = isinstance(case.model, jt.CNN | jt.ResNet)
    plain = "plain" if not isinstance(case.model, jt.ResNet) else "base"
    for factor in (3, 10, 30, 100, 300, 1000):
        yield "lr_too_high", f"x{factor}", "base", lambda c, r, f=factor: c.number(learning_rate=f)
    for factor in (10, 30, 100, 1000):
        yield "lr_too_low", f"/{factor}", "base", lambda c, r, f=factor: c.number(learning_rate=1 / f)
    for factor in (10, 100, 1000) if adam else (30, 100, 1000):
        yield (
            "diverged",
            f"x{factor}",
            "base",
            lambda c, r, f=factor: c.configs(optimizer=jt.Sgd()).hypers(learning_rate=float(f), weight_decay=None),
        )
    for factor in (3, 10):
        yield (
            "no_annealing",
            f"x{factor}",
            "base",
            lambda c, r, f=factor: c.number(learning_rate=f).configs(schedule=jt.Schedule("constant"), batch_size=16),
        )
    for width in (1, 2, 3):
        yield "underfitting", f"width {width}", "base", lambda c, r, w=width: _tiny(c, w)
    for rate in (0.8, 0.9):
        yield (
            "underfitting",
            f"dropout {rate}",
            "base",
            lambda c, r, p=rate: c.stack(norm="batch").hypers(dropout_rate=p),
        )
    for count in (50, 100, 200, 400):
        yield "overfitting", f"{count} examples", "base", _few(count)
    yield "healthy", "plain", "plain", lambda c, r: c.stack()
    yield "not_normalised", "raw", plain, lambda c, r: unscaled(c.stack(), r)
    yield (
        "not_normalised",
        "raw, sgd",
        plain,
        lambda c, r: unscaled(c.stack(), r).configs(optimizer=jt.Sgd()).hypers(learning_rate=0.01),
    )
    yield "not_normalised", "raw, lr x3", plain, lambda c, r: unscaled(c.stack(), r).number(learning_rate=3)
    if not convolves:
        for depth in (6, 10, 16):
            yield (
                "vanishing_gradients",
                f"{depth} sigmoids",
                plain,
                lambda c, r, d=depth: c.stack(hidden=(64,) * d, nonlinearity="sigmoid").hypers(dropout_rate=None),
            )
        for gain in (3.0, 6.0):
            for depth in (6, 10):
                yield (
                    "exploding_gradients",
                    f"gain {gain:g}, {depth} layers",
                    plain,
                    lambda c, r, g=gain, d=depth: c.stack(hidden=(64,) * d, gain=g).hypers(dropout_rate=None),
                )
        for shift in (3.0, 6.0, 12.0):
            yield "dying_relus", f"bias -{shift:g}", plain, lambda c, r, s=shift: c.stack(shift=-s)
        yield "dying_relus", "gain 0", plain, lambda c, r: c.stack(gain=1e-3, shift=-0.1)
    for size in (2, 4):
        yield "noisy", f"batch {size}", "base", lambda c, r, s=size: _with_batch(c, s, 0.25)
    yield "noisy", "batch 2, lr x3", "base", lambda c, r: _with_batch(c, 2, 0.25).number(learning_rate=3)
    for momentum in (0.99, 0.999, 0.9999):
        yield (
            "stale_batch_norm",
            f"momentum {momentum}",
            "base",
            lambda c, r, m=momentum: c.stack(norm="stale", momentum=m),
        )
    if classes:
        for share in (0.1, 0.2, 0.4, 0.6):
            yield "label_noise", f"{share:.0%}", "base", _noisy_labels(share)
        for copies, count in ((2, 300), (4, 300), (4, 150)):
            yield "leaked_validation", f"{count} x {copies}", "base", _leaked(copies, count)
        yield "wrong_loss", "softmax twice", "base", lambda c, r: c.stack(norm="batch", end="softmax")
        yield "wrong_loss", "negated", "base", lambda c, r: replace(c, task=nets.Negated(c.arrays.num_classes or 0))
        yield "wrong_loss", "shifted", "base", lambda c, r: replace(c, task=nets.Shifted(c.arrays.num_classes or 0))
        yield "wrong_labels", "shuffled", "base", _shuffled_labels
        yield (
            "wrong_labels",
            "shuffled, no dropout",
            "base",
            lambda c, r: _shuffled_labels(c, r).hypers(dropout_rate=None, weight_decay=None),
        )
    else:
        yield "wrong_labels", "shuffled", "base", _shuffled_labels


def healthy(case: Case) -> Iterator[tuple[str, str, str, Change]]:
    """Trainings with nothing wrong in them, though no two are alike."""
    yield "healthy", "base", "base", lambda c, r: c
    yield "healthy", "lr x0.5", "base", lambda c, r: c.number(learning_rate=0.5)
    yield "healthy", "lr x1.5", "base", lambda c, r: c.number(learning_rate=1.5)
    half = case.config.batch_size // 2
    yield "healthy", f"batch {half}", "base", lambda c, r: c.configs(batch_size=half)
    yield "healthy", "linear", "base", lambda c, r: c.configs(schedule=jt.Schedule("linear", warmup=1))
    yield "healthy", "one cycle", "base", lambda c, r: c.configs(schedule=jt.Schedule("one_cycle"))
    yield "healthy", "dropout 0.5", "base", lambda c, r: c.hypers(dropout_rate=0.5 if c.arrays.num_classes else 0.05)
    yield "healthy", "stack", "base", lambda c, r: c.stack(norm="batch")


TUNING = (
    ("digits", "mlp"),
    ("mnist", "mlp"),
    ("mnist", "cnn"),
    ("friedman", "mlp"),
    ("mnist", "sgd"),
    ("fashion", "mlp"),
    ("fashion", "cnn"),
    ("tops", "mlp"),
)
HELD_OUT = (("friedman", "sgd"), ("digits", "sgd"), ("waveform", "mlp"), ("cifar", "cnn"), ("cifar", "resnet"))
"""A data set and a network that the rules never saw, and data that they saw with another optimizer."""

OTHER_SEEDS = ("fashion",)
"""Data whose runs were first held out, until it was clear that without it the rules know easy data alone."""


def recipes() -> Iterator[Recipe]:
    """All of them, in the order in which they are trained."""
    for half, pairs in (("tuning", TUNING), ("held-out", HELD_OUT)):
        for data, network in pairs:
            case = base(data, network)
            seeds = (102, 103) if half == "held-out" else (100, 101) if data in OTHER_SEEDS else (0, 1)
            for kind, strength, twin, change in (*healthy(case), *faults(case)):
                place = "/".join((data, network, "healthy", twin))

                def make(
                    data: str = data, network: str = network, change: Change = change, of: str = f"{kind}/{strength}"
                ) -> Case:
                    return change(base(data, network), np.random.default_rng(zlib.crc32(of.encode())))

                yield Recipe(half, data, network, kind, strength, place, seeds, make)


def described(case: Case) -> dict[str, Any]:
    """What of a training is worth a line beside its history."""
    return {"hyper": dataclasses.asdict(case.hyper), "batch_size": case.config.batch_size, "epochs": case.config.epochs}
