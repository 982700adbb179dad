"""All that a run has left on the disk, clocks apart, in a form in which two runs can be compared bit for bit.

Imports jaxtrain's own readers, and TensorBoard's reader of event files. The fact that surprises: TensorBoard hides most
doubled points, so the points are also read as they stand in the files, after its rule of what a restart makes void.
"""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.checkpoint import Store
from jaxtrain.files import read_json_lines
from jaxtrain.folder import read_history

RUN = """
import jaxtrain as jt

def get_config(variant=""):
    return jt.Experiment(
        model=jt.MLP(num_outputs=10, hidden=(24, 24), batch_norm=True),
        data=jt.DataConfig(name="digits", val_share=0.2),
        config=jt.Config(
            epochs=24,
            batch_size=64,
            plateau=jt.Plateau(factor=0.5, patience=3),
            early_stopping=jt.EarlyStopping(patience=8),
            ema_decay=0.99,
            log_every_steps=20,
        ),
        hyper=jt.Hyper(learning_rate=2e-2, weight_decay=1e-2, dropout_rate=0.3),
    )
"""
"""An MLP with BatchNorm, dropout and an average of its weights. The plateau reduces the rate in each of seeds 0 to 2;
0 and 2 stop early, one after the other, and 1 goes to its end."""
MEMBERS = ("--probe_every_steps", "None", "--members", "3", "--parallel")
"""Without looks, which take seconds to compile; single runs have them."""

SEARCH = """
import dataclasses
from pathlib import Path

import jaxtrain as jt
from jaxtrain.configfile import load_config

def get_config(variant=""):
    space = {
        "hyper.learning_rate": jt.Range(1e-4, 1e-1, log=True),
        "hyper.dropout_rate": jt.Range(0.0, 0.7),
        "batch_size": jt.Choice((32, 64)),
    }
    experiment = load_config(str(Path(__file__).with_name("small.py")))
    config = dataclasses.replace(experiment.config, epochs=12, probe_every_steps=None)
    experiment = dataclasses.replace(experiment, config=config)
    return jt.Search(experiment, space, trials=8, round_size=2, keep=2, winner_seeds=2)
"""

CLOCKS = ("seconds", "seconds_to_first_step", "compile_seconds", "look_seconds", "images_per_second", "trial_seconds")
MAY_DIFFER = ("max_chunk_seconds", "checkpoint_every_seconds")
ONCE_A_PROCESS = ("config/text_summary", "_hparams_/", "custom_scalars__config__")
"""What each process says again; TensorBoard takes the first."""
CLOCK_TAGS = ("speed/images_per_second", "speed/compile_seconds")
WITH_CLOCKS = ("summary/text_summary",)
"""What tells a time among other things: that it is there once is compared, not what it says."""


def record(folder: Path) -> dict[str, Any]:
    """Everything of a run and of the runs in it, by name: bits of arrays, rows, points, files."""
    found: dict[str, Any] = {}
    for place in sorted(path for path in (folder, *folder.rglob("*")) if path.is_dir()):
        name = place.relative_to(folder)
        if place.name in ("checkpoints", "weights"):
            found |= {f"{name}/{leaf}": bits for leaf, bits in _leaves(place).items()}
        elif next(place.glob("events.*"), None):
            found[f"{name} points"] = _points(place)
            found[f"{name} shown"] = _shown(place)
        if (place / "metrics.jsonl").exists():
            found[f"{name} metrics"] = [_without(row, CLOCKS) for row in read_json_lines(place / "metrics.jsonl")]
            found[f"{name} history"] = read_history(place, 10**9)
        for file in ("summary.json", "config.json"):
            if (place / file).exists():
                found[f"{name}/{file}"] = _without(json.loads((place / file).read_text()), CLOCKS + MAY_DIFFER)
        for file in [*place.glob("*.png"), *place.glob("members.csv")]:
            found[f"{name}/{file.name}"] = file.read_bytes()
    return found


