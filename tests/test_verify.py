"""A run that is repeated from its own checkpoints: equal where nothing has changed, different where something has."""

import dataclasses
import shutil

import jax
import pytest

import jaxtrain as jt
from jaxtrain.checkpoint import Store
from jaxtrain.errors import NonFiniteError, RequestError
from jaxtrain.types import Hyper
from jaxtrain.verify import verify

LAST = 240
CONFIG = jt.Config(epochs=3, batch_size=16, checkpoint_every_seconds=1e-9, keep_checkpoints=2)
HYPER = Hyper(learning_rate=1e-2, dropout_rate=0.2)


@pytest.fixture(scope="module", params=["single", "loop", "vmap", "groups"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    members = {"single": {}, "groups": {"width": 1}}.get(request.param, {"parallel": request.param})
    members |= {} if request.param == "single" else {"seeds": range(2)}
    data = jt.DataConfig(name="digits")
    jt.fit(jt.MLP(hidden=(8,)), data, CONFIG, HYPER, workdir=folder, quiet=True, report=False, **members)
    return folder


def test_a_run_is_equal_to_its_checkpoint_and_nothing_is_written(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = verify(run)
    assert found.equal and found.changes == ()
    assert all(one.stored == () and 0 < one.first < one.last == LAST for one in found.repetitions)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_fewer_steps_are_only_compared_with_each_other(run):
    (one, *_) = verify(run, steps=1).repetitions
    assert one.last == one.first + 1 and one.twice == () and (one.stored is None or one.last == LAST)


def test_from_the_beginning_where_there_is_one_checkpoint(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    for place in [copy / "checkpoints", *copy.glob("checkpoints/group-*")]:
        numbered = sorted(path for path in place.glob("0*") if path.is_dir())
        for path in numbered[:-1]:
            shutil.rmtree(path)
    found = verify(copy)
    assert found.equal and all(one.first == 0 and one.last == LAST for one in found.repetitions)


def test_a_changed_number_is_seen_and_its_arrays_are_named(run, monkeypatch):
    import jaxtrain.step as step

    plain = step.updated

    def changed(*args, **options):
        after = plain(*args, **options)
        return dataclasses.replace(after, params=jax.tree.map(lambda x: x * (1 + 1e-6), after.params))

    monkeypatch.setattr(step, "updated", changed)
    jax.clear_caches()
    jt.program.compile_program.cache_clear()
    found = verify(run)
    jt.program.compile_program.cache_clear()
    assert not found.equal
    assert all(
        one.twice == () and any("params/Dense_0/kernel" in path for path in one.stored or ())
        for one in found.repetitions
    )


def test_what_cannot_be_repeated_is_refused(tmp_path, tiny):
    with pytest.raises(RequestError, match="holds no run"):
        verify(tmp_path)
    data = jt.from_arrays(*tiny)
    jt.fit(jt.Linear(4), data, jt.Config(epochs=1, batch_size=16), workdir=tmp_path, quiet=True)
    with pytest.raises(RequestError, match="give them as `data`"):
        verify(tmp_path)
    assert verify(tmp_path, data=data).equal
    with pytest.raises(RequestError, match="0 steps"):
        verify(tmp_path, steps=0, data=data)
    with pytest.raises(RequestError, match="other data"):
        verify(tmp_path, data=jt.from_arrays(tiny[0] + 1, tiny[1]))
    with pytest.raises(RequestError, match="only its beginning; there is nothing to repeat"):
        verify(_stopped_at_once(tmp_path / "begun", data), data=data)
    for step in Store(tmp_path / "checkpoints", read_only=True).steps():
        shutil.rmtree(tmp_path / "checkpoints" / f"{step:08d}")
    with pytest.raises(RequestError, match="no checkpoint yet"):
        verify(tmp_path, data=data)


def _stopped_at_once(folder, data):
    """A run whose first chunk holds a NaN: its one checkpoint is of step 0."""
    with pytest.raises(NonFiniteError):
        jt.fit(jt.Linear(4), data, jt.Config(epochs=1, batch_size=16), Hyper(learning_rate=1e38), workdir=folder)
    return folder
