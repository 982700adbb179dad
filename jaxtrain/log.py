"""What a run tells, and to whom: event files, JSON lines and the terminal get the same numbers.

Imports events, files and nothing of training. The fact that surprises: each split has a run folder of its own (train/,
val/, test/) with the same tags, which is what makes TensorBoard draw both curves on one chart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain.events import EventWriter
from jaxtrain.files import JsonLines
from jaxtrain.terminal import Terminal

SPLITS = ("train", "val", "test")


class Log:
    """Writes to `folder` (nothing where it is None) and to a `Terminal`.

    On resumption `step` is the step of the checkpoint: points after it, written by a process that died, are dropped.

    """

    def __init__(self, folder: Path | None, terminal: Terminal, *, step: int | None = None) -> None:
        self.terminal = terminal
        self._events: dict[str, EventWriter] = {}
        self._lines: JsonLines | None = None
        if folder is None:
            return
        for split in ("", *SPLITS):
            # The test score of a run that goes on belongs to its end, which is no longer at this step.
            purge = None if step is None else step + (split != "test")
            self._events[split] = EventWriter(folder / split, purge_step=purge)
        self._lines = JsonLines(folder / "metrics.jsonl", keep_until_step=step)

    def compiled(self, step: int, seconds: float) -> None:
        """The time that compilation took, once a process."""
        self._scalars("", step, {"compile_seconds": seconds})
        self.terminal.say(f"compiled in {seconds:.1f} s")

    def chunk(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """The progress bar moves at each chunk; nothing is written."""
        self.terminal.move(step, values, images_per_second)

    def training(self, step: int, values: Mapping[str, float], learning_rate: float, images_per_second: float) -> None:
        """A log point: running means of the training pass since the last one, under train/."""
        run_wide = {"learning_rate": learning_rate, "images_per_second": images_per_second}
        self._scalars("train", step, values)
        self._scalars("", step, run_wide)
        self._line({"step": step, **{f"train/{name}": value for name, value in values.items()}, **run_wide})

    def evaluation(self, row: Mapping[str, float]) -> None:
        """An evaluation: a row whose keys are `split/metric`, and what belongs to no split."""
        step = int(row["step"])
        for split in SPLITS:
            prefix = f"{split}/"
            self._scalars(split, step, {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)})
        if "epoch" in row:
            self._scalars("", step, {"epoch": row["epoch"]})
        self._line({**row, "kind": "evaluation"})
        self.terminal.evaluation(row)

    def text(self, tag: str, markdown: str) -> None:
        """A text for TensorBoard's TEXT tab."""
        if self._events:
            self._events[""].text(tag, markdown, 0)

    @property
    def errors(self) -> list[str]:
        """What could not be written, if anything; it waits in memory and is tried again."""
        held = [writer.errors for writer in self._events.values()]
        held += [self._lines.errors] if self._lines is not None else []
        return list(dict.fromkeys(error for errors in held for error in errors))

    def flush(self) -> None:
        """On disk, whatever happens next."""
        for writer in self._events.values():
            writer.flush()
        if self._lines is not None:
            self._lines.flush()

    def close(self) -> None:
        """Flush and release the files and the terminal."""
        self.terminal.close()
        for writer in self._events.values():
            writer.close()
        if self._lines is not None:
            self._lines.close()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        if self._events and values:
            self._events[split].scalars(values, step)

    def _line(self, record: Mapping[str, Any]) -> None:
        if self._lines is not None:
            self._lines.append(record)
