"""How fast jaxtrain is: against what its users would take instead, and against what the machine can do.

    python scripts/benchmark.py --install-peers            # PyTorch, Keras and Flax, in an environment of their own
    python scripts/benchmark.py single                     # training an MLP and a CNN, each against its peers
    python scripts/benchmark.py single --pin 1             # the same in CPU seconds of core 1, for a machine in use
    python scripts/benchmark.py all --output results.json

Suites:
    single      images per second of one run; the share of the matrix products that the machine can do
    members     eight runs at once, against eight in turn, processes side by side, and torch.func
    search      eight trials of two epochs as one search, against eight trainings in turn
    overhead    what logs, looks, checkpoints and guards take of an epoch
    startup     whole programs of five epochs, from a cold and from a warm compilation cache
    memory      the memory that those take at most
    scaling     images per second by batch size, by members (on a GPU until its memory is full) and by devices
    loop        the compiled loop itself: its trip count, unrolled, in bfloat16; on a GPU with command buffers, and
                eight CNNs by form of convolution
    kernels     what a step is made of: kernels on a GPU, operations on a CPU, and the microseconds in them

Contestants live side by side and take turns, an epoch each; a ratio is that of neighbours, and what is printed is the
median over the rounds, with the smallest and largest. Each is a script in benchmarks/ that can be called alone, and its
test accuracy stands beside its speed, that it be seen to do the same work. Those of PyTorch, Keras and Flax are left
out where they are not installed. Needs a checkout, and MNIST in --data. Exit status: 0; 1 if a contestant failed; 2 if
the request is wrong.
"""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from contest import FLOPS_AN_IMAGE, Clock, Entry, Result, contest, last_words, run_whole, whole_programs
from jaxtrain_loop import CONVOLUTIONS
from tables import LIMIT, speed_table, step_table, whole_table

from jaxtrain.device import has_nvidia_gpu, manifest, num_cores
from jaxtrain.errors import RequestError
from jaxtrain.files import write_json
from jaxtrain.script import make_parser, run_script

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PEERS = BENCHMARKS / "peers"
FIVE_EPOCHS = BENCHMARKS / "five_epochs.py"
INSTALLED = ROOT / "build" / "peers"
EXAMPLES = {"mlp": 54_000, "cnn": 11_520}  # an epoch of seconds; nine tenths of MNIST, and of 12,800 images
TORCH = {
    "mlp": ("dataloader", "memory", "fused", "bf16", "compile"),
    "cnn": ("dataloader", "memory", "fused", "channels_last", "bf16", "compile"),
}
MEMBERS = 8
MOST_MEMBERS = 1024  # where doubling ends, if the memory does not end it
OURS = "jaxtrain"


