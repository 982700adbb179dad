"""How many cases of each fault are tried: few by default, all with --full (scripts/fault_suite.py).

A test marked `faults(title, ci=12, full=60)` that takes `case` is run once for each of 0..count-1; the case is its
seed, so a failure is repeated by its name. What a case found out (was the process killed in the middle of a save?)
goes into `record_property`, and from there into the table of the suite.
"""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "faults(title, ci, full): cases of a fault, in a quick run and in a full one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("faults")
    if marker is not None and "case" in metafunc.fixturenames:
        count = marker.kwargs["full" if metafunc.config.getoption("--full") else "ci"]
        metafunc.parametrize("case", range(count))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("faults")
        if marker is not None:
            item.add_marker("slow")  # the quick tests and the second Python leave them out
            item.user_properties.append(("faults", marker.args[0]))
