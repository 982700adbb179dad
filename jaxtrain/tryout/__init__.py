"""What a diagnosis advises, tried: the remedies trained for a short while beside a control, and which of them helped.

    suggested = remedies(diagnose_path("runs/x").findings, experiment)
    print(in_words(try_remedies(experiment, data, suggested, seeds=range(3))))

Imports everything below it, `run` too. No statistics are made here: a gain is a `seeds.Comparison`.
"""

from jaxtrain.tryout.best import write_best
from jaxtrain.tryout.judge import Trial, Tryout
from jaxtrain.tryout.remedies import NO_REMEDY, Remedy, remedies
from jaxtrain.tryout.short import shorten
from jaxtrain.tryout.tryout import SHARE, try_remedies
from jaxtrain.tryout.words import in_words, show

__all__ = [
    "NO_REMEDY",
    "SHARE",
    "Remedy",
    "Trial",
    "Tryout",
    "in_words",
    "remedies",
    "shorten",
    "show",
    "try_remedies",
    "write_best",
]
