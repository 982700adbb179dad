"""Profiled steps: exactly those asked for, and a trace that TensorBoard can find."""

import pytest

import jaxtrain as jt
from jaxtrain.errors import RequestError
from jaxtrain.trace import Trace, check_trace


def test_calls_end_where_the_trace_begins_and_ends(tmp_path):
    trace = Trace((10, 14), tmp_path)
    assert [trace.steps_left(step) for step in (0, 9, 10, 13)] == [10, 1, 4, 1]
    assert trace.steps_left(14) > 1e9 and Trace().steps_left(3) > 1e9


@pytest.mark.parametrize("steps", [(5, 5), (-1, 3), (0, 99)])
def test_steps_that_the_run_does_not_have_are_refused(steps):
    with pytest.raises(RequestError, match="profile_steps is"):
        check_trace(steps, 50, writes=True)


def test_a_trace_needs_a_folder(tiny):
    with pytest.raises(RequestError, match="needs a folder"):
        jt.fit(
            jt.Linear(4), jt.from_arrays(*tiny), jt.Config(epochs=1, batch_size=16), profile_steps=(1, 3), quiet=True
        )


def test_a_run_leaves_a_trace_of_the_steps_asked_for_and_is_the_same_run(tiny, tmp_path):
    data, config = jt.from_arrays(*tiny), jt.Config(epochs=2, batch_size=16)
    traced = jt.fit(jt.Linear(4), data, config, workdir=tmp_path, profile_steps=(3, 5), quiet=True)
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
    assert traced.summary["digest"] == jt.fit(jt.Linear(4), data, config, quiet=True).summary["digest"]
