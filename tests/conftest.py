"""What every test runs under: rank promotion raises, and there is tiny data that needs no file."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

MOST_MAPS = 20_000
"""Memory maps of a process. A network that is trained takes about a thousand; beyond 65,530, Linux's default, XLA
crashes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also the many cases that repeat on others what few show")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_configure(config: pytest.Config) -> None:
    # A [B] against a [B, 1] broadcasts to [B, B] without a word; here it raises.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # Members are spread over devices; a CPU shows one unless it is told otherwise.
    jax.config.update("jax_num_cpu_devices", 2)
    _share_compiled_programs(config)


def _share_compiled_programs(config: pytest.Config) -> None:
    """One compilation cache for a session: its workers and the scripts they start compile each program once."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="jaxtrain-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(autouse=True)
def few_maps() -> Iterator[None]:
    """Drops what is compiled before it is too much; programs that come again are read from the cache on the disk."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def tiny() -> tuple[np.ndarray, np.ndarray]:
    """120 images u8[120, 8, 8, 1] of 4 classes and their labels i32[120]: a bright quarter and noise, soon learnt."""
    random = np.random.default_rng(0)
    label = np.arange(120, dtype=np.int32) % 4
    image = random.integers(0, 100, (120, 8, 8, 1), dtype=np.uint8)
    for row, k in enumerate(label):
        image[row, 4 * (k // 2) : 4 * (k // 2) + 4, 4 * (k % 2) : 4 * (k % 2) + 4] += 120
    return image, label


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, for slow tests."""
    folder = os.environ.get("JAXTRAIN_DATA")
    if not folder:
        pytest.skip("set JAXTRAIN_DATA to the folder that holds mnist, fashion_mnist and cifar10")
    return Path(folder)


@pytest.fixture(autouse=True)
def bare_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs look at no step closely, and draw no graph and no report, each of which takes seconds to compile or draw.

    A test of these is marked `whole_runs`.
    """
    with pytest.MonkeyPatch.context() as patch:  # not the test's own, which it may undo
        if request.node.get_closest_marker("whole_runs") is None:
            patch.setattr("jaxtrain.log.Logs.wants_looks", False)
            patch.setattr("jaxtrain.job.log_graphs", lambda *_: None)
            patch.setattr("jaxtrain.run._report", lambda *_: None)
        yield
