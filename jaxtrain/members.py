"""The member axis: several runs as one, laid out on the devices, and taken apart again.

Imports the programs and data. The fact that surprises: a lane is all there is. A single run is one lane of one member;
`loop` is a lane for each member, every one calling the single run's own compiled program; `vmap` is one lane that holds
a stack of members. The training loop sees lanes, and does not know which it has.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtrain.data import Data, Feed, Resident, make_feed
from jaxtrain.errors import RequestError
from jaxtrain.layout import Layout, Parallel, plan
from jaxtrain.probe import Probe
from jaxtrain.program import MEMBERS, Program, compile_program, make_room
from jaxtrain.step import Setting, init_images
from jaxtrain.types import Array, Hyper, Metrics, PyTree, TrainState

Row = dict[str, float]


@dataclass
class Member:
    """What the loop knows of a member besides its arrays."""

    seed: int
    hyper: Hyper
    history: list[Row] = field(default_factory=list)  # one row an evaluation
    reason: str = "running"  # then: done, early stopping, diverged, stopped
    note: str = ""  # what happened to a diverged one
    skipped: int = 0  # steps that were left out, as far as that was told

    @property
    def running(self) -> bool:
        """Whether it is still trained."""
        return self.reason == "running"


@dataclass(eq=False)
class Lane:
    """The arrays that one call of the compiled programs works on: a member, or a stack of them."""

    program: Program
    feed: Feed
    place: Any  # device or sharding of its arrays
    state: TrainState
    key: Array  # the member's, undonated: a feed knows a member by the identity of this object
    stacked: bool
    sums: Metrics = field(init=False)
    best: PyTree = field(init=False)  # {"params", "batch_stats"} of the best evaluation; the initial ones before it
    held: PyTree = None  # of a stack some of whose members have stopped: what they shall stay at

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Sums of nothing, and the weights at hand as the best."""
        arrays, _, _ = self.feed.chunk(self.key, 0, 0, 1, self.program.setting.config.batch_size)
        # Zeros depend on no argument, so they are bound to no device; the loop would be compiled once for them alone.
        self.sums = self.put(self.program.zeros(self.state.params, self.state.batch_stats, self.state.hyper, arrays))
        self.best = copy_weights(self.state)

    def put(self, tree: PyTree) -> PyTree:
        """`tree` where this lane's arrays are."""
        return jax.device_put(tree, self.place)

    def advance(self, epoch: int, start: int, num_steps: int) -> None:
        """Train for `num_steps` from step `start` of an epoch."""
        arrays, order, first = self.feed.chunk(self.key, epoch, start, max(num_steps, 1), self._batch_size)
        self.state, self.sums = self.program.run_steps(self.state, self.sums, arrays, order, first, num_steps)
        jax.block_until_ready(self.sums)

    def probe(self, epoch: int, index: int) -> Probe:
        """A close look at step `index` of an epoch, with the weights of now."""
        arrays, order, first = self.feed.chunk(self.key, epoch, index, 1, self._batch_size)
        return self.program.probe(self.state, arrays, order, jnp.int32(first))

    def compile(self, epoch: int, start: int) -> None:
        """Compile by calling for no steps, so that no chunk's time holds a compilation."""
        if not self.program.stepped(self.state.hyper):
            return self.advance(epoch, start, 0)
        # Such a program has no call of no steps: one step of a copy instead.
        kept = jax.tree.map(jnp.copy, (self.state, self.sums))
        self.advance(epoch, start, 1)
        self.state, self.sums = kept

    @property
    def _batch_size(self) -> int:
        return self.program.setting.config.batch_size


