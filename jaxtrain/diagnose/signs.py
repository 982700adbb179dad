"""The numbers that rules read from a history: smoothed ends, chance, gaps, slopes, ratios.

Imports only histories. The fact that surprises: all of it may be None or NaN, for want of data; a rule asks by
comparison, and a comparison with NaN is false, so what is not known is never found.
"""

import functools
import math

import numpy as np

from jaxtrain.diagnose.history import History

NOTHING = math.nan


class Signs:
    """Of one history; every property is computed once, when it is first asked for."""

    def __init__(self, history: History) -> None:
        self.history, self.facts = history, history.facts

    @property
    def bare(self) -> bool:
        """Whether there are curves alone, of another program, and nothing beside is known."""
        return not self.facts

    # --- Curves: f64[count], NaN where nothing is known

    def whole(self, name: str) -> np.ndarray:
        """A curve of the history."""
        curve = self.history.curve(name)
        return curve if len(curve) else np.full(self.count, NOTHING)

    @functools.cached_property
    def learning(self) -> np.ndarray:
        """The training loss, or where there is none that of validation."""
        return self.train_loss if known(self.train_loss) else self.val_loss

    @functools.cached_property
    def train_loss(self) -> np.ndarray:
        """In evaluation mode where the run is ours."""
        return self.whole("train/loss")

    @functools.cached_property
    def val_loss(self) -> np.ndarray:
        return self.whole("val/loss")

    @functools.cached_property
    def train_accuracy(self) -> np.ndarray:
        return self.whole("train/accuracy")

    @functools.cached_property
    def val_accuracy(self) -> np.ndarray:
        return self.whole("val/accuracy")

    @functools.cached_property
    def count(self) -> int:
        """Evaluations."""
        return len(self.history.rows)

    @property
    def classifies(self) -> bool:
        return known(self.train_accuracy) or known(self.val_accuracy)

    @functools.cached_property
    def num_classes(self) -> float:
        """NaN where unknown; of a CSV, from an accuracy and a loss that begin at chance."""
        return float(self.facts.get("num_classes") or (self._classes_of_chance() if self.bare else NOTHING))

    def _classes_of_chance(self) -> float:
        """K, where an accuracy is about 1 / K while the loss is about log K."""
        for split in ("train", "val"):
            for loss, accuracy in zip(self.whole(f"{split}/loss"), self.whole(f"{split}/accuracy"), strict=True):
                if not 0.6 < loss < 7:
                    continue
                classes = round(math.exp(loss))
                if abs(loss - math.log(classes)) < 0.03 and abs(accuracy * classes - 1) < 0.3:
                    return float(classes)
        return NOTHING

    @functools.cached_property
    def chance_loss(self) -> float:
        """The loss of knowing nothing but how frequent the classes are, or the mean target; NaN where it is 0."""
        if "chance_loss" in self.facts:
            return float(self.facts["chance_loss"]) if self.facts["chance_loss"] > 0 else NOTHING
        return math.log(self.num_classes) if self.num_classes > 1 else NOTHING

    @functools.cached_property
    def chance_accuracy(self) -> float:
        """The share of the most frequent class."""
        if "chance_accuracy" in self.facts:
            return float(self.facts["chance_accuracy"])
        return 1 / self.num_classes if self.classifies else NOTHING

    @functools.cached_property
    def by_accuracy(self) -> bool:
        """Whether each split that has a loss has an accuracy, too; else only their losses can be compared."""
        splits = [split for split in ("train", "val") if known(self.whole(f"{split}/loss"))]
        return self.classifies and all(known(self.whole(f"{split}/accuracy")) for split in splits)

    def quality(self, split: str) -> np.ndarray:
        """0 is chance and 1 perfect: of the accuracy where there is one to compare, else of the loss."""
        if self.by_accuracy:
            accuracy = self.whole(f"{split}/accuracy")
            chance = self.chance_accuracy if math.isfinite(self.chance_accuracy) else 0.0
            if chance >= 1:  # a single class: there is nothing to learn
                return np.full(self.count, NOTHING)
            return (accuracy - chance) / (1 - chance)
        # Of a CSV both splits by where training began: a program that validates once an epoch begins lower.
        return 1 - self.whole(f"{split}/loss") / self.scale

    @property
    def knows_chance(self) -> bool:
        """Whether the loss of knowing nothing is known; else losses are in units of the beginning."""
        return math.isfinite(self.chance_loss)

    @property
    def unit(self) -> str:
        """What losses are compared with, in words."""
        return "that of knowing nothing" if self.knows_chance or not self.bare else "what it began with"

    def epoch(self, row: int) -> float | None:
        """Of a row; None where only steps were counted."""
        return float(self.history.epochs[row]) if self._counts_epochs else None

    def when(self, row: int) -> str:
        """As in "epoch 3", or "step 500" where only steps were counted."""
        if self._counts_epochs:
            return f"epoch {self.history.epochs[row]:g}"
        return f"step {self.history.curve('step')[row]:.0f}"

    @property
    def _counts_epochs(self) -> bool:
        step = self.history.curve("step")
        return not self.bare or len(self.history.curve("epoch")) > 0 or not len(step) or not np.isfinite(step).all()

    # --- Ends and trends

    @functools.cached_property
    def tail(self) -> int:
        """Evaluations that make up "the end": a tenth, at least one."""
        return max(1, self.count // 10)

    def end(self, curve: np.ndarray) -> float:
        """The median of the last tenth, or the last number there is where nothing is recorded in it."""
        last = curve[-self.tail :]
        return median(curve[np.isfinite(curve)][-1:] if np.isnan(last).all() else last)

    def best_row(self, curve: np.ndarray) -> int:
        """Where the smallest value is, the last of equals; -1 of an empty curve."""
        if not np.isfinite(curve).any():
            return -1
        return int(np.flatnonzero(curve == np.nanmin(curve))[-1])

    @functools.cached_property
    def progress(self) -> np.ndarray:
        """How far the training was at each row, in [0, 1], by the sum of the rates up to it rather than by steps: an
        annealed curve flattens as its rate falls, whatever there is left to learn."""
        rates = self.history.curve("learning_rate")
        if not len(rates) or not np.isfinite(rates).all() or rates.max() <= 0:
            rates = np.ones(self.count)
        total = np.cumsum(rates)
        return total / total[-1] if self.count else total

    def still_falling(self, curve: np.ndarray) -> float:
        """By how many chance losses the curve fell in the last third of the progress; what is left to fall counts."""
        if len(curve) < 4:
            return NOTHING
        return float(np.interp(2 / 3, self.progress, curve) - self.end(curve)) / self.scale

    @property
    def is_on_its_way(self) -> bool:
        """Whether the training loss fell in the last third of the progress by a fifth of what was left at the end."""
        return self.still_falling(self.learning) > 0.2 * self.left

    @functools.cached_property
    def left(self) -> float:
        """What there is still to learn of the training loss at the end, in chance losses."""
        left = (self.end(self.learning) - self.least) / self.scale
        return max(0.0, left) if self.least else left  # the loss of a density may be negative

    @functools.cached_property
    def least(self) -> float:
        """The cross-entropy, in evaluation, of a network that has learnt smoothed labels to the letter: with a share s
        spread over K classes it gives the right one a probability of 1 - s + s / K."""
        share, classes = (float(self.facts.get(name) or 0) for name in ("label_smoothing", "num_classes"))
        return -math.log(1 - share + share / classes) if 0 < share < 1 and classes > 0 else 0.0

    @functools.cached_property
    def scale(self) -> float:
        """The unit of losses: that of chance, or of the beginning."""
        if math.isfinite(self.chance_loss):
            return self.chance_loss
        return _beginning(self.learning)

    def late_share(self, curve: np.ndarray) -> float:
        """Of all that the curve fell, the share of the last third of the progress: a third of a straight line. 0 where
        it does not fall steadily there."""
        if len(curve) < 6 or not np.isfinite(curve).all() or curve[0] <= curve[-1]:
            return NOTHING
        late = np.diff(curve[-max(3, len(curve) // 3) :])
        if np.mean(late < 0) < 0.8:
            return 0.0
        return float((np.interp(2 / 3, self.progress, curve) - curve[-1]) / (curve[0] - curve[-1]))

    @functools.cached_property
    def rise(self) -> tuple[int, int]:
        """The rows between which the training loss rose most, relative to what it had come to; -1, -1 if unknown."""
        curve = self.train_loss
        if len(curve) < 2 or not np.isfinite(curve).all() or curve.min() <= 0:
            return -1, -1
        lowest = np.minimum.accumulate(curve)
        after = int(np.argmax(curve / lowest))
        return int(np.argmin(curve[: after + 1])), after

    def wobble(self, curve: np.ndarray) -> float:
        """How much the second half of a curve goes up and down around its trend, in units of its middle."""
        half = curve[len(curve) // 2 :]
        if len(half) < 4 or not np.isfinite(half).all():
            return NOTHING
        # Second differences know no trend; of independent noise their deviation is sqrt(6) times its own.
        noise = float(np.std(np.diff(half, n=2))) / math.sqrt(6)
        return noise / max(abs(median(half)), 0.02 * self.scale if math.isfinite(self.scale) else 1e-12)

    @functools.cached_property
    def loss_gap(self) -> float:
        """Validation minus training at the end."""
        return self.end(self.val_loss) - self.end(self.train_loss)

    @functools.cached_property
    def quality_gap(self) -> float:
        """Training minus validation at the end, on the scale from chance to perfect."""
        return self.end(self.quality("train")) - self.end(self.quality("val"))

    @functools.cached_property
    def kernel_quality(self) -> float:
        """What kernel ridge regression reaches on validation, from chance to perfect; NaN where it is not known."""
        accuracy, chance = float(self.facts.get("kernel_accuracy", NOTHING)), self.chance_accuracy
        if self.by_accuracy and chance < 1:
            return (accuracy - chance) / (1 - chance)
        # Of what the mean would be wrong by on the same examples: one split's targets may vary more than another's.
        variance = float(self.facts.get("kernel_variance", 0)) or self.chance_loss
        return 1 - float(self.facts.get("kernel_mse", NOTHING)) / variance

    @functools.cached_property
    def below_kernel(self) -> float:
        """By how much the network is worse than kernel ridge regression is on validation, on either split."""
        return self.kernel_quality - max(self.end(self.quality("train")), self.end(self.quality("val")))

    @functools.cached_property
    def kernel_noise(self) -> float:
        """Two standard errors of kernel ridge regression's accuracy, on the scale from chance to perfect."""
        count = min(float(self.facts.get("num_val") or NOTHING), 1000)
        right = float(self.facts.get("kernel_accuracy", NOTHING))
        right = min(max(right, 1 / count), 1 - 1 / count)
        if not self.by_accuracy or self.chance_accuracy >= 1:
            return NOTHING
        return 2 * math.sqrt(right * (1 - right) / count) / (1 - self.chance_accuracy)

    @property
    def is_early(self) -> bool:
        """Whether the run goes on and is not half through."""
        done = float(self.history.epochs[-1]) if self.count else 0.0
        return self.history.status == "running" and done < 0.5 * float(self.facts.get("epochs") or 0)

    @functools.cached_property
    def val_rise(self) -> float:
        """How much the validation loss has risen from its best, relative to that."""
        row = self.best_row(self.val_loss)
        return self.end(self.val_loss) / self.val_loss[row] - 1 if row >= 0 and self.val_loss[row] > 0 else NOTHING

    # --- Looks

    @property
    def batch(self) -> float:
        return float(self.facts.get("batch_size") or NOTHING)

    def update_ratios(self) -> dict[str, float]:
        """Layer -> median of its ratio over the middle of the run; annealed to nothing it says nothing."""
        return {layer: median(_middle(values)) for layer, values in self.history.layers("update_ratio").items()}

    @functools.cached_property
    def update_ratio(self) -> float:
        """The median over the layers."""
        return median(np.array(list(self.update_ratios().values())))

    @functools.cached_property
    def largest_update(self) -> float:
        """The largest median over the layers of any look; NaN where there is none."""
        layers = [*self.history.layers("update_ratio").values()]
        return max(
            (value for look in zip(*layers, strict=True) if (value := median(np.array(look))) > 0), default=NOTHING
        )

    def dead(self) -> dict[str, float]:
        """Layer -> median share of dead units in the later half of the looks; none where the last layer is dead, too,
        as behind a softmax that is sure of each example, and of tiny batches."""
        layers = self.history.layers("dead_units")
        shares = {layer: median(values[len(values) // 2 :]) for layer, values in layers.items()}
        if self.batch < 16 or (shares and min(shares.values()) > 0.5 and self.end(self.train_loss) < 0.01 * self.scale):
            return {}
        return shares

    @functools.cached_property
    def died(self) -> float:
        """The largest share of a layer's units that are dead and were not in the first look; NaN where unknown."""
        before = {layer: float(values[0]) for layer, values in self.history.layers("dead_units").items()}
        return max((share - before[layer] for layer, share in self.dead().items()), default=NOTHING)

    def first(self, name: str) -> float:
        """A number of the look before the first step; NaN where there is none."""
        values = self.history.seen(name)
        return float(values[0]) if len(values) and self.history.looks[0].get("step", 0) == 0 else NOTHING

    def first_gradients(self) -> dict[str, float]:
        """Layer -> length of its gradient before the first step, while all is as it was begun."""
        return {layer: self.first(f"gradient_norm/{layer}") for layer in self.history.layers("gradient_norm")}

    @functools.cached_property
    def noise_scale(self) -> float:
        """The gradient noise scale, in examples: the batch at which noise and signal are equal. A look is at the first
        micro-batch alone."""
        agreement = self.history.seen("gradient_agreement")
        mean = float(np.nanmean(agreement)) if np.isfinite(agreement).any() else NOTHING
        seen = self.batch / float(self.facts.get("num_micro_batches") or 1)
        return seen / 2 * (1 - mean) / mean if mean > 0 else math.inf if mean <= 0 else NOTHING

    def looked(self, name: str) -> float:
        """The median of a number over all looks."""
        return median(self.history.seen(name))

    # --- Modes and labels

    @functools.cached_property
    def mode_gaps(self) -> np.ndarray:
        """Evaluation-mode training loss minus that of the steps just before it, in chance losses, row by row. Dropout
        and augmentation make it negative; positive it is where BatchNorm evaluates with other statistics."""
        steps, losses = self._points()
        at = self.history.curve("step")
        if not len(steps) or not len(at):
            return np.empty(0)
        place = np.searchsorted(steps, at, side="right") - 1
        after = place >= 0
        return (self.train_loss[after] - losses[place[after]]) / self.scale

    @property
    def same_labels(self) -> bool:
        """Whether the steps are scored against the labels themselves, so that their loss can be held against that of
        evaluation; smoothed or mixed ones keep it up."""
        return not any(self.facts.get(name) for name in ("label_smoothing", "mixup"))

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        pairs = [
            (x["step"], x["train/step_loss"]) for x in self.history.points if x.keys() >= {"step", "train/step_loss"}
        ]
        return (np.array(pairs).T[0], np.array(pairs).T[1]) if pairs else (np.empty(0), np.empty(0))

    @functools.cached_property
    def first_step_loss(self) -> float:
        """The running mean of the first steps, in chance losses."""
        _, losses = self._points()
        if self.bare and self.knows_chance and self.count:  # the mean over the first epoch, as most programs log it
            return float(self.train_loss[0]) / self.scale
        return float(losses[0]) / self.scale if len(losses) else NOTHING

    @property
    def last_step_loss(self) -> float:
        """The same of the last steps."""
        _, losses = self._points()
        return float(losses[-1]) / self.scale if len(losses) else NOTHING

    def rank_of_mistakes(self, split: str) -> tuple[float, float, int]:
        """The mean place of a mistaken label beyond the first (1 is the second place), the share of mistakes, and the
        row: where validation is best, before anything is learnt by heart."""
        ranks, accuracy = self.whole(f"{split}_label_rank"), self.whole(f"{split}/accuracy")
        row = self.best_row(-self.val_accuracy)
        if row < 0 or not accuracy[row] < 1:
            return NOTHING, NOTHING, row
        return (ranks[row] - 1) / (1 - accuracy[row]), 1 - accuracy[row], row


def _beginning(loss: np.ndarray) -> float:
    """The largest of the first three losses, where a loss has 0 as its least; that of a density may be negative."""
    finite = loss[np.isfinite(loss)]
    return float(finite[:3].max()) if len(finite) and finite.min() >= 0 < finite[:3].max() else NOTHING


def known(curve: np.ndarray) -> bool:
    """Whether it has a number in it."""
    return bool(np.isfinite(curve).any())


def median(values: np.ndarray) -> float:
    """Of what is finite; NaN of nothing."""
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else NOTHING


def _middle(values: np.ndarray) -> np.ndarray:
    """The looks from a tenth to two thirds of the run, or all of a few."""
    if len(values) < 4:
        return values
    return values[max(1, len(values) // 10) : max(2, 2 * len(values) // 3)]
