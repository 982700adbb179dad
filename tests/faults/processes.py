"""Processes that are there to be killed: each a fork of a server that has imported everything.

Imports nothing of the tests. The fact that surprises: a new interpreter spends five seconds on imports, a fork a
hundredth of one, and a fork that runs `scripts/train.py` as `__main__` is as real a process as any; only JAX's backend
must not have been initialised before, for its threads do not outlive the fork.
"""

import atexit
import faulthandler
import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IMPORTED = (
    "jaxtrain.search",
    "orbax.checkpoint",
    "tensorboardX.summary",
    "matplotlib.backends.backend_agg",
    "jaxtrain.plots",
    "optuna",
    "tyro",
    "rich.console",
    "rich.progress",
    "sklearn.datasets",
)
"""What a run imports sooner or later."""
DRAWN = tuple(f"jaxtrain.plots:{name}" for name in ("curves", "member_curves", "ensemble_figure", "trials_figure"))
"""What takes a second or two at the end of each run, and is compared with nothing."""
LONGEST = 600
"""Seconds after which a process ends in any case, should the tests have died before it."""


@dataclass
class Child:
    """A process that a server has forked; its output is in a file."""

    server: "Server"
    pid: int
    output: Path

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def send(self, number: int) -> None:
        """Send a signal. To one that has ended already it does nothing: nobody else has its pid before `wait`."""
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Whether it is only waited for."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def run_for(self, seconds: float) -> None:
        """Let it run so long, or to its end."""
        deadline = time.monotonic() + seconds
        until(lambda: time.monotonic() >= deadline, self)

    def wait(self, timeout: float = 300.0) -> int:
        """Its exit status; -9 where SIGKILL ended it. One that takes longer than `timeout` seconds is killed.

        Raises:
          TimeoutError: it had to be.
        """
        started = time.monotonic()
        self.server.write({"wait": self.pid})
        if not self.server.has_answer(timeout):
            self.send(signal.SIGKILL)
            self.server.read_end(self.pid)
            raise TimeoutError(f"no end after {time.monotonic() - started:.0f} s; it had printed\n{self.text}")
        return self.server.read_end(self.pid)

    def end(self) -> tuple[int, str]:
        """Wait for its end: its exit status, and all it has printed."""
        return self.wait(), self.text


class Server:
    """Forks processes and waits for them. One test session has one; see `server`."""

    def __init__(self) -> None:
        code = "import sys; sys.path[:0] = sys.argv[1:3]; import processes; processes.serve()"
        pipe = subprocess.PIPE
        self._alive: set[int] = set()
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(HERE), str(ROOT)], stdin=pipe, stdout=pipe, text=True, bufsize=1
        )

    def script(self, name: str, *args: Any, cwd: Path, without: Sequence[str] = ()) -> Child:
        """Start scripts/NAME.py with these arguments in a folder; `without`: more functions that do nothing."""
        path = str(ROOT / "scripts" / f"{name}.py")
        return self._start({"script": path, "args": [path, *map(str, args)], "without": list(without)}, cwd)

    def call(self, function: str, *args: Any, cwd: Path) -> Child:
        """Start `module:function` of this folder with these arguments, strings all."""
        return self._start({"function": function, "args": [str(arg) for arg in args]}, cwd)

    def _start(self, what: Mapping[str, Any], cwd: Path) -> Child:
        output = cwd / f"output-{time.monotonic_ns()}.txt"
        output.touch()
        self.write({**what, "cwd": str(cwd), "output": str(output), "without": [*DRAWN, *what.get("without", ())]})
        if not self.has_answer(300):
            raise TimeoutError("the server of processes does not answer")
        pid = self._read()
        self._alive.add(pid)
        return Child(self, pid, output)

    def write(self, request: Mapping[str, Any]) -> None:
        """Ask."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def has_answer(self, timeout: float) -> bool:
        """Wait for an answer, `timeout` seconds at most."""
        return bool(select.select([self._process.stdout], [], [], timeout)[0])

    def read_end(self, pid: int) -> int:
        """The answer to a wait: the exit status."""
        status = self._read()
        self._alive.discard(pid)
        return status

    def close(self) -> None:
        """End the server, and what a test that failed has left running."""
        for pid in self._alive:
            os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _read(self) -> int:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the server of processes has ended; what it printed says why")
        return int(line)


@functools.cache
def server() -> Server:
    """The server of this test process; the first call takes the seconds that the imports take."""
    made = Server()
    atexit.register(made.close)
    return made


def until(claim: Callable[[], Any], child: Child, timeout: float = 300.0) -> Any:
    """Wait until `claim` holds, and return what it returned; falsy where the child has ended before.

    Raises:
      TimeoutError: it does not come to hold.
    """
    deadline = time.monotonic() + timeout
    while not (found := claim()):
        if child.has_ended():
            return claim()
        if time.monotonic() > deadline:
            child.send(signal.SIGKILL)
            child.wait()
            raise TimeoutError(f"waited {timeout} s in vain; it had printed\n{child.text}")
        time.sleep(0.002)
    return found


# ---- in the server


def serve() -> None:
    """Answer requests, one a line: a pid for a start, an exit status for a wait."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            return _be(request)
        print(pid, flush=True)


def _be(request: Mapping[str, Any]) -> None:
    """Become what was asked for; the interpreter then ends as any other does."""
    _redirect(request["output"])
    faulthandler.enable()
    signal.alarm(LONGEST)
    os.chdir(request["cwd"])
    sys.argv = request["args"]
    for function in request["without"]:
        module, _, name = function.partition(":")
        setattr(importlib.import_module(module), name, lambda *args, **options: None)
    if "script" in request:
        sys.path[0] = str(Path(request["script"]).parent)
        runpy.run_path(request["script"], run_name="__main__")
    else:
        module, _, name = request["function"].partition(":")
        getattr(importlib.import_module(module), name)(*request["args"])


def _redirect(output: str) -> None:
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
