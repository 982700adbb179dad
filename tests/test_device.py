"""The manifest says what a run was made with; a GPU that JAX cannot use is mentioned once."""

import json
import os
import subprocess

import jax
import pytest

from jaxtrain import device


def test_manifest_is_json_and_complete():
    manifest = device.manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["versions"]["jax"] == jax.__version__
    assert manifest["num_cores"] >= 1 and manifest["num_devices"] == jax.device_count()


def test_manifest_names_commit_and_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert device.manifest()["git"] is None
    me = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for args in (["init", "-q"], [*me, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *args], check=True)
    clean = device.manifest()["git"]
    assert len(clean["commit"]) == 40 and not clean["dirty"]
    (tmp_path / "new").touch()
    assert device.manifest()["git"] == {"commit": clean["commit"], "dirty": True}


def test_manifest_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert device.manifest()["git"] is None


@pytest.mark.parametrize(
    ("gpu", "backend", "asked", "warned"),
    [(True, "cpu", "", True), (False, "cpu", "", False), (True, "gpu", "", False), (True, "cpu", "cpu", False)],
)
def test_unused_gpu_is_mentioned(gpu, backend, asked, warned, monkeypatch):
    monkeypatch.setattr(device, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    message = device.warn_cpu_only()
    assert (message is not None) == warned
    assert message is None or 'pip install "jaxtrain[cuda12]"' in message


@pytest.fixture
def no_cache():
    """JAX's cache settings as they were before the test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update(names[0], None)
    yield
    for name in names:
        jax.config.update(name, before[name])


def test_compilation_cache_is_in_the_users_cache(tmp_path, monkeypatch, no_cache):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = device.enable_compilation_cache()
    assert folder == tmp_path / "jaxtrain" / "compiled"
    assert (tmp_path / "jaxtrain" / "compiled").is_dir()
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    assert device.enable_compilation_cache(tmp_path / "other") == folder  # what was set before stays


def test_compilation_cache_that_cannot_be_made_is_left_out(tmp_path, no_cache):
    (tmp_path / "file").touch()
    assert device.enable_compilation_cache(tmp_path / "file" / "cache") is None
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_number_of_cores_follows_affinity():
    assert device.num_cores() <= (os.cpu_count() or 1)
