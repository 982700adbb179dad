"""Say in words what a training's curves show, and what to try next; with --try, try it.

    python scripts/diagnose.py runs/mnist-20261122-101500    # a run's folder, also while it goes on
    python scripts/diagnose.py curves.csv                    # of any program: epoch, loss, val_loss, accuracy...
    python scripts/diagnose.py runs/a runs/b --json
    python scripts/diagnose.py runs/a --try                  # the remedies, each for a third of the run, three seeds

Of a run of several members each is looked at, and it is said how many show a thing. How often each finding is right, on
real runs with known faults: docs/diagnosis.md.

--try trains what is advised beside a control that changes nothing, and says what helped, by how much and how sure that
is. RUN/tried/ has the figures (tried.json) and the best as a config (best.json); the run itself stays as it is. The
same command goes on with what was interrupted. Exit status: 0, whatever is found; 1 if a file cannot be read; 2 if the
request is wrong; 130 Ctrl-C and 143 SIGTERM while remedies are tried.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.config import Experiment, own_functions
from jaxtrain.configfile import from_json, load_config
from jaxtrain.data import Data, load_data
from jaxtrain.diagnose import Diagnosis, diagnose_path, in_words
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.finetune import Origin
from jaxtrain.folder import member_folder, read_config, read_manifest
from jaxtrain.result import read_weights
from jaxtrain.script import StopRequest, data_of, make_parser, prepare, printable, run_script
from jaxtrain.tasks import default_task
from jaxtrain.terminal import Terminal
from jaxtrain.tryout import NO_REMEDY, SHARE, Tryout, remedies, show, try_remedies, write_best

ONLY_WITH_TRY = ("seeds", "share", "config")
SEEDS = 3


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("path", type=Path, nargs="+", help="folder of a run, or a CSV of curves")
    parser.add_argument("--json", action="store_true", help="print JSON in the place of words")
    parser.add_argument(
        "--try", dest="tries", action="store_true", help="one run: train what is advised, and see what helps"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help=f"--try: seeds of each remedy; default: {SEEDS}")
    parser.add_argument(
        "--share", type=float, metavar="F", help="--try: share of the run's steps of each remedy; default: 1/3"
    )
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="--try: the run's config file, for a network of your own"
    )
    flags, rest = parser.parse_known_args(args)
    _check_flags(flags.tries, vars(flags), rest)
    diagnoses = [diagnose_path(path) for path in flags.path]
    if not flags.json:
        for diagnosis in diagnoses:
            print(printable(in_words(diagnosis)))
    told, status = [diagnosis.to_json() for diagnosis in diagnoses], 0
    if flags.tries:
        tryout, status = _try(diagnoses[0], flags.config, rest, flags.seeds, flags.share, quiet=flags.json)
        told[0]["tried"] = None if tryout is None else tryout.to_json()
    if flags.json:
        print(json.dumps(told, indent=2))
    return status


def _check_flags(tries: bool, flags: dict[str, Any], rest: list[str]) -> None:
    """Refuse what would be without effect, and what cannot be tried."""
    given = [f"--{name}" for name in ONLY_WITH_TRY if flags[name] is not None] + rest
    if given and not tries:
        raise RequestError(f"{given[0]} is only for --try; see diagnose.py --help")
    if not tries:
        return
    if len(flags["path"]) > 1:
        raise RequestError(f"--try takes one run, and {len(flags['path'])} were given; try them one after another")
    if flags["path"][0].is_file():
        raise RequestError(f"{flags['path'][0]} is a file, and curves cannot be trained; --try needs a run's folder")
    if flags["seeds"] is not None and flags["seeds"] < 1:
        raise RequestError(f"--seeds is {flags['seeds']}; give at least 1, and 3 or more to see how sure a gain is")
    if flags["share"] is not None and not 0 < flags["share"] <= 1:
        raise RequestError(f"--share is {flags['share']}; it must lie in (0, 1], for example 0.33")


def _try(
    diagnosis: Diagnosis, reference: str | None, rest: list[str], count: int | None, share: float | None, *, quiet: bool
) -> tuple[Tryout | None, int]:
    """Try what is advised: what came of it, and the exit status. None where there is nothing to try."""
    folder, terminal = diagnosis.path, Terminal(quiet=quiet)
    experiment, count = _experiment_of(folder, reference, rest), count or SEEDS
    prepare(members=count)
    data = load_data(experiment.data, report=lambda text: print(text, file=sys.stderr))
    origin = _check_same(folder, data)
    for finding in diagnosis.findings:
        if finding.name in NO_REMEDY:
            terminal.say(f"{finding.title}: nothing is tried for it, for {NO_REMEDY[finding.name]}")
    suggested = remedies(diagnosis.findings, experiment, image_shape=data.image_shape)
    if not suggested:
        terminal.say("there is nothing to try")
        return None, 0
    seeds, place = range(experiment.seed, experiment.seed + count), folder / "tried"
    with StopRequest() as stop:
        options: dict[str, Any] = {"workdir": place, "terminal": terminal, "init_from": origin, "stop": stop}
        try:
            tryout = try_remedies(experiment, data, suggested, seeds=seeds, share=share or SHARE, **options)
        except WorldError:
            if stop.received is None:
                raise
            return None, stop.exit_status  # before there was anything to compare with
    show(tryout, terminal)
    best = write_best(tryout, place, reference=reference)
    if best is not None:
        begins = f" --init-from {origin}" if origin else ""
        terminal.say(f"python scripts/train.py --config {best} --workdir {_unused(folder)}{begins}")
    return tryout, stop.exit_status if tryout.stopped else 0


def _experiment_of(folder: Path, reference: str | None, rest: list[str]) -> Experiment:
    """The run's experiment; of its data only where it lies may be said anew."""
    described = read_config(folder)
    if described is None:
        raise RequestError(f"{folder} has no config.json, so it is not known what to train; give a run's own folder")
    if described.get("data", {}).get("type") == "arrays":
        raise RequestError(
            f"the data of {folder} was given as arrays, which a run does not keep; from Python, call"
            " jaxtrain.tryout.try_remedies with them"
        )
    passed: dict[str, Any] = {}
    if reference is not None:
        own = load_config(reference)
        passed = {"model": own.model, **own_functions(own.config)}
    try:
        experiment = from_json(described, **passed)
    except RequestError as error:
        raise RequestError(f"{folder}/config.json: {error}") from None
    return dataclasses.replace(experiment, data=data_of(experiment, rest, "diagnose.py"))