def record_search(folder: Path) -> dict[str, Any]:
    """Parameters and results of all trials that count, whatever their numbers, and the winner as a run."""
    with open(folder / "trials.csv") as file:
        told = [row for row in csv.DictReader(file) if row["state"] != "lost"]
    rows = [_without(row, (*CLOCKS, "number", "worker", "again")) for row in told]
    summary = json.loads((folder / "search.json").read_text())
    best = [_without(trial, (*CLOCKS, "number")) for trial in summary["best"]]
    winner = _without(json.loads((folder / "winner.json").read_text()), (*CLOCKS, "trial"))
    curves = sorted(str(_points(place)) for place in folder.glob("trials/*/val"))
    found = {"trials": sorted(map(str, rows)), "curves of trials": curves, "best": best, "winner": winner}
    return found | {f"winner/{name}": value for name, value in record(folder / "winner").items()}


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What two records do not have in common, named, with the first place where they part."""
    names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    return [f"{name}: {_parting(expected.get(name), found.get(name))}" for name in names]


def _parting(expected: Any, found: Any) -> str:
    if isinstance(expected, list) and isinstance(found, list):
        missing, extra = _less(expected, found), _less(found, expected)
        return (
            f"{len(expected)} expected, {len(found)} found; missing {missing[:2]!r:.300}, too many {extra[:2]!r:.300}"
        )
    if isinstance(expected, dict) and isinstance(found, dict):
        return "; ".join(differences(expected, found))
    return f"{expected!r:.200} was expected, found {found!r:.200}"


def _less(some: list[Any], others: list[Any]) -> list[Any]:
    """`some` without `others`, each as often as it is there."""
    left = list(others)
    return [one for one in some if one not in left or left.remove(one)]


def _without(value: Any, names: tuple[str, ...]) -> Any:
    """JSON without the fields of these names, at any depth."""
    if isinstance(value, dict):
        return {name: _without(part, names) for name, part in value.items() if name not in names}
    return [_without(part, names) for part in value] if isinstance(value, list) else value


def _leaves(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a store: its step, its meta, and the bits of every leaf."""
    with Store(folder, read_only=True) as store:
        parts = ("weights",) if folder.name == "weights" else ("state", "sums", "best")
        tree, meta, step = store.restore_part(parts), store.meta(), store.steps()[-1]
    leaves = {f"{path} bits": (x.dtype.str, x.shape, x.tobytes()) for path, x in _flat(tree).items()}
    return {"step": step, "meta": _without(meta, CLOCKS), **leaves}


def _flat(tree: Any, path: str = "") -> dict[str, np.ndarray]:
    if isinstance(tree, np.ndarray):
        return {path: tree}
    return {name: x for key, part in tree.items() for name, x in _flat(part, f"{path}/{key}".lstrip("/")).items()}


def _points(folder: Path) -> list[tuple[str, int, bytes]]:
    """(tag, step, value) of each point in a folder's event files, in order; a restart makes void what it repeats.

    References:
      TensorBoard, event_accumulator.py, `_CheckForRestartAndMaybePurge`
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    points: list[tuple[str, int, bytes]] = []
    said = set()
    for file in sorted(folder.glob("events.*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.HasField("session_log"):
                points = [point for point in points if point[1] < event.step]
            for value in event.summary.value:
                tag = value.tag
                value.ClearField("tag")
                if tag.startswith(ONCE_A_PROCESS):
                    said.add((tag, -1, b""))
                elif tag not in CLOCK_TAGS:
                    content = b"" if tag in WITH_CLOCKS else value.SerializeToString(deterministic=True)
                    points.append((tag, event.step, content))
    return sorted(said) + sorted(points)


def _shown(folder: Path) -> dict[str, list[Any]]:
    """What TensorBoard shows of a folder's scalars, histograms and images."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kinds = ("scalars", "histograms", "images", "tensors")
    events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(kinds, 0))
    events.Reload()
    return {
        f"{kind}/{tag}": [dataclasses.astuple(point)[1:] for point in getattr(events, kind.capitalize())(tag)]
        for kind in kinds[:3]
        for tag in events.Tags()[kind]
        if tag not in CLOCK_TAGS
    }