@dataclass
class Bench:
    """What was asked for, and what has been found."""

    data: Path
    rounds: int
    clock: Clock  # cpu on a pinned core
    peers: Path | None  # the Python that has PyTorch, Keras and Flax
    networks: Sequence[str]
    found: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def entry(
        self,
        name: str,
        script: str,
        *flags: Any,
        python: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Entry:
        """A contestant: a script in benchmarks/."""
        command = (str(python or sys.executable), str(BENCHMARKS / script), *map(str, flags), "--data", str(self.data))
        # Each would take three quarters of a GPU's memory for itself.
        return Entry(name, command, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **(environment or {})})

    def peer(self, name: str, script: str, *flags: Any) -> list[Entry]:
        """A contestant of another framework, where that is installed."""
        return [] if self.peers is None else [self.entry(name, f"peers/{script}", *flags, python=self.peers)]

    @property
    def few_rounds(self) -> int:
        """For what takes long."""
        return max(1, self.rounds // 2)

    def speeds(self, entries: Sequence[Entry], ours: str, network: str, title: str, rounds: int | None = None) -> Any:
        """A contest, with what the machine can do in the same rounds, and its table."""
        limit = self.entry(LIMIT, "limit.py", *(["--gpu"] if has_nvidia_gpu() else []))
        results = self._noted(contest([limit, *entries], rounds or self.rounds, _say))
        return speed_table(results, ours, FLOPS_AN_IMAGE[network], title, self.clock)

    def programs(self, entries: Sequence[Entry], ours: str) -> Any:
        """Whole programs, and their table."""
        return whole_table(self._noted(whole_programs(entries, self.few_rounds, _say)), ours, self.clock)

    def answer(self, entry: Entry) -> dict[str, Any] | None:
        """The line of JSON that a whole program ends with; None, and noted, if it failed."""
        environment = {**os.environ, **entry.environment}
        done = subprocess.run(entry.command, env=environment, capture_output=True, text=True)
        if done.returncode:
            self.failed.append(f"{entry.name}: {last_words(done.stderr.splitlines())}")
            _say(f"failed and is left out: {self.failed[-1]}")
            return None
        return json.loads(done.stdout.splitlines()[-1])

    def _noted(self, results: Sequence[Result]) -> dict[str, Result]:
        self.failed += [f"{result.name}: {result.failure}" for result in results if result.failure]
        return {result.name: result for result in results}


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"all, or some of {', '.join(SUITES)}")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("JAXTRAIN_DATA", "data")))
    parser.add_argument("--networks", nargs="+", choices=("mlp", "cnn"), default=["mlp", "cnn"])
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each contestant that count")
    parser.add_argument(
        "--pin", type=int, metavar="CORE", help="one core for all, and CPU seconds instead of the clock"
    )
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="default: that of build/peers")
    parser.add_argument("--install-peers", action="store_true", help="make that environment, and end")
    parser.add_argument("--output", type=Path, help="write what was found as JSON")
    flags = parser.parse_args(args)
    if flags.install_peers:
        return install_peers()
    bench = make_bench(flags)
    for name in SUITES if flags.suites == ["all"] else flags.suites:
        print(f"\n## {name}\n", flush=True)
        bench.found[name] = SUITES[name](bench)
        if flags.output is not None:  # after each, for the last ones take long
            write_json(
                flags.output, {**bench.found, "pinned": flags.pin, "failed": bench.failed, "manifest": manifest()}
            )
    return 1 if bench.failed else 0


def make_bench(flags: Any) -> Bench:
    """Check the request, and pin this process, and with it all that it starts."""
    unknown = [name for name in flags.suites if name not in (*SUITES, "all")]
    if unknown or not flags.suites or ("all" in flags.suites and len(flags.suites) > 1):
        given = " ".join(flags.suites) or "no suite"
        raise RequestError(f"{given} was given; expected all, or some of {', '.join(SUITES)}")
    if flags.rounds < 1:
        raise RequestError(f"--rounds is {flags.rounds}; give 1 or more")
    if not (flags.data / "mnist").is_dir():
        raise RequestError(f"there is no folder mnist in {flags.data}; name the folder that holds it with --data")
    if flags.pin is not None:
        cores = sorted(os.sched_getaffinity(0))
        if flags.pin not in cores:
            raise RequestError(f"--pin is {flags.pin}; the cores of this process are {', '.join(map(str, cores))}")
        os.sched_setaffinity(0, {flags.pin})
    peers = flags.peers or INSTALLED / "bin" / "python"
    if not peers.exists():
        if flags.peers is not None:
            raise RequestError(f"--peers is {peers}, which is no file; give the python of an environment with PyTorch")
        print("PyTorch, Keras and Flax's loop are left out: they need `--install-peers` first", file=sys.stderr)
        peers = None
    clock = "wall" if flags.pin is None else "cpu"
    # Children work elsewhere, and a relative path is relative to here.
    return Bench(flags.data.absolute(), flags.rounds, clock, peers and peers.absolute(), flags.networks)


def install_peers() -> int:
    """PyTorch, Keras and Flax, in build/peers."""
    venv.create(INSTALLED, with_pip=True, clear=True)
    pip = [str(INSTALLED / "bin" / "python"), "-m", "pip", "install", "-r", str(PEERS / "requirements.txt")]
    return subprocess.run(pip).returncode


