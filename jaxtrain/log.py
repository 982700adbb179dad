"""What a run tells, and to whom: event files, JSON lines and the terminal get the same numbers.

Imports events, files, the terminal and nothing of training. The fact that surprises: each split has a run folder of its
own (train/, val/, test/) with the same tags, which is what makes TensorBoard draw both curves on one chart.
"""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxtrain.charts import band_scalars, custom_scalars, member_layout, run_layout
from jaxtrain.events import EventWriter
from jaxtrain.files import JsonLines
from jaxtrain.terminal import Terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLITS = ("train", "val", "test")


class Look(NamedTuple):
    """What a close look at a step has shown, by tag."""

    scalars: dict[str, float]
    histograms: dict[str, tuple[np.ndarray, np.ndarray]]  # edges f[K + 1], counts [K]
    images: dict[str, np.ndarray]  # as `EventWriter.image` takes them
    figures: "dict[str, Figure]"


class Log:
    """Writes to `folder` (nothing where it is None) and to a `Terminal`.

    On resumption `step` is the step of the checkpoint: points after it, written by a process that died, are dropped.
    """

    def __init__(self, folder: Path | None, terminal: Terminal, *, step: int | None = None) -> None:
        self.folder, self.terminal = folder, terminal
        self._events: dict[str, EventWriter] = {}
        self._lines: JsonLines | None = None
        self._charted = False
        if folder is None:
            return
        for split in ("", *SPLITS):
            # The test score of a run that goes on belongs to its end, which is no longer at this step (that of several
            # members' mean may be at an earlier one); and what a run without a checkpoint has written comes again.
            purge = None if step is None else (step + 1 if step > 0 and split != "test" else 0)
            self._events[split] = EventWriter(folder / split, purge_step=purge)
        self._lines = JsonLines(folder / "metrics.jsonl", keep_until_step=-1 if step == 0 else step)

    def compiled(self, step: int, seconds: float) -> None:
        """The time that compilation took, once a process."""
        self._scalars("", step, {"speed/compile_seconds": seconds})
        self.terminal.say(f"compiled in {seconds:.1f} s")

    def chunk(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """The progress bar moves at each chunk; nothing is written."""
        self.terminal.move(step, values, images_per_second)

    def training(self, step: int, values: Mapping[str, float], learning_rate: float, images_per_second: float) -> None:
        """A log point: running means of the training pass since the last one, under train/."""
        run_wide = {"learning_rate": learning_rate, "images_per_second": images_per_second}
        self._scalars("train", step, values)
        # TensorBoard opens the first groups by name; how fast it is shall not be one of them.
        self._scalars("", step, {"learning_rate": learning_rate, "speed/images_per_second": images_per_second})
        self._line({"step": step, **{f"train/{name}": value for name, value in values.items()}, **run_wide})

    def evaluation(self, row: Mapping[str, float], spread: Mapping[str, float] | None = None) -> None:
        """An evaluation: a row whose keys are `split/metric`, and what belongs to no split.

        Where the row is the mean of several members, `spread` has the standard deviation of each of its numbers.
        """
        step = int(row["step"])
        for split in SPLITS:
            prefix = f"{split}/"
            self._scalars(split, step, {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)})
        if "epoch" in row:
            gaps = {f"gap/{name}": row[f"val/{name}"] - row[f"train/{name}"] for name in _scored_twice(row)}
            self._scalars("", step, {"speed/epoch": row["epoch"], **gaps})
            self._chart(step, list(_scored_twice(row)), bands=bool(spread))
        band = {f"{name}/std": value for name, value in (spread or {}).items()}
        self._bands(step, row, spread or {})
        self._line({**row, **band, "kind": "evaluation"})
        self.terminal.evaluation(row, spread)

    def _bands(self, step: int, row: Mapping[str, float], spread: Mapping[str, float]) -> None:
        """Mean, lower and upper edge of each score."""
        for name, deviation in spread.items():
            split, _, metric = name.partition("/")
            self._scalars(split, step, band_scalars(metric, row[name], deviation))

    def _chart(self, step: int, metrics: list[str], *, bands: bool) -> None:
        """Once, at the first evaluation: which curves share a chart in the CUSTOM SCALARS tab."""
        if self._events and metrics and not self._charted:
            layout = member_layout(metrics) if bands else run_layout(metrics)
            self._events[""].put(custom_scalars(layout), step)
            self._charted = True

    def look(self, step: int, look: Look) -> None:
        """A close look at a step, for SCALARS, HISTOGRAMS, DISTRIBUTIONS and IMAGES."""
        if not self._events:
            return
        events = self._events[""]
        self._scalars("", step, {f"layers/{tag}" if "/" in tag else tag: x for tag, x in look.scalars.items()})
        for tag, (edges, counts) in look.histograms.items():
            events.histogram(tag, edges, counts, step)
        for tag, image in look.images.items():
            events.image(tag, image, step)
        for tag, figure in look.figures.items():
            events.figure(tag, figure, step)
        self._line({"step": step, "kind": "look", **look.scalars})

    def diverged(self, step: int, note: str) -> None:
        """The end of a run, or of a member, whose loss is no number any more: a line for who reads the run later."""
        self._line({"step": step, "kind": "diverged", "note": note})

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """A text for TensorBoard's TEXT tab."""
        if self._events:
            self._events[""].text(tag, markdown, step)

    def put(self, summary: Any, step: int = 0) -> None:
        """Any summary, into the run's own folder; see `EventWriter.put`."""
        if self._events:
            self._events[""].put(summary, step)

    def graph(self, graph: Any) -> None:
        """The network, for the GRAPHS tab; see `EventWriter.graph`."""
        if self._events:
            self._events[""].graph(graph)

    @property
    def errors(self) -> list[str]:
        """What could not be written, if anything; it waits in memory and is tried again."""
        held = [writer.errors for writer in self._events.values()]
        held += [self._lines.errors] if self._lines is not None else []
        return list(dict.fromkeys(error for errors in held for error in errors))

    @property
    def unwritten(self) -> list[str]:
        """The errors of files that lack points still."""
        files = [*self._events.values(), *([] if self._lines is None else [self._lines])]
        return [file.errors[-1] for file in files if file.waiting and file.errors]

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


