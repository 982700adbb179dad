"""What a person at the terminal sees: a progress bar, or a plain line an interval where there is no terminal.

Imports nothing of jaxtrain. Rich draws; it is imported late, for `import jaxtrain` shall be quick.
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

PLAIN_LINE_SECONDS = 10.0  # without a terminal: at most one line of progress in this time, besides the evaluations


class Terminal:
    """Shows a run of `num_steps`, `steps_per_epoch` of them an epoch; `quiet` shows nothing but warnings."""

    def __init__(self, *, quiet: bool = False, console: Any = None) -> None:
        self.console, self.quiet = console or _make_console(), quiet
        self._bar: Any = None
        self._task: Any = None
        self._num_steps = self._per_epoch = 1
        self._first = 0
        self._started = self._last_line = time.perf_counter()
        self._evaluated = ""

    def start(self, step: int, num_steps: int, steps_per_epoch: int) -> None:
        """Begin to show progress, from `step` on."""
        self._num_steps, self._per_epoch, self._first = num_steps, steps_per_epoch, step
        self._started = self._last_line = time.perf_counter()
        if self.quiet or not self.console.is_terminal:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=num_steps, completed=step, epoch="", speed="", metrics="")
        self._bar.start()

    def say(self, text: str) -> None:
        """A line, above the bar."""
        if not self.quiet:
            self._print(text, markup=False)

    def notice(self, text: str) -> None:
        """Something of its own weight, as a download or data that stands in for other: seen even where all is quiet."""
        self._print(text, style="bold yellow", markup=False)

    def warn(self, text: str) -> None:
        """A line that is seen even where all else is quiet."""
        self._print(f"warning: {text}", style="bold yellow", markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column to the left, the others to the right."""
        if self.quiet:
            return
        from rich import box
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._print(table)

    def move(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """The bar moves; without a terminal, a plain line once an interval."""
        speed = f"{images_per_second:,.0f} img/s"
        metrics = self._evaluated or _metrics("step", values)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, epoch=self._epoch(step), speed=speed, metrics=metrics)
        elif time.perf_counter() - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = time.perf_counter()
            eta = self._eta(step)
            self.say(
                f"{self._epoch(step)}  step {step}/{self._num_steps}  {speed}  ETA {eta}  {_metrics('step', values)}"
            )

    def evaluation(self, row: Mapping[str, float], spread: Mapping[str, float] | None = None) -> None:
        """A line an evaluation, kept above the bar; `spread` has the standard deviation over members of each score."""
        step = int(row["step"])
        splits = ("train", "val", "test")
        sides = [_metrics(split, _split(row, split), _split(spread or {}, split)) for split in splits]
        self._evaluated = "  ".join(side for side in sides if side)
        self._last_line = time.perf_counter()
        self.say(f"{self._epoch(step)}  step {step}/{self._num_steps}  {self._evaluated}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, what: Any, **how: Any) -> None:
        """No line is worth a run: one that a full disk does not take is left out."""
        with contextlib.suppress(OSError):
            self.console.print(what, **how)

    def _epoch(self, step: int) -> str:
        epochs = max(1, self._num_steps // self._per_epoch)
        return f"epoch {min(-(-step // self._per_epoch), epochs):>{len(str(epochs))}}/{epochs}"

    def _eta(self, step: int) -> str:
        spent = time.perf_counter() - self._started
        seconds = int(spent / max(1, step - self._first) * (self._num_steps - step))
        return f"{seconds // 60}:{seconds % 60:02d}"


def _make_console() -> Any:
    """Rich's console on the standard output, whose reader may go away (`| head`): the run does not end with it."""
    from rich.console import Console

    class Patient(Console):
        def on_broken_pipe(self) -> None:  # Rich's own leaves the program here
            self.quiet = True
            # Python writes what is left when it ends, and would end with an error of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return Patient(file=sys.stdout, highlight=False, soft_wrap=True)


def _split(row: Mapping[str, float], split: str) -> dict[str, float]:
    return {k.removeprefix(f"{split}/"): v for k, v in row.items() if k.startswith(f"{split}/")}


def _metrics(label: str, values: Mapping[str, float], spread: Mapping[str, float] | None = None) -> str:
    parts = [shown(name, value, (spread or {}).get(name)) for name, value in values.items()]
    return f"{label} " + " ".join(parts) if parts else ""


def shown(name: str, value: float, deviation: float | None = None) -> str:
    """A score as it is read: accuracy in percent, anything else by its name; with its standard deviation, if any."""
    if name == "accuracy":
        return f"{100 * value:.2f} %" if deviation is None else f"{100 * value:.2f} ± {100 * deviation:.2f} %"
    return f"{name} {value:.4f}" if deviation is None else f"{name} {value:.4f} ± {deviation:.4f}"
