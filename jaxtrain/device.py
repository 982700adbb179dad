"""The machine: what a run was made with, and whether its GPU is used.

Imports nothing of jaxtrain. The fact that surprises: nothing here changes the device; `import jaxtrain` and `fit` never
touch JAX's settings, only the scripts do, through `enable_compilation_cache`.
"""

import datetime
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jaxtrain", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def manifest() -> dict[str, Any]:
    """What a reader needs to make the same run again, as JSON values: versions, devices, cores, commit, command."""
    devices = jax.devices()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "num_cores": num_cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": _git(),
    }


def num_cores() -> int:
    """Cores this process may use: fewer than the machine has under taskset or in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_maps() -> tuple[int, int]:
    """Memory maps of this process, and how many Linux grants it; (0, 0) where that is not told."""
    try:
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
        return used, int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 0, 0


def warn_cpu_only() -> str | None:
    """One message for a machine with an NVIDIA GPU whose JAX is CPU-only, else None (also where CPU was asked for)."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked or not has_nvidia_gpu() or jax.default_backend() != "cpu":
        return None
    return (
        "this machine has an NVIDIA GPU, but the installed JAX can only use the CPU; for the GPU:"
        ' pip install "jaxtrain[cuda12]" (in a checkout: pip install -e ".[cuda12]")'
    )


def has_nvidia_gpu() -> bool:
    """Whether an NVIDIA driver shows itself; JAX itself cannot say so without its CUDA plugin."""
    files = (Path("/proc/driver/nvidia"), Path("/dev/nvidia0"))
    return shutil.which("nvidia-smi") is not None or any(file.exists() for file in files)


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs in `folder` (by default in the user's cache) for the next process. For scripts only.

    Returns:
      The folder in use: one that was set before, as by JAX_COMPILATION_CACHE_DIR, stays; None where none can be made.
    """
    before = jax.config.values["jax_compilation_cache_dir"]
    if before:
        return Path(before)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    chosen = Path(folder) if folder is not None else Path(cache) / "jaxtrain" / "compiled"
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home costs seconds, not the run
        return None
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    # On a CPU each program compiles in less than JAX's default limit of one second, and together they cost several.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return chosen


def one_device_per_core(most: int) -> None:
    """Make JAX show as many CPU devices as there are cores, `most` at most. Before its first use, and for scripts only.

    Where the user has said how many (XLA_FLAGS or JAX_NUM_CPU_DEVICES) that stays; other devices are not touched.
    """
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not said and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", min(num_cores(), most))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # scripts run from a checkout without an installation
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the checkout in which the command was given, and whether files differ from it."""
    commit, status = _run_git("rev-parse", "HEAD"), _run_git("status", "--porcelain")
    return None if commit is None else {"commit": commit, "dirty": bool(status)}


def _run_git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or a slow disk
        return None
    return done.stdout.strip()