class Logs:
    """What the loop tells: of each member by its index, and of all of them their mean and spread.

    A single run has one log, which is the run's. Several members have one each, in `members/003` and so on with the
    same tags, and the run's own has the mean over those that are still trained.
    """

    def __init__(self, run: Log, members: Mapping[int, Log] | None = None) -> None:
        self.run, self.members = run, dict(members or {})
        self._told: set[str] = set()

    def compiled(self, step: int, seconds: float) -> None:
        """See `Log.compiled`."""
        self.run.compiled(step, seconds)

    def chunk(self, step: int, values: Mapping[int, Mapping[str, float]], images_per_second: float) -> None:
        """See `Log.chunk`; the values of each member that is still trained."""
        self.run.chunk(step, _mean(values.values()), images_per_second)

    def training(
        self, step: int, values: Mapping[int, Mapping[str, float]], rates: Mapping[int, float], images_per_second: float
    ) -> None:
        """See `Log.training`."""
        named = {i: {f"step_{name}": value for name, value in own.items()} for i, own in values.items()}
        for index, log in self.members.items():
            if index in named:
                log.training(step, named[index], rates[index], images_per_second / len(named))
        if named:
            self.run.training(step, _mean(named.values()), statistics.fmean(rates.values()), images_per_second)

    def evaluation(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """See `Log.evaluation`."""
        for index, log in self.members.items():
            if index in rows:
                log.evaluation(rows[index])
        if rows and self.members:
            self.run.evaluation(_mean(rows.values()), _spread(rows.values()))
        elif rows:
            self.run.evaluation(next(iter(rows.values())))

    @property
    def wants_looks(self) -> bool:
        """Whether anything of `look` would be written."""
        return any(log.folder is not None for log in (self.members.values() if self.members else [self.run]))

    def look(self, step: int, looks: Mapping[int, Look]) -> None:
        """See `Log.look`; the run of several members has the means of the numbers."""
        for index, log in self.members.items():
            if index in looks:
                log.look(step, looks[index])
        if looks and self.members:
            shared = set.intersection(*(set(look.scalars) for look in looks.values()))
            means = {name: statistics.fmean(look.scalars[name] for look in looks.values()) for name in sorted(shared)}
            self.run.look(step, Look(means, {}, {}, {}))
        elif looks:
            self.run.look(step, next(iter(looks.values())))

    def diverged(self, step: int, index: int, note: str) -> None:
        """A member is left behind, or with it the run is at its end; telling the latter is for who ends it."""
        if index in self.members:
            self.members[index].diverged(step, note)
        else:
            self.run.diverged(step, note)

    def skipped(self, step: int, counts: Mapping[int, int]) -> None:
        """Steps that were left out as they were not finite."""
        for index, count in counts.items():
            whose = f"member {index}: " if self.members else ""
            self.run.terminal.warn(f"{whose}{count} of the steps up to {step} were not finite and were skipped")

    @property
    def unwritten(self) -> list[str]:
        """See `Log.unwritten`."""
        return [error for log in (*self.members.values(), self.run) for error in log.unwritten]

    def flush(self) -> None:
        """See `Log.flush`; what could not be written is told, once."""
        logs = *self.members.values(), self.run
        for log in logs:
            log.flush()
        for error in dict.fromkeys(error for log in logs for error in log.errors):
            if error not in self._told:
                self._told.add(error)
                self.run.terminal.warn(f"{error}; the run goes on, and this is tried again")


def _scored_twice(row: Mapping[str, float]) -> Iterable[str]:
    """The metrics that training and validation both have."""
    names = [name.removeprefix("train/") for name in row if name.startswith("train/")]
    return [name for name in names if f"val/{name}" in row]


def _mean(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    rows = list(rows)
    names = [name for name in (rows[0] if rows else {}) if all(name in row for row in rows)]
    return {name: _whole(name, statistics.fmean(row[name] for row in rows)) for name in names}


def _whole(name: str, value: float) -> float:
    return int(value) if name in ("step", "epoch") else value


def _spread(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Standard deviation of each score; of one member there is none."""
    rows = list(rows)
    names = [name for name in rows[0] if "/" in name] if len(rows) > 1 else []
    # NumPy's, for a score may be infinite, of which `statistics` makes an error.
    with np.errstate(invalid="ignore"):
        return {name: float(np.std([row[name] for row in rows], ddof=1)) for name in names}