def _check_same(folder: Path, data: Data) -> str | None:
    """Raise where the run cannot be trained as it was; else the run whose weights it began with, if any."""
    whole = folder.resolve()
    manifest = read_manifest(whole.parent.parent if whole.parent.name == "members" else whole)
    trained_on = manifest["data"].get("sha256", data.info.sha256)
    if trained_on != data.info.sha256:
        raise RequestError(
            f"{folder} was trained on other data (SHA-256 {trained_on[:12]}, now {data.info.sha256[:12]}); bring that"
            " data back, or say where it lies with --data.dir or --data.path"
        )
    places = [place for place in (folder, member_folder(folder, 0)) if (place / "weights").is_dir()]
    task = read_weights(places[0])[1]["task"] if places else repr(default_task(data.info))
    if task != repr(default_task(data.info)):
        raise RequestError(
            f"{folder} was trained on a task of your own, {task}, which no config names; from Python, call"
            " jaxtrain.tryout.try_remedies with it"
        )
    origin = manifest.get("init_from")
    if origin is not None:
        Origin(**origin).weights()  # raises where they are gone, or others by now
    return None if origin is None else origin["folder"]


def _unused(folder: Path) -> Path:
    """Beside the run, for the run that mends it."""
    names = [f"{folder.resolve().name}-mended{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 100)))]
    return next(place for name in names if not (place := folder.parent / name).exists())


if __name__ == "__main__":
    run_script(main)
