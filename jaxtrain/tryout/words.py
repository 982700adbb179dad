"""What was tried, in words: a table with the best on top, and what follows from it.

Imports statistics over seeds and the terminal. The fact that surprises: a table of ten remedies calls one of them
better by luck alone now and then, at 5 % each; so the words say of how many the best is the best.
"""

from collections.abc import Sequence

from jaxtrain.seeds import MOST_SEEDS, Comparison, Interval, cells, interval, is_percent
from jaxtrain.seeds import in_words as compared_in_words
from jaxtrain.terminal import Terminal
from jaxtrain.tryout.judge import Judged, Trial, Tryout, is_far_apart

MANY = 4
"""Remedies from which on it is said that one of them may have helped by luck."""


def show(tryout: Tryout, terminal: Terminal) -> None:
    """The table and the sentences, on a terminal."""
    name = tryout.metric
    title = f"tried for {tryout.control.steps} steps, {_length(tryout)}, {len(tryout.seeds)} seeds each"
    columns = ("", f"val {name}", "gain", "95 % interval", "val loss", "")
    terminal.table(title, columns if name != "loss" else (*columns[:4], ""), table(tryout))
    for line in in_words(tryout):
        terminal.say(line)


def table(tryout: Tryout) -> list[tuple[str, ...]]:
    """The control and, the best first, the remedies: score, gain and its interval, loss, verdict."""
    rows = [(tryout.control, "", "", "diverged" if not tryout.control.scores else "")]
    rows += [(each.trial, *_gain(each, tryout), _verdict(each)) for each in tryout.judged()]
    return [
        (trial.name, _score(trial, tryout.metric), gain, ends, *_loss(trial, tryout.metric), verdict)
        for trial, gain, ends, verdict in rows
    ]


def in_words(tryout: Tryout) -> list[str]:
    """Sentences: what helped most, how sure that is, and what a short run does not show."""
    lines = [f"not tried: {name}: {why}" for name, why in tryout.left_out.items()]
    if tryout.stopped:
        lines.append("stopped before all was tried; the same command does the rest (with a network of your own, all)")
    if not tryout.trials:
        return lines
    lines.append(_conclusion(tryout))
    helped = sum(each.verdict == "helped" for each in tryout.judged())
    if helped and tryout.control.scores and len(tryout.trials) >= MANY:
        lines.append(
            f"{helped} of {len(tryout.trials)} helped; of changes that do nothing one in forty seems to, by luck, and"
            " the best of many owes a part of its gain to it"
        )
    if tryout.share < 1:
        lines.append(
            f"all this is of {_length(tryout)}; what shows later in a run, as overfitting often does, is seen with a"
            " larger --share"
        )
    return lines


def _conclusion(tryout: Tryout) -> str:
    best = tryout.best
    if best is None:
        return f"nothing is told to help{_seeds_needed(tryout)}"
    changes = "; ".join(tryout.changes(best.trial))
    if not tryout.control.scores:
        return (
            f"best: {best.trial.name}: the control diverged with every seed, so whatever stays finite beats it"
            f" ({changes})"
        )
    if best.gain is None or len(best.trial.diverged) != len(tryout.control.diverged):
        return (
            f"best: {best.trial.name}: {len(best.trial.diverged)} of {len(tryout.seeds)} seeds diverged, of the control"
            f" {len(tryout.control.diverged)} ({changes})"
        )
    control, scores = (list(each.values(tryout.metric).values()) for each in (tryout.control, best.trial))
    if not best.gain.significant and best.gain.std and is_far_apart(control, scores, tryout.sign):
        ends = [_score(each, tryout.metric) for each in (best.trial, tryout.control)]
        return (
            f"best: {best.trial.name}: {ends[0]} against {ends[1]}; each of its seeds is better than any of the"
            f" control's ({changes})"
        )
    told = compared_in_words(best.gain, "the control", best.trial.name, f"val {tryout.metric}", tryout.sign > 0)
    together = next((each.trial for each in tryout.judged() if each.trial.parts), None)
    alone = "" if together in (None, best.trial) else f"; {together.name} is not clearly better than that"
    return f"best: {told} ({changes}){alone}"


def _seeds_needed(tryout: Tryout) -> str:
    """How many seeds would tell what looks best now."""
    first = tryout.judged()[0]
    needed = None if first.gain is None else first.gain.seeds_needed
    if needed is None or tryout.sign * (first.gain.difference if first.gain else 0) <= 0:
        return ""
    count = f"about {needed}" if needed <= MOST_SEEDS else f"more than {MOST_SEEDS:,}"
    return f"; if the gain of {first.trial.name} is real, {count} seeds would show it (--seeds)"


def _length(tryout: Tryout) -> str:
    """Of the control, beside that of the whole run."""
    whole, done = tryout.control.experiment.config.epochs, tryout.control.epochs
    if tryout.share * whole < 1:
        return f"{tryout.share * whole:.2g} of an epoch, of {whole}"
    return f"{done} of {whole} epochs"


def _score(trial: Trial, metric: str) -> str:
    values = list(trial.values(metric).values())
    return cells(interval(values), is_percent(metric))[0] if values else "none"


def _loss(trial: Trial, metric: str) -> Sequence[str]:
    return () if metric == "loss" else (_score(trial, "loss").partition(" ")[0],)


def _gain(each: Judged, tryout: Tryout) -> tuple[str, str]:
    """A gain, larger always better, and its interval; nothing where there is nothing to compare."""
    if each.gain is None:
        return "", ""
    own, percent = _signed(each.gain, tryout.sign), is_percent(tryout.metric)
    plus = "+" if own.mean > 0 else ""
    return f"{plus}{cells(own, percent)[0].partition(' ')[0]}", cells(own, percent)[1] if own.std is not None else ""


def _signed(gain: Comparison, sign: int) -> Interval:
    """A difference as an interval of the gain; without a spread its ends are itself."""
    low, high = (gain.difference if end is None else end for end in (gain.low, gain.high))
    low, high = sorted((sign * low, sign * high))
    return Interval(sign * gain.difference, gain.std, low, high, min(gain.counts))


def _verdict(each: Judged) -> str:
    lost = len(each.trial.diverged)
    return f"{each.verdict}, {lost} seeds diverged" if lost and each.trial.scores else each.verdict
