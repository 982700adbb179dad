"""What a search found: summed up, written to its folder, shown, and read again for the next one.

    search.json        the best trials, what mattered, warnings, what it cost; the result of the winner
    trials.csv         every trial, the best first
    trials.png         every trial: one panel a hyper-parameter
    best_config.json   the experiment of the best trial, for `train.py --config`

Imports trials, plots and config files. The fact that surprises: these files are a view. What counts is the study; any
worker writes them again from it, at any time, each in one piece.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.configfile import to_json
from jaxtrain.errors import RequestError
from jaxtrain.files import write_json, write_text
from jaxtrain.folder import read_json
from jaxtrain.search.trials import TOP, Trial, accuracy_interval, borders, importance, narrow, ranked
from jaxtrain.seeds import Interval, describe, is_percent
from jaxtrain.space import Choice, Range, Search, check_search, with_values
from jaxtrain.terminal import Terminal


@dataclasses.dataclass(frozen=True)
class Goal:
    """What trials are judged by."""

    metric: str
    """Of the validation split."""
    sign: int
    """1 where a larger value is better, -1 where a smaller one is."""
    num_val: int
    """Examples that it is over."""

    def interval(self, value: float | None) -> list[float] | None:
        """Ends of the 95 % interval of one trial's value; None where its spread over the examples is not known."""
        if value is None or self.metric != "accuracy":
            return None
        return list(accuracy_interval(value, self.num_val))

    def cells(self, value: float | None) -> tuple[str, str]:
        """A value and its interval as they are shown."""
        ends = self.interval(value)
        if value is None or ends is None:
            return "none" if value is None else f"{value:.4f}", "none"
        return f"{100 * value:.2f} %", f"{100 * ends[0]:.1f}-{100 * ends[1]:.1f}"


def sum_up(search: Search, trials: Sequence[Trial], goal: Goal) -> dict[str, Any]:
    """The summary of a search, as JSON.

    Args:
      search: as `check_search` returns it.
      trials: all of the study.
      goal: what they are judged by.
    """
    order = ranked(trials, goal.sign)
    best = [trial for trial in order if trial.state == "complete"][: max(TOP, search.keep)]
    states = [trial.state for trial in trials]
    shares = importance(search, trials, goal.sign)
    return {
        "metric": f"val/{goal.metric}",
        "better": "larger" if goal.sign > 0 else "smaller",
        "num_val": goal.num_val,
        "best": [_best(trial, goal) for trial in best],
        "alike": sum(_overlaps(best[0], trial, goal) for trial in best[1:]) if best else 0,
        "importance": {name: found._asdict() for name, found in shares.items()},
        "warnings": borders(search, trials, goal.sign),
        "num_trials": len(order),
        "trials": {state: states.count(state) for state in dict.fromkeys(states)},
        "member_steps": sum(trial.steps for trial in order),
        "member_steps_in_full": sum(trial.num_steps for trial in order),
        "trial_seconds": sum(trial.seconds for trial in order),
        "space": {name: domain(member) for name, member in search.space.items()},
    }


def domain(member: Range | Choice) -> dict[str, Any]:
    """A range or choice as JSON and `trials_figure` have it."""
    return {"values": member.labels()} if isinstance(member, Choice) else dataclasses.asdict(member)


def write_findings(
    folder: Path, search: Search, trials: Sequence[Trial], goal: Goal, summary: Mapping[str, Any]
) -> None:
    """The files of a search, search.json last."""
    from jaxtrain.plots.search import trials_figure

    order = ranked(trials, goal.sign)
    write_text(folder / "trials.csv", _table(search, trials, order, goal))
    if order:
        shares = {name: found["share"] for name, found in summary["importance"].items()}
        rows = [{"number": t.number, "params": t.params, "value": t.value, "state": t.state} for t in order]
        options: dict[str, Any] = {"metric": goal.metric, "larger_is_better": goal.sign > 0, "importance": shares}
        trials_figure(rows, folder / "trials.png", space=summary["space"], **options)
    if summary["best"]:
        write_json(folder / "best_config.json", to_json(with_values(search, summary["best"][0]["params"])))
    write_json(folder / "search.json", summary)


