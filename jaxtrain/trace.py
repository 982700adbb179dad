"""A profile of some steps, for TensorBoard's PROFILE tab (`pip install -e ".[profile]"`).

Imports only `errors` and JAX. The fact that surprises: what TensorBoard calls a step is one compiled call here, of as
many steps as lie between two looks; the trace below it has each of them.
"""

import sys
from pathlib import Path

import jax

from jaxtrain.errors import RequestError


class Trace:
    """Traces the steps `first` to `last` (exclusive) into `folder`; with None, nothing."""

    def __init__(self, steps: tuple[int, int] | None = None, folder: Path | None = None) -> None:
        self._steps, self._folder, self._running = steps, folder, False

    def steps_left(self, step: int) -> int:
        """Steps from `step` to where the trace begins or ends; calls must not go beyond."""
        return min((edge - step for edge in self._steps or () if edge > step), default=sys.maxsize)

    def at(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Begin the trace where `step` says so; the context is for the call that starts at `step`."""
        if self._steps is not None and not self._running and self._steps[0] <= step < self._steps[1]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def end(self, step: int) -> None:
        """End the trace where `step`, up to which all is done, says so."""
        if self._steps is not None and step >= self._steps[1]:
            self.close()

    def close(self) -> None:
        """Write what was traced, if anything; a second time does nothing."""
        if self._running:
            jax.profiler.stop_trace()
        self._running = False


def check_trace(steps: tuple[int, int], num_steps: int, *, writes: bool) -> None:
    """Raise RequestError for steps that a run of `num_steps` does not have, or where no folder takes the trace."""
    first, last = steps
    if not 0 <= first < last <= num_steps:
        raise RequestError(f"profile_steps is {first}:{last}; give a:b with 0 <= a < b <= {num_steps}, the run's steps")
    if not writes:
        raise RequestError("profile_steps needs a folder to write the trace to; give workdir or name")
