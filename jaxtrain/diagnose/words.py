"""A diagnosis as text: for the terminal, and as Markdown for the TEXT tab.

Imports findings. The fact that surprises: confidence is told as a word only where it is not high, for a reader takes
what is said without one as meant.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain.diagnose.diagnosis import Diagnosis

WIDTH = 100


def in_words(diagnosis: Diagnosis) -> str:
    """Paragraphs for a terminal."""
    count = len(diagnosis.histories)
    head = f"{diagnosis.path}" + (f", {count} members" if count > 1 else "")
    lines = [f"{head}{_so_far(diagnosis)}:"]
    for found in diagnosis.to_json()["findings"]:
        lines += ["", *_paragraph(headline(found, count), ""), *_paragraph(found["text"], "  ")]
        for number, line in enumerate(found["advice"], start=1):
            lines += _wrapped(line, f"  {number}. ", "     ")
    return "\n".join(lines) + "\n"


def _so_far(diagnosis: Diagnosis) -> str:
    """How far a run is that goes on, or that was killed: of its files alone neither can be told from the other."""
    unfinished = [history for history in diagnosis.histories if history.status == "running"]
    if not unfinished:
        return ""
    epoch = max((float(history.epochs[-1]) for history in unfinished if history.rows), default=0.0)
    planned = float(unfinished[0].facts.get("epochs") or 0)
    return f" (so far: epoch {epoch:g} of {planned:g})" if planned and epoch else " (so far)"


def headline(found: Mapping[str, Any], members: int = 1) -> str:
    """As in: Overfitting, perhaps (since epoch 12; 5 of 8 members)."""
    title = found["title"][:1].upper() + found["title"][1:]
    perhaps = ", perhaps" if found["level"] == "medium" and found["name"] != "healthy" else ""
    facts = [f"since epoch {found['epoch']:g}"] if found.get("epoch") else []
    facts += [f"{found['members']} of {members} members"] if members > 1 else []
    told = f" ({'; '.join(facts)})" if facts else ""
    return f"{title}{perhaps}{told}"


def in_markdown(found: Sequence[Mapping[str, Any]], members: int = 1) -> str:
    """Findings as they stand in a summary, for the TEXT tab."""
    lines: list[str] = []
    for one in found:
        advice = [f"{number}. {line}" for number, line in enumerate(one["advice"], start=1)]
        lines += [f"**{headline(one, members)}.** {one['text']}", "", *advice, ""]
    return "\n".join(lines)


def _paragraph(text: str, indent: str) -> list[str]:
    return _wrapped(text, indent, indent)


def _wrapped(text: str, first: str, others: str) -> list[str]:
    """Lines; a number and its percent sign stay together."""
    kept = text.replace(" %", "\u00a0%")
    lines = textwrap.wrap(kept, WIDTH, initial_indent=first, subsequent_indent=others)
    return [line.replace("\u00a0%", " %") for line in lines]
