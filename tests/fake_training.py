"""Training that takes no time, for tests of a search: a member's score is a formula of its hyper-parameters."""

import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import numpy as np

import jaxtrain as jt
from jaxtrain.search.rounds import Training
from jaxtrain.space import Choice, Range, Search

BEST_RATE = 3e-3


class Net(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, image):
        return nn.Dense(4)(image.reshape(image.shape[0], -1)[:, : self.width])


@dataclass
class Member:
    seed: int
    hyper: jt.Hyper
    batch_size: int
    history: list = field(default_factory=list)
    reason: str = "running"

    def score(self, epoch):
        """Best at BEST_RATE, and the sooner the better the rate; a rate above 0.5 diverges."""
        distance = abs(math.log10(self.hyper.learning_rate / BEST_RATE))
        return 0.99 - 0.1 * distance - 0.2 * (self.hyper.dropout_rate or 0) - 0.05 / epoch - self.batch_size / 1e5


class Group:
    def __init__(self, setting, members):
        self.setting, self.members, self.step, self.closed = setting, members, 0, False

    def select(self, indices):
        narrower = Group(self.setting, [self.members[i] for i in indices])
        narrower.step = self.step
        return narrower

    def close(self):
        self.closed = True


class Trainer:
    """Stands in for members and train; notes what it was asked for, in memory and in `notes` (a line a call)."""

    def __init__(self, *, hang_after=None, notes=None):
        self.groups, self.calls, self.fits = [], [], []
        self.hang_after, self.notes = hang_after, notes

    @property
    def training(self):
        return Training(self.width, self.make_group, self.train_group, self.write_member, self.fit)

    def width(self, setting, data, hyper, count, parallel):
        return count

    def make_group(self, setting, data, seeds, hypers, parallel):
        size = setting.config.batch_size
        group = Group(setting, [Member(s, h, size) for s, h in zip(seeds, hypers, strict=True)])
        self.groups.append(group)
        return group

    def train_group(self, group, *, until, stop):
        self.calls.append((len(group.members), until - group.step))
        rates = [member.hyper.learning_rate for member in group.members]
        if self.hang_after is not None and len(self.calls) > self.hang_after:
            self.note({"hanging": rates})
            time.sleep(600)  # until it is killed
        per_epoch, total = group.setting.steps_per_epoch, group.setting.num_steps
        for epoch in range(group.step // per_epoch + 1, until // per_epoch + 1):
            for member in group.members:
                if member.hyper.learning_rate > 0.5:
                    member.reason = "diverged"
                elif member.reason == "running":
                    scores = {"val/accuracy": member.score(epoch), "val/loss": 1 - member.score(epoch)}
                    member.history.append({"step": epoch * per_epoch, "epoch": epoch, **scores})
            if stop():
                for member in group.members:
                    member.reason = "stopped" if member.reason == "running" else member.reason
                return
        group.step = until
        for member in group.members:
            member.reason = "done" if until == total and member.reason == "running" else member.reason
        self.note({"trained": rates})

    def write_member(self, group, index, experiment, folder):
        folder.mkdir(parents=True)
        (folder / "rate").write_text(str(group.members[index].hyper.learning_rate))

    def fit(self, model, data, config, hyper, **options):
        self.fits.append((hyper, options))
        options["workdir"].mkdir(parents=True)
        one = dict(mean=0.9, std=0.01, low=0.88, high=0.92, count=len(options["seeds"]), confidence=0.95)
        return SimpleNamespace(summary={"status": "done", "interval": {"val": {"accuracy": one}}})

    def note(self, record):
        if self.notes is not None:
            descriptor = os.open(self.notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, json.dumps(record).encode() + b"\n")
            os.close(descriptor)


def data():
    """100 random images of four classes: 90 train, 10 validate."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (100, 4, 4, 1), dtype=np.uint8)
    return jt.from_arrays(image, np.arange(100) % 4, val_share=0.1)


def experiment(**config):
    return jt.Experiment(Net(), jt.DataConfig(), jt.Config(**{"epochs": 9, "batch_size": 10, **config}))


def search(space=None, *, config=None, **options):
    """A search over rate and dropout; `config` changes the experiment's."""
    drawn = {"hyper.learning_rate": Range(1e-5, 0.1, log=True), "hyper.dropout_rate": Range(0.0, 0.5)}
    return Search(experiment(**(config or {})), space or drawn, **{"trials": 12, "winner_seeds": 0, **options})


def static_search(**options):
    """One that also varies what compiles a program each."""
    both = {"hyper.learning_rate": Range(1e-5, 0.1, log=True), "batch_size": Choice((10, 15, 30))}
    return search(both, **options)


def changed(searched, **fields):
    return dataclasses.replace(searched, **fields)


def lines(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
