"""How long CIFAR-10 takes to its accuracy: configs/cifar10_fast.py from the first step to the last, over many seeds.

    python benchmarks/cifar10_fast.py --data data --seeds 200 --output benchmarks/results/cifar10-fast.json
    python benchmarks/cifar10_fast.py --data data --config configs/cifar10_fast.py:cpu --seeds 3 --rounds 1

Three programs, one after the other, each with the data on the device:

cold      compiles everything with an empty compilation cache
warm      compiles with a full one, then trains --rounds times: seconds from the first step to the last, without
          compilation, and of the evaluation of the test split after it; the share of the matrix products that the
          device can do in the network's dtype
seeds     --seeds members by `fit`, as it lays them out (one program on a GPU): mean test accuracy with its 95 %
          interval

The seconds are those of the compiled loop that `fit` calls, without logs and looks. --examples makes it smaller, and
any field of the config can be given as to scripts/train.py: --epochs 4, --model.dtype float32. Exit status: 0; 1 if a
program failed; 2 if the request is wrong.
"""

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

import jax
import jax.numpy as jnp

import jaxtrain as jt
from jaxtrain.configfile import load_config, to_json
from jaxtrain.data import Data
from jaxtrain.device import enable_compilation_cache, manifest
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import write_json
from jaxtrain.members import make_group
from jaxtrain.metrics import compute
from jaxtrain.optim.parameters import parameter_path
from jaxtrain.overrides import parse_overrides
from jaxtrain.probe import named_outputs
from jaxtrain.script import make_parser, prepare, run_script
from jaxtrain.seeds import Interval, cells
from jaxtrain.step import Setting, init_state, make_setting
from jaxtrain.train import evaluate, fetch
from jaxtrain.types import Hyper

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("cold", "warm", "seeds")


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--config", default=str(ROOT / "configs" / "cifar10_fast.py"), metavar="FILE[:VARIANT]")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("JAXTRAIN_DATA", "data")))
    parser.add_argument("--seeds", type=int, default=20, help="members whose accuracy is averaged; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="timed trainings")
    parser.add_argument("--examples", type=int, help="only so many training and test examples")
    parser.add_argument("--output", type=Path, help="write what was found as JSON")
    parser.add_argument("--part", choices=PARTS, help="only this one, in this process")
    flags, rest = parser.parse_known_args(args)
    for name, least in (("seeds", 0), ("rounds", 1), ("examples", 1)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise RequestError(f"--{name} is {value}; give {least} or more")
    own = [option for action in parser._actions for option in action.option_strings]
    experiment = parse_overrides(load_config(flags.config), rest, prog=parser.prog, own_flags=own)
    if flags.part is None:
        measure(flags, args)
        return
    experiment, data = read(experiment, flags)
    answer = part_of(flags.part, experiment, data, flags)
    print(json.dumps(answer))


def measure(flags: Any, args: list[str]) -> None:
    """All parts, each in a process of its own."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        for part in PARTS if flags.seeds else PARTS[:2]:
            command = [sys.executable, __file__, *args, "--part", part]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
            if done.returncode == RequestError.exit_status:
                raise RequestError(f"{part} could not begin; it says why above")
            if done.returncode:
                raise WorldError(f"{part} ended with exit status {done.returncode}; it says why above")
            found[part] = json.loads(done.stdout.splitlines()[-1])
            print(sentence(part, found[part]), flush=True)
    if flags.output is not None:
        write_json(flags.output, found)


def read(experiment: jt.Experiment, flags: Any) -> tuple[jt.Experiment, Data]:
    """The experiment, evaluated at its end only, and its data, perhaps a part of it."""
    config = experiment.config
    config = dataclasses.replace(config, eval_every_epochs=config.epochs, probe_every_steps=None, stream="never")
    chosen = dataclasses.replace(experiment.data, dir=str(flags.data), download=False, fallback=None)
    if not (flags.data / chosen.name).is_dir():  # or it would be looked for elsewhere, too
        raise RequestError(
            f"there is no folder {chosen.name} in {flags.data}; name the folder that holds it with --data"
        )
    data = jt.load_data(chosen)
    if flags.examples is not None:
        data = part_of_data(data, flags.examples, chosen)
    return dataclasses.replace(experiment, data=chosen, config=config), data


def part_of_data(data: Data, count: int, chosen: jt.DataConfig) -> Data:
    """The first so many training examples, and as many of the test split at most."""
    start, stop = data.test
    test = slice(start, min(stop, start + count))
    return jt.from_arrays(
        data.image[:count],
        data.label[:count],
        val_share=chosen.val_share,
        test=(data.image[test], data.label[test]),
        preprocess=chosen.preprocess,
        num_classes=data.info.num_classes,
        name=f"{data.info.name}, {count} examples",
    )


def part_of(part: str, experiment: jt.Experiment, data: Data, flags: Any) -> dict[str, Any]:
    """What this part finds, for the JSON."""
    prepare(members=flags.seeds if part == "seeds" else 1)
    enable_compilation_cache()
    if part == "seeds":
        return over_seeds(experiment, data, flags.seeds)
    setting = make_setting(experiment.model, data, experiment.config)
    began = time.perf_counter()
    compiled(setting, data, experiment.hyper)
    answer: dict[str, Any] = {"compile_seconds": time.perf_counter() - began}
    if part == "cold":
        return answer
    rounds = [timed(setting, data, experiment.hyper, seed) for seed in range(flags.rounds)]
    work, peak = training_flops(setting, experiment.hyper), peak_flops(dtype_of(experiment.model))
    return {
        **answer,
        "rounds": rounds,
        "seconds": statistics.median(row["seconds"] for row in rounds),
        "evaluation_seconds": statistics.median(row["evaluation_seconds"] for row in rounds),
        "steps": setting.num_steps,
        "flops": work,
        "device_flops_per_second": peak,
        "floor_seconds": work / peak,
        "share_of_the_device": statistics.median(work / peak / row["seconds"] for row in rounds),
        "experiment": to_json(experiment),
        "data": dataclasses.asdict(data.info),
        "num_train": data.num_train,
        "num_test": data.num_test,
        "manifest": manifest(),
    }


def compiled(setting: Setting, data: Data, hyper: Hyper) -> None:
    """Everything that a round calls, once."""
    group = make_group(setting, data, [0], hyper, "loop")
    (lane,) = group.lanes
    lane.compile(0, 0)
    weights = {"params": lane.state.params, "batch_stats": lane.state.batch_stats}
    jax.block_until_ready(evaluate(lane, weights, data.test[0], data.test[0] + 1))
    group.close()


def timed(setting: Setting, data: Data, hyper: Hyper, seed: int) -> dict[str, float]:
    """One training: seconds from the first step to the last, then those of the test split, and its accuracy."""
    group = make_group(setting, data, [seed], hyper, "loop")
    (lane,) = group.lanes
    jax.block_until_ready(lane.state)
    began = time.perf_counter()
    for epoch in range(setting.config.epochs):
        lane.advance(epoch, 0, setting.steps_per_epoch)
    trained = time.perf_counter()
    weights = {"params": lane.state.params, "batch_stats": lane.state.batch_stats}
    scores = compute(fetch(evaluate(lane, weights, *data.test)))
    ended = time.perf_counter()
    group.close()
    return {
        "seed": seed,
        "seconds": trained - began,
        "evaluation_seconds": ended - trained,
        "accuracy": scores["accuracy"],
        "images_per_second": setting.num_steps * setting.config.batch_size / (trained - began),
    }


def over_seeds(experiment: jt.Experiment, data: Data, count: int) -> dict[str, Any]:
    """The accuracy of members, as `fit` trains them."""
    began = time.perf_counter()
    runs = jt.fit(experiment.model, data, experiment.config, experiment.hyper, seeds=range(count), quiet=True)
    interval = runs.interval("test", "accuracy")
    return {
        "accuracy": dataclasses.asdict(interval),
        "members": [member["test"]["accuracy"] for member in runs.summary["members"] if "test" in member],
        "ensemble": runs.summary["ensemble"]["test"]["mean_of_probabilities"]["accuracy"],
        "parallel": runs.summary["parallel"],
        "width": runs.summary["width"],
        "seconds_in_all": time.perf_counter() - began,
        "experiment": to_json(experiment),
        "num_train": data.num_train,
        "num_test": data.num_test,
        "manifest": manifest(),
    }


def training_flops(setting: Setting, hyper: Hyper) -> float:
    """Floating-point operations of all steps: the products of a forward pass, and twice those for the backward pass."""
    return 3 * forward_flops(setting, hyper) * setting.num_steps * setting.config.batch_size


def forward_flops(setting: Setting, hyper: Hyper) -> int:
    """Those of an image's forward pass: two for each weight of a kernel at each place of its layer's outputs."""
    state = jax.eval_shape(lambda key: init_state(setting, key, hyper), jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *setting.image_shape), jnp.float32)

    def outputs(state: Any, image: Any) -> Any:
        options: Any = {"train": False, "hyper": state.hyper, "activations": True}
        return setting.model.apply(state.params, state.batch_stats, image, **options).activations

    given = {path: leaf.shape[1:-1] for path, leaf in named_outputs(jax.eval_shape(outputs, state, image))}
    paths = [(parameter_path(path), leaf.shape) for path, leaf in jax.tree.leaves_with_path(state.params)]
    kernels = {path.removesuffix("/kernel"): shape for path, shape in paths if path.endswith("/kernel")}
    return sum(2 * math.prod(shape) * math.prod(given[layer]) for layer, shape in kernels.items())


def dtype_of(model: Any) -> str:
    """In which a network multiplies."""
    return str(getattr(model, "dtype", "float32"))


def peak_flops(dtype: str, repeats: int = 8) -> float:
    """Floating-point operations per second of matrix products in this dtype, the best of three tries."""
    size = 8192 if jax.default_backend() == "gpu" else 2048
    one = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype)) / size**0.5

    @jax.jit
    def products(a: Any) -> Any:
        return jax.lax.fori_loop(0, repeats, lambda _, b: a @ b, a)

    jax.block_until_ready(products(one))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(products(one))
        seconds.append(time.perf_counter() - began)
    return repeats * 2 * size**3 / min(seconds)


def sentence(part: str, found: dict[str, Any]) -> str:
    """What a part found, in a line."""
    if part == "cold":
        return f"compiled in {found['compile_seconds']:.1f} s with an empty cache"
    if part == "warm":
        rounds = ", ".join(f"{100 * row['accuracy']:.2f} % in {row['seconds']:.2f} s" for row in found["rounds"])
        return (
            f"compiled in {found['compile_seconds']:.1f} s with a full cache; {found['steps']} steps: {rounds}; and"
            f" {found['evaluation_seconds']:.2f} s for {found['num_test']:,} test images;"
            f" {100 * found['share_of_the_device']:.0f} % of the {found['device_flops_per_second'] / 1e12:.3g} TFLOP/s"
            f" of matrix products, which alone would take {found['floor_seconds']:.2f} s"
        )
    spread, mean = cells(Interval(**found["accuracy"]), True)
    return (
        f"{len(found['members'])} seeds: test {spread}, 95 % interval of the mean {mean};"
        f" {found['seconds_in_all']:.0f} s in all ({found['parallel']}, {found['width']} at a time)"
    )


if __name__ == "__main__":
    run_script(main)
