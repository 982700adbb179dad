"""What a diagnosis says: findings with their evidence, how sure they are, and what to try next.

Imports nothing of jaxtrain. The fact that surprises: a confidence is no probability of a model's; it is a rule's own
word, and how often each word is right is measured on a corpus of real runs (docs/diagnosis.md).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["medium", "high"]

HIGH, TOLD = 0.9, 0.5
"""Confidence from which on a finding is of the level "high", and from which on it is told at all."""

NAMES = {
    "diverged": "the training has diverged",
    "not_normalised": "the inputs are not normalised",
    "wrong_target": "the loss or the labels look wrong",
    "exploding_gradients": "gradients explode",
    "vanishing_gradients": "gradients vanish",
    "dying_relus": "units are dead",
    "lr_too_high": "the learning rate is too high",
    "lr_too_low": "the learning rate is too low",
    "plateau": "a plateau that annealing would break",
    "stale_batch_norm": "BatchNorm's statistics are out of date",
    "noisy": "the curve is noisy: the batch is too small",
    "label_noise": "some labels are wrong",
    "leaked_validation": "validation is better than it should be",
    "overfitting": "overfitting",
    "underfitting": "underfitting",
    "healthy": "healthy",
}
"""Every finding there is, in the order in which they are told: what makes others meaningless comes first."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen.

    Attributes:
      name: a key of `NAMES`.
      text: what was seen, in words and numbers, for someone who has not read this code.
      confidence: in [0, 1].
      advice: what to try next, the first first.
      epoch: from when on, if that can be said.
      evidence: the numbers that it rests on, by name.
    """

    name: str
    text: str
    confidence: float
    advice: tuple[str, ...] = ()
    epoch: float | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name in words."""
        return NAMES[self.name]

    @property
    def level(self) -> Level:
        """How sure it is, as a word."""
        return "high" if self.confidence >= HIGH else "medium"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        numbers = {name: float(f"{value:.5g}") for name, value in self.evidence.items() if math.isfinite(value)}
        return {
            "name": self.name,
            "title": self.title,
            "level": self.level,
            "confidence": round(self.confidence, 3),
            "text": self.text,
            "advice": list(self.advice),
            "epoch": self.epoch,
            "evidence": numbers,
        }
