"""What was tried, and which of it helped: each remedy is compared with the control, seed by seed.

Imports statistics over seeds. The fact that surprises: a seed stands for the same initial weights and the same order of
the data with every remedy, so much of the luck cancels out in a gain.
"""

import dataclasses
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtrain.config import Experiment
from jaxtrain.configfile import to_json
from jaxtrain.folder import differences
from jaxtrain.seeds import Comparison, compare, partners

FAR = 4
"""Standard deviations of a remedy's own scores by which it is better beyond any doubt, however the control behaves."""

Verdict = Literal["helped", "made it worse", "no clear difference", "diverged", "one seed tells nothing"]
Scores = Mapping[int, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Trial:
    """What was tried once, over all seeds.

    Attributes:
      name: of the remedy, or "control".
      finding: what it is suggested for; "" of the control.
      experiment: the run's with the remedy, of full length.
      scores: seed -> split (train, val) -> metric -> value, without seeds that diverged.
      diverged: seeds whose loss, or score on validation, became NaN or infinite.
      epochs: trained.
      steps: trained, of a seed.
      seconds: of all seeds together.
      parts: the remedies that it is made of, if it is two together.
    """

    name: str
    finding: str
    experiment: Experiment
    scores: Scores
    diverged: tuple[int, ...]
    epochs: int
    steps: int
    seconds: float
    parts: tuple[str, ...] = ()

    def values(self, metric: str, split: str = "val") -> dict[int, float]:
        """Seed -> score, of those that have not diverged."""
        return {seed: scores[split][metric] for seed, scores in self.scores.items()}


class Judged(NamedTuple):
    """A trial beside the control."""

    trial: Trial
    verdict: Verdict
    gain: Comparison | None  # trial minus control, in the metric's own unit; None where one of them has no seed left


@dataclass(frozen=True)
class Tryout:
    """What was tried on a run, and what came of it.

    Attributes:
      control: the run's own experiment, as short as the others.
      trials: of the remedies, in the order in which they were tried; the last may be two together.
      metric: of the validation split, by which they are compared: that which the config watches.
      sign: 1 where larger is better, -1 where smaller is.
      seeds: of every trial.
      share: of the run's steps that was asked for.
      left_out: remedy -> why it cannot be trained.
      stopped: whether it was stopped before all was tried.
    """

    control: Trial
    trials: tuple[Trial, ...]
    metric: str
    sign: int
    seeds: tuple[int, ...]
    share: float
    left_out: Mapping[str, str] = field(default_factory=dict)
    stopped: bool = False

    def judged(self) -> list[Judged]:
        """The trials beside the control, those that gain most first, those that lost most seeds last."""
        return sorted((judge(trial, self.control, self.metric, self.sign) for trial in self.trials), key=self._rank)

    @property
    def best(self) -> Judged | None:
        """The remedy that gained most of those that helped; two together only if they are clearly better than one."""
        helped = [each for each in self.judged() if each.verdict == "helped"]
        if len(helped) > 1 and helped[0].trial.parts:
            both, alone = helped[0].trial, helped[1].trial
            return helped[0 if judge(both, alone, self.metric, self.sign).verdict == "helped" else 1]
        return helped[0] if helped else None

    def changes(self, trial: Trial) -> list[str]:
        """What a trial has otherwise than the run, as "hyper.learning_rate is 0.3, was 3.0"."""
        return differences(to_json(self.control.experiment), to_json(trial.experiment), ())

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with every seed's figures."""
        best = self.best
        return {
            "metric": f"val/{self.metric}",
            "larger_is_better": self.sign > 0,
            "seeds": list(self.seeds),
            "share": self.share,
            "stopped": self.stopped,
            "best": None if best is None else best.trial.name,
            "left_out": dict(self.left_out),
            "control": _trial_json(self.control),
            "trials": [
                {
                    **_trial_json(each.trial),
                    "finding": each.trial.finding,
                    "changes": self.changes(each.trial),
                    "verdict": each.verdict,
                    "gain": None if each.gain is None else dataclasses.asdict(each.gain),
                }
                for each in self.judged()
            ],
        }

    def _rank(self, each: Judged) -> tuple[float, float, float]:
        """Lost seeds, then the score; of equal ones, as where nothing is learnt yet, the loss."""
        score, loss = (each.trial.values(metric).values() for metric in (self.metric, "loss"))
        return len(each.trial.diverged), -self.sign * _mean(score), _mean(loss)


def judge(trial: Trial, control: Trial, metric: str, sign: int) -> Judged:
    """Whether a trial is better than the control, seed by seed.

    A seed that diverges counts more than any score: what loses fewer of them than the control has helped, and what
    loses more has not. Else the 95 % interval of the difference tells, if it leaves out 0. A control that is thrown
    about makes it wide; so what is better with each seed than the control with any, and by far, has helped as well.
    """
    ours, theirs, paired = partners(control.values(metric), trial.values(metric))
    gain = compare(list(ours.values()), list(theirs.values()), paired) if ours and theirs else None
    if gain is None and not theirs:
        return Judged(trial, "diverged", None)
    lost = len(trial.diverged) - len(control.diverged)
    if gain is None or lost:
        return Judged(trial, "made it worse" if lost > 0 else "helped", gain)
    if gain.std is None:
        return Judged(trial, "one seed tells nothing", gain)
    # Without a spread there is no interval: every seed tells the same.
    told = gain.difference != 0 and (gain.std == 0 or gain.significant)
    told |= is_far_apart(list(ours.values()), list(theirs.values()), sign)
    verdict = "no clear difference" if not told else "helped" if sign * gain.difference > 0 else "made it worse"
    return Judged(trial, verdict, gain)


def is_far_apart(control: Sequence[float], trial: Sequence[float], sign: int) -> bool:
    """Whether each score of the trial is better than any of the control, the means by `FAR` deviations of the trial."""
    if len(trial) < 2 or min(sign * score for score in trial) <= max(sign * score for score in control):
        return False
    return abs(_mean(trial) - _mean(control)) > FAR * statistics.stdev(trial)


def _trial_json(trial: Trial) -> dict[str, Any]:
    fields = {name: getattr(trial, name) for name in ("name", "epochs", "steps", "seconds", "diverged", "scores")}
    return {**fields, "diverged": list(trial.diverged)}


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else 0.0