@dataclass(eq=False)
class Group:
    """Members that are trained in lockstep: at any time each has done the same number of steps, or has stopped."""

    setting: Setting
    data: Data
    layout: Layout
    members: list[Member]
    lanes: list[Lane]
    step: int = 0
    seconds: float = 0.0  # of all processes that worked on it

    def where(self, index: int) -> tuple[Lane, int | None]:
        """A member's lane, and its place in the lane's stack (None: it is alone there)."""
        return (self.lanes[0], index) if self.lanes[0].stacked else (self.lanes[index], None)

    def pick(self, per_lane: Sequence[PyTree], index: int) -> PyTree:
        """A member's part of what was computed lane by lane."""
        if not self.lanes[0].stacked:
            return per_lane[index]
        return places(per_lane[0], index)

    def weights(self, index: int) -> PyTree:
        """{"params", "batch_stats"} of a member now."""
        lane, place = self.where(index)
        weights = {"params": lane.state.params, "batch_stats": lane.state.batch_stats}
        return weights if place is None else places(weights, place)

    def steps_done(self) -> list[int]:
        """Updates of each member: those that stopped early have done fewer than the group."""
        steps = jax.device_get([lane.state.step for lane in self.lanes])
        return [int(self.pick(steps, index)) for index in range(len(self.members))]

    @property
    def running(self) -> list[int]:
        """The members that are still trained."""
        return [index for index, member in enumerate(self.members) if member.running]

    def lane_runs(self, lane: int) -> bool:
        """Whether any member of a lane is still trained."""
        return bool(self.running) if self.lanes[0].stacked else self.members[lane].running

    def each_lane(self, call: Callable[[Lane], Any], lanes: Iterable[int] | None = None) -> list[Any]:
        """`call(lane)` for these lanes (None: all), those of different devices at the same time; in their order."""
        chosen = [self.lanes[i] for i in (range(len(self.lanes)) if lanes is None else lanes)]
        places = {id(lane.place): [other for other in chosen if other.place is lane.place] for lane in chosen}
        if len(places) < 2:
            return [call(lane) for lane in chosen]
        done: dict[int, Any] = {}

        def work(queue: list[Lane]) -> None:
            done.update({id(lane): call(lane) for lane in queue})

        with ThreadPoolExecutor(len(places)) as pool:
            list(pool.map(work, places.values()))
        return [done[id(lane)] for lane in chosen]

    @property
    def is_padded(self) -> bool:
        """Whether its stack has places over, that all devices may have as many."""
        return self.lanes[0].stacked and self.layout.slots > len(self.members)

    def select(self, indices: Sequence[int]) -> "Group":
        """A narrower group of these members, as they are now; `self` is used up.

        Under vmap the stack is compacted, so that the rest costs only what is left; a narrower program may round
        otherwise.
        """
        members = [self.members[i] for i in indices]
        layout = dataclasses.replace(self.layout, width=len(members))
        if not self.lanes[0].stacked:
            lanes = [self.lanes[i] for i in indices]
        else:
            (old,) = self.lanes
            rows = np.asarray([*indices, *[indices[0]] * (layout.slots - len(indices))])
            state, key, sums, best = places((old.state, old.key, old.sums, old.best), rows)
            lane = dataclasses.replace(old, state=old.put(state), key=old.put(key))
            lane.sums, lane.best = old.put(sums), old.put(best)
            stopped = not all(member.running for member in members)
            lane.held = jax.tree.map(jnp.copy, lane.state) if stopped else None
            lanes = [lane]
        return dataclasses.replace(self, layout=layout, members=members, lanes=lanes)

    def close(self) -> None:
        """Let go of the feeds."""
        for feed in {id(lane.feed): lane.feed for lane in self.lanes}.values():
            feed.close()


def places(tree: PyTree, index: Any) -> PyTree:
    """`x[index]` of every array of a stack; of one that is spread over the devices of a CPU, taken on one of them.

    Indexing an array that is spread over devices is a program in which they talk to each other, and JAX starts one for
    each leaf without waiting. On a CPU two of those can each hold the thread that the other needs, for ever. Other
    devices have their programs in order, and not the memory for a whole stack on one.
    """

    def take(x: Any) -> Any:
        if isinstance(x, jax.Array) and len(x.devices()) > 1 and jax.default_backend() == "cpu":
            x = jax.device_put(x, min(x.devices(), key=lambda device: device.id))
        return x[index]

    return jax.tree.map(take, tree)


def copy_weights(state: TrainState) -> PyTree:
    """A copy on the device that outlives the donation of `state`."""
    return jax.tree.map(jnp.copy, {"params": state.params, "batch_stats": state.batch_stats})


