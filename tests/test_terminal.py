"""Nobody has to read what a run says: where its words go nowhere, it goes on."""

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from jaxtrain.terminal import Terminal

ROOT = Path(__file__).resolve().parents[1]


class Full:
    """A standard output on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_line_that_the_disk_does_not_take_is_left_out():
    terminal = Terminal(console=Console(file=Full()))
    terminal.say("a word")
    terminal.warn("a warning")
    terminal.table("scores", ("split", "loss"), [("val", "0.1")])
    terminal.evaluation({"step": 1, "val/loss": 0.5})


def test_a_reader_that_goes_away_ends_no_run():
    program = "\n".join(
        [
            "import sys, time",
            "from jaxtrain.terminal import Terminal",
            "terminal = Terminal()",
            "for number in range(20_000):",
            "    terminal.say(f'line {number}')",
            "print('the end', file=sys.stderr)",
        ]
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == "line 0\n"
        child.stdout.close()
        assert child.stderr.read() == "the end\n"
    assert child.returncode == 0
