"""The network under examination: its data in samples, its programs compiled once, its short training run.

Imports the step, the programs and what lies below. The fact that surprises: almost all checks share these few
programs. A check that compiled its own would cost a second, and there are two dozen of them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.checks.double import Derivative, differentiate
from jaxtrain.checks.passes import (
    Passed,
    Scores,
    Weights,
    examined,
    filled,
    host_batch,
    initial,
    leaves_of,
    limit_of_average,
    normalised,
    off,
    passed,
    stepped,
)
from jaxtrain.config import Config, Schedule
from jaxtrain.data import Arrays, Data, put
from jaxtrain.models import is_own_batch_stats, reset_batch_stats
from jaxtrain.step import Setting, init_images
from jaxtrain.types import Array, Batch, Hyper, PyTree, TrainState

NUM_FORWARD = 64  # examples of a forward pass
NUM_DIFFERENTIATED = 8  # examples of a gradient check
NUM_PREPARED = 500  # images normalised at a time
NUM_LEARNT = 512  # training examples of the short training run
NUM_HELD = 1000  # validation examples
MAX_BATCH = 128  # of the short training run; a larger batch only takes longer
EARLY_STEPS, NUM_STEPS = 10, 60
JITTER = 0.02


@dataclass(frozen=True, eq=False)
class Trained:
    """A short training run by the real step."""

    weights: tuple[Weights, Weights, Weights]  # at its start, after ten steps and at its end
    learning_rate: float

    @property
    def end(self) -> Weights:
        """The last weights, with running statistics as after many more steps."""
        return self.weights[2]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, its data and how it is to be trained, with all that the checks look at."""

    setting: Setting
    data: Data
    hyper: Hyper
    seed: int

    @functools.cached_property
    def key(self) -> Array:
        """Of the initial weights, as a run with this seed has them."""
        return jax.random.key(self.seed)

    def keys(self, count: int) -> list[Array]:
        """Others, for masks and augmentation."""
        return [jax.random.key(self.seed + 1 + index) for index in range(count)]

    @functools.cached_property
    def numbers(self) -> Hyper:
        """The hyper-parameters as float32: a Python float in one place and an array in another are two programs."""
        return jax.tree.map(np.float32, self.hyper)

    @functools.cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation examples, a random part of each split, as indices into the data."""
        random = np.random.default_rng(self.seed)
        batch_size = self.brief.config.batch_size
        count = min(self.data.num_train, max(NUM_LEARNT, batch_size)) // batch_size * batch_size
        first, stop = self.data.val
        held = random.permutation(stop - first)[:NUM_HELD] + first
        return random.permutation(self.data.num_train)[:count], held

    @functools.cached_property
    def arrays(self) -> Arrays:
        """Those examples on the device, training before validation."""
        rows = np.concatenate(self.rows)
        return put(dataclasses.replace(self.data, image=self.data.image[rows], label=self.data.label[rows]))

    @functools.cached_property
    def image(self) -> np.ndarray:
        """The same as the network gets them, without augmentation."""
        return self.prepared(self.data.image[np.concatenate(self.rows)])

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """Images normalised, in parts of one size, so that one program serves all."""
        parts = [filled(image[at : at + NUM_PREPARED], NUM_PREPARED) for at in range(0, len(image), NUM_PREPARED)]
        done = [np.asarray(normalised(self.data.preprocess, part)) for part in parts]
        return np.concatenate(done)[: len(image)]

    @property
    def num_train(self) -> int:
        """Training examples in `arrays`."""
        return len(self.rows[0])

    @property
    def labels(self) -> np.ndarray:
        """Of the examples in `arrays`, as given."""
        return np.asarray(self.arrays.label)

    @property
    def num_classes(self) -> int | None:
        """None in regression, and where a task's outputs are not one number a class."""
        classes = self.data.info.num_classes
        return classes if classes and self.scores.outputs.shape[1:] == (classes,) else None

    @functools.cached_property
    def batch(self) -> Batch:
        """Training examples for a forward pass."""
        return self.examples(0, min(NUM_FORWARD, self.num_train))

    def examples(self, first: int, stop: int, label: np.ndarray | None = None) -> Batch:
        """The examples [first, stop) as a batch on the host."""
        label = self.labels if label is None else label
        return host_batch(self.image[first:stop], label[first:stop])

    @functools.cached_property
    def brief(self) -> Setting:
        """The setting of a short run: the same step, at a constant rate, with nothing that belongs to a long run."""
        config = self.setting.config
        size = min(
            config.batch_size,
            MAX_BATCH // config.num_micro_batches * config.num_micro_batches or 1,
        )
        return dataclasses.replace(self.setting, config=bare(config, max(size, config.num_micro_batches)))

    @functools.cached_property
    def state(self) -> TrainState:
        """The state before the first step."""
        return self.begin(self.numbers)

    def begin(self, hyper: Hyper) -> TrainState:
        """The state before the first step, with other numbers."""
        return initial(self.brief, self.key, hyper, self.init_images)

    @functools.cached_property
    def init_images(self) -> np.ndarray | None:
        """What the network is initialised with, if its parameters depend on images."""
        return init_images(self.brief, self.data, self.numbers)

    @functools.cached_property
    def start(self) -> Weights:
        """The initial weights."""
        return copied(self.state)

    @functools.cached_property
    def moved(self) -> Weights:
        """The initial weights, each moved a little at random: off the kinks and zeros where networks begin."""
        random = np.random.default_rng(self.seed)

        def move(leaf: np.ndarray) -> np.ndarray:
            return (leaf + JITTER * random.standard_normal(leaf.shape)).astype(leaf.dtype)

        return Weights(jax.tree.map(move, self.start.params), self.start.batch_stats)

    @functools.cached_property
    def scores(self) -> Scores:
        """Of the initial weights, on the training examples."""
        return self.score(self.start, 0, self.num_train)

    @functools.cached_property
    def trained(self) -> Trained:
        """The short training run at the configured rate."""
        return self.train(float(self.hyper.learning_rate))

    def trained_at(self, factor: float) -> Trained:
        """The same at `factor` times the configured rate."""
        return self.trained if factor == 1 else self.train(factor * float(self.hyper.learning_rate))

    @functools.cached_property
    def best(self) -> Trained:
        """The short run at the configured rate, or at a tenth of it where that one diverged."""
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.trained.end.params))
        return self.trained if finite else self.trained_at(0.1)

    def train(
        self,
        learning_rate: float,
        label: np.ndarray | None = None,
        num_steps: int = NUM_STEPS,
    ) -> Trained:
        """A short run from the initial weights, on the training examples, with labels of their own or these."""
        state = self.begin(dataclasses.replace(self.numbers, learning_rate=jnp.float32(learning_rate)))
        weights, batches = [copied(state)], self.batches(num_steps, label)
        for first, stop in ((0, EARLY_STEPS), (EARLY_STEPS, None)):
            for batch in itertools.islice(batches, None if stop is None else stop - first):
                state, _ = stepped(self.brief, state, batch)
            weights.append(copied(state))
        return Trained((weights[0], weights[1], self.settled(weights[2])), learning_rate)

    def batches(self, num_steps: int, label: np.ndarray | None = None) -> Iterator[Batch]:
        """Training batches, epoch after epoch, each in an order of its own; more of them where they are small."""
        random, size = np.random.default_rng(self.seed), self.brief.config.batch_size
        label, order = self.labels if label is None else label, np.arange(0)
        for step in range(num_steps * max(1, NUM_FORWARD // size)):
            at = step * size % self.num_train
            order = random.permutation(self.num_train) if at == 0 else order
            rows = order[at : at + size]
            yield host_batch(self.image[rows], label[rows], rows)

    def settled(self, weights: Weights) -> Weights:
        """The weights with running statistics as after many more steps: Algorithm 2, of Flax's BatchNorm too."""
        if not weights.batch_stats:
            return weights
        size = len(self.batch.label)
        firsts = range(0, self.num_train - size + 1, size)
        terms = [self._statistics(weights, self.image[first : first + size]) for first in firsts]
        return weights._replace(batch_stats=jax.tree.map(lambda *x: np.mean(x, axis=0), *terms))

    def _statistics(self, weights: Weights, image: np.ndarray) -> PyTree:
        """Those of one batch, without dropout where it can be switched off."""
        hyper = off(self.numbers, "dropout_rate", "input_dropout_rate")

        def after(batch_stats: PyTree) -> PyTree:
            return self.training_pass(weights._replace(batch_stats=batch_stats), image, self.key, hyper).batch_stats

        if is_own_batch_stats(weights.batch_stats):
            return after(jax.tree.map(np.asarray, reset_batch_stats(weights.batch_stats)))
        zeros, ones = (jax.tree.map(like, weights.batch_stats) for like in (np.zeros_like, np.ones_like))
        return jax.tree.map(limit_of_average, weights.batch_stats, after(zeros), after(ones))

    def examine(self, weights: Weights, batch: Batch, hyper: Hyper | None = None) -> Scores:
        """A forward pass in evaluation mode."""
        return Scores(*jax.device_get(examined(self.setting, *weights, hyper or self.numbers, batch)))

    def score(self, weights: Weights, first: int, stop: int, label: np.ndarray | None = None) -> Scores:
        """Of the examples [first, stop), with labels of their own or those of all examples in `label`."""
        size = len(self.batch.label)
        whole = self.examples(first, stop, label)
        parts = [
            jax.tree.map(lambda x, at=at: filled(x[at : at + size], size), whole) for at in range(0, stop - first, size)
        ]
        scores = [self.examine(weights, part) for part in parts]
        return jax.tree.map(lambda *x: np.concatenate(x)[: stop - first], *scores)

    def training_pass(self, weights: Weights, image: Any, key: Array, hyper: Hyper | None = None) -> Passed:
        """A forward pass in training mode."""
        return Passed(*jax.device_get(passed(self.setting, *weights, hyper or self.numbers, image, key)))

    @functools.cached_property
    def derivative(self) -> Derivative:
        """Of the mean data loss of a few examples by the parameters, in training mode with the keys held."""
        batch = jax.tree.map(lambda x: x[:NUM_DIFFERENTIATED], self.batch)
        setting, hyper, batch_stats = self.setting, self.numbers, self.start.batch_stats

        def data_loss(params: PyTree) -> Array:
            applied = setting.model.apply(params, batch_stats, batch.image, train=True, key=self.key, hyper=hyper)
            return jnp.mean(setting.task.loss(applied.outputs, batch, hyper))

        return differentiate(data_loss, self.moved.params)

    @functools.cached_property
    def gradients(self) -> tuple[dict[str, np.ndarray], ...]:
        """Path -> gradient, at the start, after ten steps and at the end of the short run."""
        return tuple(leaves_of(self.derivative.gradient(weights.params)) for weights in self.trained.weights)

    def is_frozen(self, path: str) -> bool:
        """Whether `config.frozen` names this leaf."""
        return any(f"{path}/".startswith(f"{entry.strip('/')}/") for entry in self.setting.config.frozen)


def bare(config: Config, batch_size: int) -> Config:
    """The config without what comes after or beside the steps; optimizer, augmentation and micro-batches stay."""
    return dataclasses.replace(
        config,
        batch_size=batch_size,
        eval_batch_size=NUM_FORWARD,
        tta="none",
        schedule=Schedule("constant"),
        plateau=None,
        early_stopping=None,
        ema_decay=None,
        swa_start=None,
        snapshot_every_epochs=None,
        final="last",
        watch="auto",
    )


def copied(state: TrainState) -> Weights:
    """The weights on the host. Copied, for the next step may reuse their memory."""
    return Weights(*jax.tree.map(np.array, (state.params, state.batch_stats)))