def make_group(
    setting: Setting,
    data: Data,
    seeds: Sequence[int],
    hypers: Hyper | Sequence[Hyper],
    parallel: Parallel | Layout = "auto",
    *,
    devices: Sequence[Any] | None = None,
) -> Group:
    """Members before their first step; member i is the run with seed i and, where they differ, hyper-parameters i.

    Args:
      setting: what all members share.
      data: their examples; each member has its own order of them.
      seeds: one for each member.
      hypers: one for all, or one for each; the same fields must be numbers in each.
      parallel: vmap, loop or auto, or a layout from `plan`.
      devices: by default all local ones.

    Raises:
      RequestError: hyper-parameters of different structure, or as `plan`.
    """
    hypers = [hypers] * len(seeds) if isinstance(hypers, Hyper) else list(hypers)
    _check_same_program(hypers, len(seeds))
    devices = list(jax.local_devices() if devices is None else devices)
    if not isinstance(parallel, Layout):
        parallel = plan(setting, data, hypers[0], len(seeds), parallel, width=len(seeds), devices=devices)
    make_room()
    layout = dataclasses.replace(parallel, num_devices=min(parallel.num_devices, len(devices)))
    members = [Member(seed, hyper) for seed, hyper in zip(seeds, hypers, strict=True)]
    make = _one_stack if layout.parallel == "vmap" else _one_each
    return Group(setting, data, layout, members, make(setting, data, members, layout, devices[: layout.num_devices]))


def _one_each(setting: Setting, data: Data, members: list[Member], layout: Layout, devices: list[Any]) -> list[Lane]:
    program = compile_program(setting)
    feeds = [make_feed(data, setting.config.stream, device=device) for device in devices]
    image = init_images(setting, data, members[0].hyper)
    images = [jax.device_put(image, device) for device in devices]
    lanes = []
    for number, member in enumerate(members):
        feed, device = feeds[number % len(feeds)], devices[number % len(feeds)]
        key, hyper = jax.device_put((jax.random.key(member.seed), _numbers(member.hyper)), device)
        state = program.init(key, hyper, images[number % len(feeds)])
        lanes.append(Lane(program, feed, device, state, jax.random.clone(key), stacked=False))
    return lanes


def _one_stack(setting: Setting, data: Data, members: list[Member], layout: Layout, devices: list[Any]) -> list[Lane]:
    mesh = Mesh(np.array(devices), (MEMBERS,))
    place, everywhere = NamedSharding(mesh, PartitionSpec(MEMBERS)), NamedSharding(mesh, PartitionSpec())
    if len(devices) == 1:
        place = everywhere = devices[0]
    program = compile_program(setting, mesh)
    filled = [*members, *[members[-1]] * (layout.slots - len(members))]  # places over are filled, and not looked at
    key = jnp.stack([jax.random.key(member.seed) for member in filled])  # an array of seeds would end at 2^31
    hyper = jax.tree.map(lambda *numbers: jnp.stack(numbers), *(_numbers(member.hyper) for member in filled))
    key, hyper = jax.device_put((key, hyper), place)
    image = jax.device_put(init_images(setting, data, members[0].hyper), everywhere)
    feed = Resident(data, device=everywhere, member_device=place)
    return [Lane(program, feed, place, program.init(key, hyper, image), jax.random.clone(key), stacked=True)]


def _numbers(hyper: Hyper) -> Hyper:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyper)


def _check_same_program(hypers: Sequence[Hyper], count: int) -> None:
    if count < 1:
        raise RequestError("no seeds were given; give at least one")
    if len(hypers) != count:
        raise RequestError(f"{len(hypers)} sets of hyper-parameters were given for {count} seeds; give one for each")
    structures = [jax.tree.structure(hyper) for hyper in hypers]
    for number, structure in enumerate(structures):
        if structure != structures[0]:
            raise RequestError(
                f"members 0 and {number} differ in which hyper-parameters are None, which makes them different"
                " programs; give a number (0 for none) in each, or train them apart"
            )
