"""A long run of short epochs that logs and saves all the time leaks nothing."""

import os
import statistics
import threading

import pytest

import jaxtrain as jt
from jaxtrain.types import Hyper


def sample() -> tuple[float, int, int]:
    """Megabytes in memory, open files, threads of this process."""
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.faults("soak: 500 short epochs with checkpoints and logs", ci=0, full=1)
@pytest.mark.whole_runs
def test_memory_open_files_and_threads_stay_flat(tiny, tmp_path, case, record_property):
    config = jt.Config(epochs=500, batch_size=12, log_every_steps=3, checkpoint_every_seconds=0.05, ema_decay=0.9)
    samples: list[tuple[float, int, int]] = []

    def stop() -> bool:
        samples.append(sample())
        return False

    network, data = jt.MLP(num_outputs=4, hidden=(16,)), jt.from_arrays(*tiny)
    jt.fit(network, data, config, Hyper(learning_rate=1e-3), workdir=tmp_path, quiet=True, report=False, stop=stop)
    part = len(samples) // 10
    early, late = samples[2 * part : 4 * part], samples[-2 * part :]
    before, after = ([statistics.median(each) for each in zip(*some, strict=True)] for some in (early, late))
    memory, files, threads = (new - old for old, new in zip(before, after, strict=True))
    record_property("MB grown", round(memory, 1))
    assert memory < 20 and files <= 2 and threads <= 2, f"{before}, then {after}"
