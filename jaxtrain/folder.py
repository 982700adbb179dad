"""A run's folder: opened for a new run or a resumed one, and read again by `load_run`.

    config.json     the experiment, resolved; a run of shipped parts can be repeated from it
    manifest.json   versions, device, data, command line
    metrics.jsonl   every number that was logged
    summary.json    the result (only of a finished run)
    curves.png      the curves
    report.html     the written report, and report.md with its figures in report/
    train/ val/ test/ events...   what TensorBoard reads
    checkpoints/    what `--resume` reads
    weights/        the weights that were scored (only of a finished run)
    tried/          what scripts/diagnose.py --try has tried
    members/003/    of a run of several members: each one's own folder, a run's again but for checkpoints/
    members.csv     their scores

Imports config files' JSON, checkpoints and files; nothing here knows how training works.
"""

import datetime
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxtrain.errors import RequestError, WorldError
from jaxtrain.files import probe_writable, read_json_lines, write_json, write_text

# Where the data lies is no part of a run.
PLACES = {"data.dir", "data.path", "data.download"}
# What a resumed run may change: how long, what is logged and what is saved. Anything else would be another run.
MAY_DIFFER = PLACES | {
    "config.epochs",
    "config.eval_batch_size",
    "config.log_every_steps",
    "config.probe_every_steps",
    "config.max_chunk_seconds",
    "config.checkpoint_every_seconds",
    "config.keep_checkpoints",
    "config.stream",
}


# The same program rounds otherwise where one of these differs.
CHANGES_BITS = ("versions.jax", "versions.jaxlib", "backend", "device", "num_cores", "xla_flags")


def member_folder(folder: Path, index: int) -> Path:
    """Where a member's own events, numbers, weights and summary lie."""
    return folder / "members" / f"{index:03d}"


def default_folder(name: str, root: Path = Path("runs")) -> Path:
    """runs/NAME-DATE-TIME, with a number behind it where two runs start in one second."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise RequestError(
            f"run name {name!r}: use letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    stamp = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    candidates = [root / stamp, *(root / f"{stamp}-{i}" for i in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists())


def check_folder(folder: Path, config: Mapping[str, Any], sha256: str, *, resume: bool) -> None:
    """Raise where the run cannot have this folder. Writes nothing that stays.

    Args:
      folder: the run's folder, existing or not.
      config: the experiment as JSON values.
      sha256: of the data.
      resume: whether the run continues what the folder holds.

    Raises:
      RequestError: the folder holds a run and `resume` was not asked for, or one that differs; or holds none to resume.
      WorldError: the folder is a file, cannot be written, or its config.json cannot be read.
    """
    stored = read_config(folder)
    if stored is None and resume:
        raise RequestError(
            f"{folder} holds no run to resume (no config.json); leave out --resume, or name the run's folder"
        )
    if stored is not None and not resume:
        state = "a finished run" if (folder / "summary.json").exists() else "an unfinished run"
        raise RequestError(
            f"{folder} holds {state}; continue it with --resume, or choose another folder with --workdir"
        )
    if stored is not None:
        different = differences(stored, config)
        if different:
            raise RequestError(
                f"{folder} was made with another config, so this one cannot resume it: {'; '.join(different[:5])}."
                " Repeat the stored value, or start a new run in another folder"
            )
        trained_on = read_manifest(folder)["data"].get("sha256", sha256)
        if trained_on != sha256:
            raise RequestError(
                f"{folder} was trained on other data (SHA-256 {trained_on[:12]}, now {sha256[:12]}) and cannot go on"
                " with this; bring that data back, or start a new run in another folder"
            )
    probe_writable(folder)


def differences(
    stored: Mapping[str, Any], config: Mapping[str, Any], may_differ: Collection[str] = MAY_DIFFER
) -> list[str]:
    """What differs between two experiments and may not, as "hyper.learning_rate is 0.1, was 0.001"."""
    old, new = flat(stored), flat(config)
    names = [name for name in {**old, **new} if name not in may_differ and old.get(name) != new.get(name)]
    return [f"{name} is {new.get(name)!r}, was {old.get(name)!r}" for name in names]


def read_config(folder: Path) -> dict[str, Any] | None:
    """The folder's config.json; None where there is none."""
    return read_json(folder / "config.json")