def show(terminal: Terminal, search: Search, summary: Mapping[str, Any], goal: Goal) -> None:
    """The table of the best, what mattered, and the warnings."""
    best, names = summary["best"][:TOP], list(search.space)
    cells = [goal.cells(found["value"]) for found in best]
    rows = [(goal.metric, *(value for value, _ in cells)), ("95 % interval", *(ends for _, ends in cells))]
    rows += [(_short(name, names), *(_text(found["params"][name]) for found in best)) for name in names]
    title = f"the best of {summary['num_trials']} trials, by the validation split"
    terminal.table(title, ("trial", *(str(found["number"]) for found in best)), rows)
    if summary["alike"]:
        terminal.say(
            f"the intervals of {summary['alike']} others in the table overlap that of the best: on {goal.num_val:,}"
            " examples the order among them is largely luck"
        )
    shares = [f"{name} {100 * found['share']:.0f} %" for name, found in summary["importance"].items()]
    if shares:
        terminal.say(f"what each explains of the order of the trials: {', '.join(shares)}")
    done, full = summary["member_steps"], summary["member_steps_in_full"]
    if 0 < done < full:
        terminal.say(f"{done:,} updates in all, {100 * done / full:.0f} % of what all trials to their end would take")
    for warning in summary["warnings"]:
        terminal.warn(warning)


def show_winner(terminal: Terminal, winner: Mapping[str, Any] | None, folder: Path) -> None:
    """The winner's scores over its seeds."""
    if winner is None:
        return
    for split in ("val", "test"):
        for metric, found in winner["interval"].get(split, {}).items():
            terminal.say(f"{split} {metric}: {describe(Interval(**found), is_percent(metric))}")
    terminal.say(f"{folder / 'winner'}; every file of the search in {folder}")


def refined(search: Search, folder: Path) -> Search:
    """A search of the same space around the best trials of the search in `folder`.

    Args:
      search: of the config file; values that JSON can only name come from it.
      folder: of the search before, whose ranges may be narrower than the config file's.

    Raises:
      RequestError: the folder holds no search with a complete trial, or that of another space.
      WorldError: its search.json cannot be read.
    """
    search, summary = check_search(search), read_json(folder / "search.json")
    if not summary or not summary.get("best"):
        raise RequestError(f"{folder} holds no search with a complete trial (search.json); finish it first")
    if set(summary["space"]) != set(search.space):
        raise RequestError(
            f"{folder} searched {', '.join(summary['space'])}, the config {', '.join(search.space)};"
            " give the config file of that search"
        )
    space = {name: _searched(name, member, summary["space"][name]) for name, member in search.space.items()}
    best = [Trial(found["number"], found["params"], "complete", found["value"]) for found in summary["best"]]
    sign = 1 if summary["better"] == "larger" else -1
    return narrow(dataclasses.replace(search, space=space), best, sign)


def _searched(name: str, member: Range | Choice, stored: Mapping[str, Any]) -> Range | Choice:
    """What was searched: the stored range, or those of the config's values that were among the choices."""
    if isinstance(member, Range):
        return Range(**stored)
    labels = [repr(entry) for entry in member.labels()]
    missing = next((entry for entry in stored["values"] if repr(entry) not in labels), None)
    if missing is not None:
        raise RequestError(f"space[{name!r}] of the config has no value {missing!r}, which the search before it had")
    return Choice(tuple(member.value(entry) for entry in stored["values"]))


def _best(trial: Trial, goal: Goal) -> dict[str, Any]:
    shown = {"number": trial.number, "value": trial.value, "interval": goal.interval(trial.value)}
    return {**shown, "params": dict(trial.params), "epochs": trial.epochs, "steps": trial.steps}


def _overlaps(best: Trial, other: Trial, goal: Goal) -> bool:
    first, second = goal.interval(best.value), goal.interval(other.value)
    return first is not None and second is not None and second[0] <= first[1] and first[0] <= second[1]


def _table(search: Search, trials: Sequence[Trial], order: Sequence[Trial], goal: Goal) -> str:
    """trials.csv: those with a place by rank, then the others."""
    others = [trial for trial in trials if trial not in order]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    facts = ("number", "state", "value", "low", "high", "epochs", "steps", "seconds", "worker", "again")
    writer.writerow([*facts, *search.space])
    for trial in [*order, *others]:
        low, high = goal.interval(trial.value) or ("", "")
        row = {**dataclasses.asdict(trial), "low": low, "high": high, "seconds": round(trial.seconds, 3)}
        writer.writerow([*(row[name] for name in facts), *(trial.params.get(name, "") for name in search.space)])
    return file.getvalue()


def _short(name: str, names: Sequence[str]) -> str:
    """A name without what it lies in, where that leaves it apart from the others."""
    last = [other.rpartition(".")[2] for other in names]
    short = name.rpartition(".")[2]
    return short if last.count(short) == 1 else name


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
