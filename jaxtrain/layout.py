"""How members lie on the devices: one batched program or one after another, and how many of them at a time.

Imports the step and data. The fact that surprises: the width of a group is part of the numbers, for a batched program
of another width may round otherwise; so it is chosen once, recorded, and kept when a run is resumed.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxtrain.augment import views
from jaxtrain.data import Data, memory_left, streams
from jaxtrain.errors import RequestError
from jaxtrain.step import Setting, init_state
from jaxtrain.types import Array, Hyper, PyTree, TrainState

Parallel = Literal["auto", "vmap", "loop"]

MEMORY_SHARE = 0.5
"""Share of the memory at hand which a group of members may take, by an estimate that does not know the temporaries."""


@dataclass(frozen=True)
class Layout:
    """How members lie on the devices. A resumed run needs the same one, for another may round otherwise."""

    parallel: Literal["vmap", "loop"]
    width: int  # members of a group: all that are trained at the same time
    num_devices: int
    why: str = ""  # one clause on why the width is what it is

    @property
    def slots(self) -> int:
        """Places in a group: under vmap as many on each device, so that there may be more than members."""
        if self.parallel == "loop":
            return self.width
        return math.ceil(self.width / self.num_devices) * self.num_devices


ALONE = Layout("loop", 1, 1)
"""That of a single run."""


def plan(
    setting: Setting,
    data: Data,
    hyper: Hyper,
    count: int,
    parallel: Parallel = "auto",
    *,
    width: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Layout:
    """How `count` members are laid out on the devices.

    `auto` is loop on a CPU, where batched programs gain nothing and batched convolutions lose, and vmap elsewhere, but
    loop for data that streams. The width is the number of members, or as many as the memory at hand holds.

    Raises:
      RequestError: no member; streamed data under vmap; not even one member fits.
    """
    if count < 1:
        raise RequestError(f"{count} members were asked for; give at least 1")
    if width is not None and width < 1:
        raise RequestError(f"a group of {width} members was asked for; give at least 1")
    devices = list(jax.local_devices() if devices is None else devices)
    streamed, why = streams(data, setting.config.stream, devices[0])
    if parallel == "vmap" and streamed:
        raise RequestError(
            f"the data streams from the host ({why}), where members cannot share a batch under vmap, for each has"
            " its own order; use --parallel loop"
        )
    chosen = ("loop" if devices[0].platform == "cpu" or streamed else "vmap") if parallel == "auto" else parallel
    used = min(len(devices), count)
    if chosen == "loop" and streamed:  # two windows a member are on the device
        return Layout(chosen, min(count, used, width or count), used, "each member streams its own data")
    fitting, why = _fitting(setting, hyper, chosen, devices[:used])
    wanted = min(count, width or count)
    num_groups = math.ceil(count / min(wanted, fitting))
    narrowed = math.ceil(count / num_groups) if wanted > fitting or width is None else wanted
    return Layout(chosen, narrowed, used, why if wanted > fitting else "")


def num_parts_that_fit(setting: Setting, hyper: Hyper, num_members: int, memory: int | None) -> int:
    """Into how many micro-batches a batch that did not fit is to be split, by an estimate: a divisor of its size.

    Args:
      setting: what ran out of memory.
      hyper: of a member.
      num_members: that are trained at the same time on a device.
      memory: bytes of it, the examples not among them; None where that is not known.
    """
    size, now = setting.config.batch_size, setting.config.num_micro_batches
    finer = [number for number in range(now + 1, size + 1) if size % number == 0]
    for number in finer:
        config = dataclasses.replace(setting.config, num_micro_batches=number)
        needed = sum(_bytes_of_member(dataclasses.replace(setting, config=config), hyper)) * num_members
        # What has failed was too much at any rate: at most half of it.
        if number >= 2 * now and (memory is None or needed <= memory):
            return number
    return finer[-1] if finer else now


def _fitting(setting: Setting, hyper: Hyper, parallel: str, devices: Sequence[Any]) -> tuple[int, str]:
    """Members that fit into the memory at hand, and the sentence that says so."""
    left = memory_left(devices[0])
    if left is None:
        return 1 << 30, ""
    state, activations = _bytes_of_member(setting, hyper)
    together = 1 if devices[0].platform == "cpu" else len(devices)  # on a CPU all share the machine's memory
    at_once = len(devices) if parallel == "loop" else 0  # under loop only those that run hold activations
    room = MEMORY_SHARE * left * together - at_once * activations
    each = state + (0 if parallel == "loop" else activations)
    why = f"about {each / 1e6:,.0f} MB a member, {left * together / 1e6:,.0f} MB of memory free"
    return max(1, int(room // each)), why


def _bytes_of_member(setting: Setting, hyper: Hyper) -> tuple[int, int]:
    """What a member keeps (its state, its best weights), and what a step of it needs besides.

    The latter is a bound from the shapes of the modules' outputs: kept for the backward pass, their gradients, and as
    much again for what lies within a module; gradients and updates of the parameters. Where an evaluation takes several
    views of each image: no less than the outputs of all of them.
    """
    state = jax.eval_shape(lambda key: init_state(setting, key, hyper), jax.random.key(0))
    weights = _num_bytes((state.params, state.batch_stats))
    size = setting.config.batch_size // setting.config.num_micro_batches
    image = jax.ShapeDtypeStruct((size, *setting.image_shape), "float32")

    def forward(state: TrainState, image: Array) -> PyTree:
        options: Any = {"train": False, "hyper": state.hyper, "activations": True}
        return setting.model.apply(state.params, state.batch_stats, image, **options).activations

    outputs = _num_bytes(jax.eval_shape(forward, state, image)) + _num_bytes(image)
    step = 4 * outputs + 2 * weights
    one = jax.ShapeDtypeStruct((1, *setting.image_shape), "float32")
    num_views = jax.eval_shape(lambda image: views(image, setting.config.tta)[0], one).shape[0]
    seen = outputs * num_views * setting.config.eval_batch_size // size
    return _num_bytes(state) + weights, max(step, seen) if num_views > 1 else step


def _num_bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