def read_json(path: Path, kinds: tuple[type, ...] = (dict,)) -> Any:
    """The JSON object in `path`, or what else of `kinds` it may hold; None where there is no such file.

    Raises:
      WorldError: if it cannot be read, is no JSON, or is of another kind.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:  # nested a thousand deep, JSON is none either
        raise WorldError(f"{path} cannot be read: {error}; restore it, or start a new run in another folder") from None
    if not isinstance(value, kinds):
        raise WorldError(f"{path} holds {value!r:.40} and no JSON object; restore it, or start a new run elsewhere")
    return value


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The folder's summary.json; None where there is none.

    Raises:
      WorldError: if it is not what a finished run writes.
    """
    summary = read_json(folder / "summary.json")
    if summary is None:
        return None
    scores = {name: dict for name in ("train", "val", "test") if name in summary}
    members = {"members": list} if "members" in summary else {}
    for name, kind in {"status": str, "data": dict, "steps": int, "epochs": int, **scores, **members}.items():
        if not isinstance(summary.get(name), kind):
            given = f"{name} is {summary[name]!r:.40}" if name in summary else f"it has no {name}"
            raise WorldError(f"{folder}/summary.json is not what a finished run writes ({given}); restore it")
    return summary


def read_manifest(folder: Path) -> dict[str, Any]:
    """The folder's manifest.json, which says what a run is continued with.

    Raises:
      WorldError: if it is missing, or not what a run writes.
    """
    stored = read_json(folder / "manifest.json")
    if stored is None:
        raise WorldError(f"{folder}/manifest.json is missing; restore it, or start a new run in another folder")
    members, origin = stored.get("members"), stored.get("init_from")
    fits = (
        isinstance(stored.get("earlier", []), list)
        and isinstance(stored.get("seeds"), list)
        and isinstance(stored.get("data"), dict)
        and (members is None or _fits(members, {"parallel": str, "width": int, "num_devices": int, "why": str}))
        and (members is None or (members["parallel"] in ("loop", "vmap") and members["width"] > 0))
        and (origin is None or _fits(origin, {"folder": str | None, "digest": str}))
    )
    if not fits:
        raise WorldError(f"{folder}/manifest.json is not what a run writes; restore it, or start a new run elsewhere")
    return stored


def _fits(value: Any, kinds: Mapping[str, Any]) -> bool:
    """Whether it is an object of these members and no other."""
    return (
        isinstance(value, dict)
        and value.keys() == kinds.keys()
        and all(isinstance(value[name], kind) for name, kind in kinds.items())
    )


def reopen(folder: Path) -> None:
    """A finished run that is to go on: its result is no longer one, and its test score not the run's."""
    for name in ("summary.json", "report.html", "report.md"):
        (folder / name).unlink(missing_ok=True)
    lines = read_json_lines(folder / "metrics.jsonl")
    kept = [line for line in lines if not any(name.startswith("test/") for name in line)]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


def write_start(folder: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """config.json and manifest.json; a resumed run appends its manifest to those before."""
    before = read_json(folder / "manifest.json") or {}
    history = [*before.get("earlier", []), {k: v for k, v in before.items() if k != "earlier"}] if before else []
    write_json(folder / "manifest.json", {**manifest, "earlier": history})
    write_json(folder / "config.json", config)


def changes_of_machine(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What has changed since the folder's last process that can change bits, as "num_cores was 2, is 1"."""
    before = read_json(folder / "manifest.json") or {}
    old, new = ({k: flat(m).get(k) for k in CHANGES_BITS} for m in (before, manifest))
    return [f"{name} was {old[name]}, is {new[name]}" for name in CHANGES_BITS if before and old[name] != new[name]]


def read_history(folder: Path, step: int) -> list[dict[str, float]]:
    """The evaluations up to `step`, from metrics.jsonl."""
    rows = []
    for row in read_json_lines(folder / "metrics.jsonl"):
        try:
            if row.pop("kind", None) == "evaluation" and row["step"] <= step and "val/loss" in row:
                rows.append({name: value if name in ("step", "epoch") else float(value) for name, value in row.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise WorldError(f"{folder}/metrics.jsonl has a line that no run writes ({error!r}); restore it") from None
    return rows


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """{"hyper": {"momentum": 0.9}} -> {"hyper.momentum": 0.9}."""
    if isinstance(value, Mapping):
        fields: dict[str, Any] = {}
        for name, member in value.items():
            fields |= flat(member, f"{path}.{name}".lstrip("."))
        return fields
    return {path: value}
