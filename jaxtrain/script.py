"""What the scripts share: their flags, their exit status, and an end on Ctrl-C that loses nothing.

Imports errors, config files and the device. The fact that surprises: a first signal is answered at the end of the chunk
of steps that is running, five seconds at most; a second one ends the process where it stands.
"""

import argparse
import contextlib
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from jaxtrain.config import DataConfig, Experiment, own_functions
from jaxtrain.configfile import encode, from_json, load_config, to_json
from jaxtrain.device import enable_compilation_cache, one_device_per_core, warn_cpu_only
from jaxtrain.errors import NonFiniteError, RequestError, WorldError
from jaxtrain.folder import PLACES, differences, read_config
from jaxtrain.overrides import overrides_help, parse_overrides
from jaxtrain.result import Run
from jaxtrain.runs import Ensemble, load_run


class StopRequest:
    """Asks the loop to stop once SIGINT, SIGTERM or SIGUSR1 has come; the handlers hold while it is entered.

    Before the loop asks for the first time there is nothing to save, and the signal ends the process at once. With
    `after_minutes` it asks by itself then, as if SIGTERM had come: for queues with a time limit.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, after_minutes: float | None = None) -> None:
        if after_minutes is not None and not after_minutes > 0:
            raise RequestError(f"--preempt-after is {after_minutes} minutes; it must be larger than 0")
        self.received: int | None = None
        self._deadline = math.inf if after_minutes is None else time.monotonic() + 60 * after_minutes
        self._asked = False
        self._before: dict[int, object] = {}

    def __call__(self) -> bool:
        self._asked = True
        if self.received is None and time.monotonic() >= self._deadline:
            self.received = signal.SIGTERM
            print("\nstopping, with a checkpoint: the minutes of --preempt-after have passed", file=sys.stderr)
        return self.received is not None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    @property
    def exit_status(self) -> int:
        """130 for Ctrl-C, 143 for the others."""
        return 130 if self.received == signal.SIGINT else 143

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, self.received or number
        if not first:
            os._exit(self.exit_status)
        if not self._asked:
            # Not SystemExit, which takes the interpreter apart while XLA computes in it: a segmentation fault.
            os._exit(self.exit_status)
        with contextlib.suppress(OSError):  # a full disk, a closed pipe: raised here it would end the training
            print("\nstopping at the end of this chunk, with a checkpoint; once more to end at once", file=sys.stderr)


def run_script(main: Callable[[list[str]], int | None]) -> None:
    """Run a script's main and leave with its exit status; an error of ours is one message, not a traceback."""
    try:
        status = main(sys.argv[1:]) or 0
    except (RequestError, WorldError, NonFiniteError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        status = error.exit_status
    except FloatingPointError:  # of --debug-nans: the traceback is what was asked for
        traceback.print_exc()
        status = NonFiniteError.exit_status
    except KeyboardInterrupt:
        status = 130
    # All is done and said; a signal while the interpreter is taken apart shall not make another status of it.
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


def prepare(*, members: int = 1) -> None:
    """What a script does and a library must not: the compilation cache, and a word on a GPU that JAX does not see.

    Several members get one device for each core of a CPU: two devices of one core beat one device of two.
    """
    if members > 1:
        one_device_per_core(members)
    enable_compilation_cache()
    message = warn_cpu_only()
    if message:
        print(f"warning: {message}", file=sys.stderr)


def make_parser(description: str, *, add_help: bool = True) -> argparse.ArgumentParser:
    """A parser that raises RequestError instead of leaving, and takes no abbreviations."""
    layout = argparse.RawTextHelpFormatter
    return _Parser(description=description, add_help=add_help, allow_abbrev=False, formatter_class=layout)


def read_experiment(
    parser: argparse.ArgumentParser, reference: str | None, rest: list[str], *, show_help: bool
) -> Experiment:
    """The experiment of `--config` with the overrides in `rest`; with `show_help`, print the help and leave."""
    if reference is None:
        if show_help:
            parser.print_help()
            print("\nWith --config FILE, --help lists the fields of that experiment too.")
            raise SystemExit(0)
        raise RequestError(f"--config is missing; for example: {parser.prog} --config configs/mnist.py")
    experiment = load_config(reference)
    if show_help:
        parser.print_help()
        print("\n" + overrides_help(experiment, prog=parser.prog))
        raise SystemExit(0)
    own = [option for action in parser._actions for option in action.option_strings]
    return parse_overrides(experiment, rest, prog=parser.prog, own_flags=own)


def read_runs(folders: Sequence[Path], reference: str | None) -> tuple[Run | Ensemble, Experiment]:
    """A finished run, or the ensemble of several and of all their members; and the experiment of the first.

    The config file `reference` gives what a config.json can only name.

    Raises:
      RequestError: runs that were trained on other data, or on other examples of it.
    """
    passed: dict[str, Any] = {}
    if reference is not None:
        own = load_config(reference)
        passed = {"model": own.model, **own_functions(own.config)}
    runs = [load_run(folder, **passed) for folder in folders]
    experiments = [from_json(read_config(folder), **passed) for folder in folders]
    for folder, other in zip(folders, experiments, strict=True):
        changed = differences({"data": encode(experiments[0].data)}, {"data": encode(other.data)}, PLACES)
        if changed:
            raise RequestError(
                f"{folder} was trained on other data than {folders[0]} ({changed[0]}), so a split of one may hold"
                " training examples of the other; give runs on the same data"
            )
    if len(runs) == 1:
        return runs[0], experiments[0]
    return Ensemble(
        [one for run in runs for one in (run.members if isinstance(run, Ensemble) else [run])]
    ), experiments[0]


def data_of(experiment: Experiment, rest: list[str], prog: str) -> DataConfig:
    """The data of a finished run; only where it lies may be said anew, for another split would show training examples.

    Raises:
      RequestError: a flag in `rest` that changes anything else.
    """
    moved = parse_overrides(experiment, rest, prog=prog)
    changed = differences(to_json(experiment), to_json(moved), PLACES)
    if changed:
        raise RequestError(f"{changed[0]}; {prog} takes only --data.dir, --data.path and --data.download")
    return moved.data


def run_name(reference: str) -> str:
    """mnist-cnn for configs/mnist.py:cnn; the folder's name for a run's config.json."""
    path, _, variant = reference.partition(".py:")
    name = Path(path).parent.name if path.endswith(".json") else Path(path).stem
    return f"{name}-{variant}" if variant else name


def folder(text: str) -> Path:
    """A flag's value as a path. An empty one, as of a shell variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a folder")
    if text.encode(errors="replace").decode() != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no UTF-8; a run cannot record it")
    return Path(text)


def printable(text: str) -> str:
    """Text without what a terminal obeys, which names of files and what others have written may hold."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; see {self.prog} --help")
