"""`check`: all checks in their order, each timed, none of them able to stop the others.

Imports the request, the checks and what lies below. The fact that surprises: a network that does not fit the data is a
check that failed, not an exception: the data is still worth a look.
"""

import time
from collections.abc import Callable
from typing import Any

from jaxtrain.checks import data as of_data
from jaxtrain.checks import forward, gradient, learning, modes, neighbours
from jaxtrain.checks.checkup import Check, Checkup, Finding, skipped
from jaxtrain.checks.subject import Subject
from jaxtrain.config import Config, DataConfig
from jaxtrain.data import Data, load_data
from jaxtrain.errors import RequestError
from jaxtrain.request import check_request, check_values
from jaxtrain.step import make_setting
from jaxtrain.types import Hyper, Task

CHECKS: tuple[tuple[str, str, Callable[[Subject], Finding]], ...] = (
    ("data", "input scale", of_data.input_scale),
    ("data", "splits alike", of_data.splits_alike),
    ("data", "pixels in place", of_data.pixels_in_place),
    ("data", "label balance", of_data.label_balance),
    ("data", "duplicates", of_data.duplicates),
    ("data", "conflicting labels", of_data.conflicting_labels),
    ("data", "label in a feature", of_data.label_in_a_feature),
    ("forward", "first loss", forward.first_loss),
    ("forward", "penalty", forward.penalty_raises_loss),
    ("forward", "outputs", forward.outputs_fit_task),
    ("forward", "activation scales", forward.activation_scales),
    ("forward", "dropout", modes.dropout_switches),
    ("forward", "batch norm", modes.batch_norm_switches),
    ("forward", "neighbours in evaluation", neighbours.neighbours_in_evaluation),
    ("forward", "neighbours in training", neighbours.neighbours_in_training),
    ("forward", "plain evaluation", modes.evaluation_is_plain),
    ("forward", "augmentation", modes.augmentation_acts),
    ("gradient", "gradient check", gradient.gradient_check),
    ("gradient", "gradient everywhere", gradient.reaches_all_parameters),
    ("gradient", "update everywhere", gradient.moves_all_parameters),
    ("gradient", "units differ", gradient.units_differ),
    ("learning", "repeatable step", learning.step_repeats),
    ("learning", "overfit 20 examples", learning.overfits_few),
    ("learning", "learning", learning.learns),
    ("learning", "generalisation", learning.learns_what_holds),
    ("learning", "shuffled labels", learning.chance_stays_chance),
    ("learning", "training and evaluation", modes.modes_agree),
)
"""Group, name and function of each check, in the order in which they are made."""


def check(
    model: Any,
    data: Data | DataConfig,
    config: Config | None = None,
    hyper: Hyper | None = None,
    *,
    task: Task | None = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
) -> Checkup:
    """What a good engineer looks at before a network is trained: data, forward pass, gradient, and whether it learns.

    Takes seconds, on samples of the data; nothing is written. The validation split is used, of the test split only the
    images.

    Args:
      model, data, config, hyper, task: as for `fit`.
      seed: of the initial weights, as in a run, and of the samples.
      report: told the name of each check before it is made.

    Raises:
      RequestError: for values of `config` or `hyper` that are out of range.

    References:
      CS231n, https://cs231n.github.io/neural-networks-3/
    """
    config, hyper = config or Config(), hyper or Hyper()
    check_values(config, hyper)
    data = load_data(data, report=report) if isinstance(data, DataConfig) else data
    subject = Subject(make_setting(model, data, config, task), data, hyper, seed)
    refused = _refused(subject)
    checks = [Check("request", "data", *_of_request(refused), 0.0)]
    for group, name, function in CHECKS:
        report(name)
        started = time.perf_counter()
        blocked = refused is not None and group != "data"
        found = (
            skipped("The network does not fit the data; see the first check.") if blocked else _made(function, subject)
        )
        checks.append(Check(name, group, *found, time.perf_counter() - started))
    return Checkup(tuple(checks))


def _made(function: Callable[[Subject], Finding], subject: Subject) -> Finding:
    """What a check found. One that a network of another kind does not allow tells nothing of the others."""
    try:
        return function(subject)
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        return skipped(f"It could not be made of this network: {type(error).__name__}: {said}")


def _refused(subject: Subject) -> str | None:
    """Why this cannot be trained, if so."""
    try:
        check_request(subject.setting, subject.data, subject.hyper)
    except RequestError as error:
        return str(error)
    return None


def _of_request(refused: str | None) -> Finding:
    expected, advice = (
        "network, task and data fit",
        "Change what is named; a run would refuse to start.",
    )
    return Finding("pass" if refused is None else "fail", refused or "they fit", expected, advice)