def single(bench: Bench) -> Any:
    """One run of each network."""
    return {network: one_network(bench, network) for network in bench.networks}


def one_network(bench: Bench, network: str) -> Any:
    work = ("--network", network, "--examples", EXAMPLES[network], "--epochs", bench.rounds + 1)
    entries = [
        bench.entry(OURS, "jaxtrain_loop.py", "default", *work),
        bench.entry("bare loop", "jaxtrain_loop.py", "bare", *work),
        *bench.peer("Keras fit", "keras_fit.py", *work),
        *bench.peer("Flax NNX loop", "flax_nnx.py", *work),
    ]
    for version in TORCH[network]:
        entries += bench.peer(f"PyTorch {version}", "torch_loop.py", version, *work)
    return bench.speeds(entries, OURS, network, f"{network}, batch 128")


def members(bench: Bench) -> Any:
    """Eight members together."""
    work = ("--network", "mlp", "--examples", EXAMPLES["mlp"] // 3, "--epochs", bench.few_rounds + 1)
    many = (*work, "--members", MEMBERS)
    entries = [
        bench.entry(f"{MEMBERS} members", "jaxtrain_loop.py", "default", *many),
        bench.entry(f"{MEMBERS} members, vmap", "jaxtrain_loop.py", "vmap", *many),
        bench.entry("single runs in turn", "jaxtrain_loop.py", "default", *work),
        *bench.peer("torch.func vmap", "torch_func.py", *many),
    ]
    title = f"mlp, {MEMBERS} members, batch 128"
    table = bench.speeds(entries, f"{MEMBERS} members", "mlp", title, bench.few_rounds)
    return {**table, "processes": processes(bench)}


def processes(bench: Bench) -> Any:
    """Whole programs: one with eight members, and eight of one, as many at once as there are cores."""
    work = ("--network", "mlp", "--examples", EXAMPLES["mlp"] // 3, "--epochs", 3)
    together = bench.entry("one process", "jaxtrain_loop.py", "default", *work, "--members", MEMBERS)
    alone = bench.entry("", "jaxtrain_loop.py", "default", *work, "--seed", "SEED")
    seeds = f"seq 0 {MEMBERS - 1} | xargs -P {num_cores()} -I SEED"
    side = Entry("processes side by side", ("sh", "-c", f"{seeds} {shlex.join(alone.command)}"), alone.environment)
    return bench.programs([together, side], "one process")


def search(bench: Bench) -> Any:
    """Eight trials of two epochs: one search, and as many trainings in turn, each a process and a folder."""
    with tempfile.TemporaryDirectory() as folder:

        def script(name: str, variant: str, *flags: str) -> str:
            common = ("--config", f"{FIVE_EPOCHS}{variant}", "--data.dir", str(bench.data), "--epochs", "2")
            return shlex.join([sys.executable, str(ROOT / "scripts" / name), *common, *flags])

        searched, runs = f"{folder}/search", [f"{folder}/{number}" for number in range(MEMBERS)]
        one = script("search.py", ":search", "--trials", str(MEMBERS), "--workdir", searched)
        turn = [script("train.py", "", "--seed", str(number), "--workdir", run) for number, run in enumerate(runs)]
        entries = [
            _fresh(Entry("one search", ("sh", "-c", one)), searched),
            _fresh(Entry("trainings in turn", ("sh", "-c", " && ".join(turn))), *runs),
        ]
        return bench.programs(entries, "one search")


def _fresh(entry: Entry, *folders: str) -> Entry:
    """The same, once these folders have been removed."""
    command = f"rm -rf {shlex.join(folders)} && exec {shlex.join(entry.command)}"
    return dataclasses.replace(entry, command=("sh", "-c", command))


def overhead(bench: Bench) -> Any:
    """The two benchmarks of what is written beside the training."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for script, count in (("looks.py", "--pairs"), ("safety.py", "--rounds")):
            for network in bench.networks:
                config = "configs/mnist.py" if network == "mlp" else "configs/mnist.py:cnn"
                rounds = min(bench.rounds, 9 if network == "mlp" else 3)
                output = Path(folder) / "found.json"
                command = [
                    sys.executable,
                    str(BENCHMARKS / script),
                    config,
                    count,
                    str(rounds),
                    "--output",
                    str(output),
                ]
                environment = {**os.environ, "JAXTRAIN_DATA": str(bench.data)}
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
                if done.returncode:
                    bench.failed.append(f"{script} {config}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
                    continue
                name = f"{script.removesuffix('.py')} {network}"
                found[name] = {key: value for key, value in json.loads(output.read_text()).items() if key != "manifest"}
    print("| of an epoch | share |\n| --- | --- |")
    for name, one in found.items():
        if "share" in one:
            spread = one["share"]
            print(f"| {name} | {spread['median']:.2%} ({spread['min']:.2%} to {spread['max']:.2%}) |")
        else:
            every = one["checkpoint_every_seconds"]
            print(f"| {name}: a checkpoint every {every:.0f} s | {one['save_share']:.2%} |")
    return found


def startup(bench: Bench) -> Any:
    """Whole programs of five epochs, an evaluation after each."""
    work = ("--network", "mlp", "--examples", EXAMPLES["mlp"], "--epochs", 5)
    with tempfile.TemporaryDirectory() as folder:
        where = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cold"}
        cold = bench.entry(OURS, "jaxtrain_loop.py", "default", *work, environment=where)
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/warm"}
        ours = dataclasses.replace(cold, environment={**cold.environment, **cache})
        train = (sys.executable, str(ROOT / "scripts" / "train.py"), "--config", str(FIVE_EPOCHS))
        run = (*train, "--data.dir", str(bench.data), "--workdir", f"{folder}/run")
        everything = _fresh(Entry("train.py with all that it writes", run, cache), f"{folder}/run")
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import jaxtrain"
        entries = [
            ours,
            everything,
            *bench.peer("Keras fit", "keras_fit.py", *work),
            *bench.peer("Flax NNX loop", "flax_nnx.py", *work),
            *bench.peer("PyTorch dataloader", "torch_loop.py", "dataloader", *work),
            *bench.peer("PyTorch memory", "torch_loop.py", "memory", *work),
            *bench.peer("PyTorch fused", "torch_loop.py", "fused", *work),
            Entry("import jaxtrain", (sys.executable, "-c", code)),
        ]
        for entry in (ours, everything):
            run_whole(entry)  # fills the cache
        warm = bench.programs(entries, OURS)
        print("From a cold compilation cache:\n")
        return {"warm": warm, "cold": bench.programs([_fresh(cold, f"{folder}/cold")], OURS)}


def memory(bench: Bench) -> Any:
    """The memory of the same programs: a column of their table."""
    return bench.found.get("startup") or startup(bench)


def scaling(bench: Bench) -> Any:
    """By batch size, by members, by devices."""
    found, rounds, gpu = {}, max(3, bench.few_rounds), has_nvidia_gpu()  # epochs are short here

    def measure(title: str, network: str, versions: Mapping[str, tuple[Any, ...]], **environment: str) -> None:
        entries = [
            bench.entry(
                name, "jaxtrain_loop.py", *flags, "--network", network, "--epochs", rounds + 1, environment=environment
            )
            for name, flags in versions.items()
        ]
        found[title] = bench.speeds(entries, entries[0].name, network, title, rounds)

    for network in bench.networks:
        examples = ("--examples", EXAMPLES[network])
        few = ("--examples", EXAMPLES[network] // 4)
        sizes = {f"batch {size}": ("default", *examples, "--batch-size", size) for size in (32, 128, 512, 2048)}
        measure(f"{network} by batch size", network, sizes)
        small = network == "mlp" or gpu  # a CPU takes long over many convolutions, and over stacked ones ten times that
        counts = (1, 2, 4, 8, 16, 32, 64, 128) if gpu else (1, 2, 4, 8, 16, 32) if small else (1, 2, 4, 8)
        for version in ("default", "vmap") if small else ("default",):
            runs = {f"{count} members": (version, *few, "--members", count) for count in counts}
            measure(f"{network} by members, {version}", network, runs)
        if gpu:
            found[f"{network} until it does not fit"] = until_full(bench, network, 2 * counts[-1])
        else:
            for devices in range(1, num_cores() + 1):
                runs = {f"{MEMBERS} members": ("default", *few, "--members", MEMBERS)}
                measure(f"{network} on {devices} devices", network, runs, JAX_NUM_CPU_DEVICES=str(devices))
    return found


def until_full(bench: Bench, network: str, count: int) -> Any:
    """Twice the members again and again, each alone on the device, until one fails: that is an answer, no failure."""
    work = ("--network", network, "--examples", EXAMPLES[network] // 4, "--epochs", bench.few_rounds + 1)
    results: dict[str, Result] = {}
    ours, end = f"{count} members", None
    while count <= MOST_MEMBERS and end is None:
        entry = bench.entry(f"{count} members", "jaxtrain_loop.py", "default", *work, "--members", count)
        [results[entry.name]] = contest([entry], bench.few_rounds, _say)
        end = results[entry.name].failure and f"{entry.name}: {results[entry.name].failure}"
        count *= 2
    title = f"{network}, more members, one contestant at a time"
    table = speed_table(results, ours, FLOPS_AN_IMAGE[network], title, bench.clock)
    print(f"{end or f'{count // 2} members fit'}\n", flush=True)
    return {**table, "end": end}


def command_buffers() -> dict[str, str]:
    """XLA_FLAGS, by what is added to a contestant's name: on a GPU with more and fewer command buffers."""
    option = "--xla_gpu_enable_command_buffer="
    forms = {", no command buffers": option, ", +WHILE": f"{option}+WHILE,+CONDITIONAL"}
    return {"": "", **(forms if has_nvidia_gpu() else {})}


def loop(bench: Bench) -> Any:
    """Forms of the compiled loop: what of it costs or saves time."""
    found, flags = {}, command_buffers()
    for network in bench.networks:
        work = ("--network", network, "--examples", EXAMPLES[network], "--epochs", bench.rounds + 1)
        entries = [
            bench.entry(f"{version}{name}", "jaxtrain_loop.py", version, *work, environment={"XLA_FLAGS": option})
            for version in ("default", "bf16", "bare", "fixed", "unrolled")
            for name, option in flags.items()
        ]
        found[network] = bench.speeds(entries, "default", network, network)
    if has_nvidia_gpu() and "cnn" in bench.networks:  # a CPU takes minutes over stacked convolutions
        found["convolutions"] = convolutions(bench)
    return found


def convolutions(bench: Bench) -> Any:
    """Members of the CNN as one stack, by form of convolution, and one after another."""
    work = ("--network", "cnn", "--examples", EXAMPLES["cnn"], "--epochs", bench.rounds + 1, "--members", MEMBERS)
    versions = {f"vmap, {form}": form for form in CONVOLUTIONS} | {"loop": "loop"}
    entries = [bench.entry(name, "jaxtrain_loop.py", version, *work) for name, version in versions.items()]
    return bench.speeds(entries, "vmap, lax", "cnn", f"cnn, {MEMBERS} members by form of convolution")


def kernels(bench: Bench) -> Any:
    """What a step is made of, and how long it takes."""
    found = {}
    for network in bench.networks:
        for name, option in command_buffers().items():
            flags = ("default", "--network", network)
            entry = bench.entry(f"{network}{name}", "profile_step.py", *flags, environment={"XLA_FLAGS": option})
            if (one := bench.answer(entry)) is not None:
                found[entry.name] = one
    step_table(found)
    return found


SUITES: dict[str, Callable[[Bench], Any]] = {
    "single": single,
    "members": members,
    "search": search,
    "overhead": overhead,
    "startup": startup,
    "memory": memory,
    "scaling": scaling,
    "loop": loop,
    "kernels": kernels,
}


if __name__ == "__main__":
    run_script(main)
