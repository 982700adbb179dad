"""Each piece of the state matters: a restore that leaves one out makes another run, in something that is compared.

The run has all there is to forget: moments, statistics, averages, snapshots, sums between two log points, best weights,
and a plateau that reduces its rate before and after the interruption. Its labels are noise, so that its first
evaluation stays its best; a `min_delta` that no gain reaches makes the counters of patience count on any machine. What
is counted of steps that gave NaN is left out of the restore of two members, one of which gives nothing else at last.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damage import bare
from records import differences, record

import jaxtrain as jt
from jaxtrain import job
from jaxtrain import train as loop
from jaxtrain.members import Group
from jaxtrain.step import MAX_BAD_STEPS
from jaxtrain.train import checkpoint_tree, take_up

UNREACHED = 100.0
PER_EPOCH = 6
STOPPED_AT = 6 * PER_EPOCH + 3  # the middle of an epoch, between the log points 36 and 40

Tree = dict[str, Any]
Mutant = Callable[[Tree, Tree], Tree]
"""(what was restored, the same of a run that begins) -> what is taken up."""


class Runs(NamedTuple):
    """A kind of run: how to go on with it, where it was stopped, and what it is when it is not."""

    go_on: Callable[[Path], Any]
    stopped: Path
    whole: dict[str, Any]


def fit(**changes: Any) -> Any:
    return jt.fit(**{**changes, "report": False, "quiet": True})


def noise() -> Any:
    """Labels that only a lookup table could know: the validation loss rises from the first evaluation on."""
    random = np.random.default_rng(123)
    image = random.integers(0, 255, (270, 4, 4, 1), dtype=np.uint8)
    return jt.from_arrays(image, random.integers(0, 4, len(image)).astype(np.int32), num_classes=4, val_share=0.25)


@contextmanager
def single_steps() -> Iterator[None]:
    """Chunks of one step, so that `stop` is asked after each."""
    with bare(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "FIRST_CHUNK", 1)
        patch.setattr(loop, "_next_limit", lambda *_: 1)
        yield


def after(steps: int) -> Callable[[], bool]:
    asked = iter(range(1, 10**9))
    return lambda: next(asked) >= steps


def resumed(runs: Runs, to: Path, mutate: Mutant | None = None) -> list[str]:
    """Go on from where the run was stopped, and say what is otherwise than in the run that was not."""
    folder = Path(shutil.copytree(runs.stopped, to / "run"))

    def take(group: Group, tree: Tree) -> None:
        beginning = jax.tree.map(jnp.copy, checkpoint_tree(group))  # donated otherwise
        take_up(group, mutate(tree, beginning) if mutate else tree)

    with single_steps(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "take_up", take)
        runs.go_on(folder)
    return differences(runs.whole, recorded(folder))


def recorded(folder: Path) -> dict[str, Any]:
    """The record of a run, without the words on a member that diverged: after a resumption they are others."""
    return without_notes(record(folder))


def without_notes(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_notes(part) for name, part in value.items() if name not in ("note", "notes")}
    return [without_notes(part) for part in value] if isinstance(value, list) else value


# ---- one run, all of whose pieces are in use


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("single")
    experiment: dict[str, Any] = {
        "model": jt.MLP(num_outputs=4, hidden=(16,)),
        "data": noise(),
        "config": jt.Config(
            epochs=14,
            batch_size=32,
            schedule=jt.Schedule(kind="constant"),
            watch="-loss",
            plateau=jt.Plateau(patience=2, min_delta=UNREACHED),
            early_stopping=jt.EarlyStopping(patience=9, min_delta=UNREACHED),
            ema_decay=0.9,
            swa_start=0.2,
            snapshot_every_epochs=2,
            log_every_steps=4,
            checkpoint_every_seconds=1e6,
        ),
        "hyper": jt.Hyper(learning_rate=3e-2, dropout_rate=0.1, clip_norm=1.0),
    }
    with single_steps():
        whole = fit(**experiment, workdir=root / "whole")
        stopped = fit(**experiment, workdir=root / "stopped", stop=after(STOPPED_AT))
    control, end = (jax.device_get(run.state.control) for run in (stopped, whole))
    assert stopped.summary["steps"] == STOPPED_AT and 0 < control.best_step < STOPPED_AT
    assert control.best_step == end.best_step  # so the restored ones are those that count
    assert control.evals_since_best > 0 and control.evals_on_plateau > 0
    assert 1 > control.rate_scale > end.rate_scale  # reduced before and after
    assert whole.summary["status"] == "early stopping" and whole.summary["steps"] == 10 * PER_EPOCH
    return Runs(
        lambda folder: fit(**experiment, workdir=folder, resume=True), root / "stopped", recorded(root / "whole")
    )


def state(*names: str) -> Mutant:
    """Leave out these fields of the state."""
    return lambda tree, first: {**tree, "state": _without(tree["state"], first["state"], *names)}


def control(*names: str) -> Mutant:
    """Leave out these fields of the control."""

    def mutate(tree: Tree, first: Tree) -> Tree:
        held = zip(tree["state"], first["state"], strict=True)
        states = (dataclasses.replace(x, control=_without([x.control], [y.control], *names)[0]) for x, y in held)
        return {**tree, "state": tuple(states)}

    return mutate


def part(name: str) -> Mutant:
    """Leave out all of `sums` or `best`."""
    return lambda tree, first: {**tree, name: first[name]}


def moments(tree: Tree, first: Tree) -> Tree:
    return _optimizer(tree, first, lambda path: "count" not in path)


def count(tree: Tree, first: Tree) -> Tree:
    return _optimizer(tree, first, lambda path: "count" in path)


def other_key(tree: Tree, _: Tree) -> Tree:
    """Of another seed: a key is never advanced, so the first one is the right one."""
    return {**tree, "state": tuple(dataclasses.replace(x, key=jax.random.key(1)) for x in tree["state"])}


def other_rate(tree: Tree, _: Tree) -> Tree:
    def halved(x: Any) -> Any:
        return dataclasses.replace(x, hyper=dataclasses.replace(x.hyper, learning_rate=x.hyper.learning_rate / 2))

    return {**tree, "state": tuple(map(halved, tree["state"]))}


def _without(those: Any, first: Any, *names: str) -> tuple[Any, ...]:
    pairs = zip(those, first, strict=True)
    return tuple(dataclasses.replace(x, **{name: getattr(y, name) for name in names}) for x, y in pairs)


def _optimizer(tree: Tree, first: Tree, left_out: Callable[[str], bool]) -> Tree:
    def choose(path: Any, held: Any, begun: Any) -> Any:
        return begun if left_out(jax.tree_util.keystr(path)) else held

    pairs = zip(tree["state"], first["state"], strict=True)
    mixed = [jax.tree_util.tree_map_with_path(choose, x.opt_state, y.opt_state) for x, y in pairs]
    states = zip(tree["state"], mixed, strict=True)
    return {**tree, "state": tuple(dataclasses.replace(x, opt_state=opt_state) for x, opt_state in states)}


# ---- members, one of which gives NaN in the end


class Ailing(nn.Module):
    """A linear network that, of some seeds, gives NaN once it has been trained for so many steps."""

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        done = self.variable("batch_stats", "done", jnp.zeros, ())
        ends = self.variable("batch_stats", "ends", lambda: jax.random.bernoulli(self.make_rng("params")).astype(float))
        if train and not self.is_initializing():
            done.value = done.value + 1
        ill = train & (ends.value > 0) & (done.value > HEALTHY_STEPS)
        return jnp.where(ill, jnp.nan, nn.Dense(4)(image.reshape(len(image), -1)))


HEALTHY_STEPS = 20
AILING = HEALTHY_STEPS + MAX_BAD_STEPS // 2
ENDED = HEALTHY_STEPS + MAX_BAD_STEPS + 3


@pytest.fixture(scope="module", params=["loop", "vmap"])
def members(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[int, Runs]:
    """Steps done when it was stopped -> the run."""
    root = tmp_path_factory.mktemp(request.param)
    experiment: dict[str, Any] = {
        "model": Ailing(),
        "data": noise(),
        "config": jt.Config(epochs=7, batch_size=32, nonfinite="skip", log_every_steps=4, checkpoint_every_seconds=1e6),
        "seeds": (2, 3),  # the first ails
        "parallel": request.param,
    }
    with single_steps():
        whole = fit(**experiment, workdir=root / "whole")
        stopped = [fit(**experiment, workdir=root / f"{at}", stop=after(at)) for at in (AILING, ENDED)]
    ailing, ended = (ensemble.members[0].state.control for ensemble in stopped)
    assert ailing.alive and ailing.bad_steps == ailing.skipped == MAX_BAD_STEPS // 2 and not ended.alive
    assert [run.summary["status"] for run in whole.members] == ["diverged", "done"]

    def go_on(folder: Path) -> Any:
        return fit(**experiment, workdir=folder, resume=True)

    return {steps: Runs(go_on, root / f"{steps}", recorded(root / "whole")) for steps in (AILING, ENDED)}


OF_MEMBERS: dict[str, tuple[Mutant, int]] = {
    "bad_steps": (control("bad_steps"), AILING),
    "skipped": (control("skipped"), AILING),
    "alive": (control("alive"), ENDED),
}


@pytest.mark.parametrize("steps", [AILING, ENDED])
def test_all_of_members_taken_up_nothing_differs(members: dict[int, Runs], tmp_path: Path, steps: int) -> None:
    assert resumed(members[steps], tmp_path) == []


@pytest.mark.faults("a piece of the state left out of the restore", ci=len(OF_MEMBERS), full=len(OF_MEMBERS))
def test_piece_left_out_of_a_member_is_seen(
    members: dict[int, Runs], tmp_path: Path, case: int, record_property: Callable[[str, object], None]
) -> None:
    name, (mutate, steps) = list(OF_MEMBERS.items())[case]
    different = resumed(members[steps], tmp_path, mutate)
    record_property("caught", bool(different))
    assert different, name


MUTANTS: dict[str, Mutant] = {
    "step": state("step"),
    "params": state("params"),
    "batch_stats": state("batch_stats"),
    "moments": moments,
    "count": count,
    "ema": state("ema"),
    "swa": state("swa"),
    "snapshots": state("snapshots"),
    "sums": part("sums"),
    "best": part("best"),
    "best_metric": control("best_metric"),
    "best_step": control("best_step"),
    "evals_since_best": control("evals_since_best"),
    "plateau_metric": control("plateau_metric"),
    "evals_on_plateau": control("evals_on_plateau"),
    "rate_scale": control("rate_scale"),
    "key": other_key,
    "hyper": other_rate,
}


def test_all_taken_up_nothing_differs(single: Runs, tmp_path: Path) -> None:
    assert resumed(single, tmp_path) == []


@pytest.mark.parametrize("name", ["key", "hyper"])
def test_what_never_changes_may_be_left_out(single: Runs, tmp_path: Path, name: str) -> None:
    assert resumed(single, tmp_path, state(name)) == []


@pytest.mark.faults("a piece of the state left out of the restore", ci=len(MUTANTS), full=len(MUTANTS))
def test_piece_left_out_is_seen(
    single: Runs, tmp_path: Path, case: int, record_property: Callable[[str, object], None]
) -> None:
    name, mutate = list(MUTANTS.items())[case]
    different = resumed(single, tmp_path, mutate)
    record_property("caught", bool(different))
    assert different, name
