"""The exam of the checks: they find every planted bug, and find nothing in healthy networks.

The quick part is each bug once, in the cheapest network; the slow part is each bug in the others.
"""

import functools

import pytest
from planted_bugs import BUGS, HEALTHY, Case

from jaxtrain.checks import check

BUGGY = {f"{bug}, in {network}": case for bug, found in BUGS.items() for network, case in found.items()}
QUICK = {f"{bug}, in {next(iter(found))}" for bug, found in BUGS.items()} | set(list(HEALTHY)[:9])


def parameters(table):
    return [pytest.param(name, id=name, marks=() if name in QUICK else pytest.mark.slow) for name in table]


@functools.cache
def checked(name):
    """The Checkup of a case, once for all tests that ask."""
    case: Case = (BUGGY | HEALTHY)[name]
    return case.call(check)


def listed(checkup) -> str:
    return "\n".join(f"{one.verdict:5} {one.name}: {one.value} {one.advice}" for one in checkup.checks)


@pytest.mark.parametrize("name", parameters(BUGGY))
def test_a_planted_bug_is_found(name):
    checkup = checked(name)
    assert checkup.failed, f"{name}: not found\n{listed(checkup)}"


@pytest.mark.parametrize("name", parameters(HEALTHY))
def test_a_healthy_network_is_left_in_peace(name):
    checkup = checked(name)
    assert not checkup.failed, f"{name}: blamed for nothing\n{listed(checkup)}"
