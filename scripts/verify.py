"""Does a run still come out as it did? Repeats steps of it from a checkpoint and compares bit for bit.

    python scripts/verify.py runs/mnist-20261122-101500
    python scripts/verify.py runs/mnist-20261122-101500 --steps 500

The steps between its two newest checkpoints (from its beginning, if it has only one) are done again twice. If the two
repetitions differ, this machine is not deterministic; if they agree but differ from the run's own checkpoint, the code,
a library or the machine has changed the numbers since. Every checkpoint that is read is verified on the way. Exit
status: 0 the same bit for bit; 1 not the same, or a damaged checkpoint; 2 the request is wrong.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.config import own_functions
from jaxtrain.configfile import load_config
from jaxtrain.folder import read_config, read_manifest
from jaxtrain.script import folder, make_parser, prepare, run_script
from jaxtrain.verify import Repetition, verify


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("folder", metavar="RUN", type=folder, help="folder of a run")
    parser.add_argument("--steps", type=int, metavar="K", help="repeat at most so many steps")
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="config file of a run with parts of your own")
    flags = parser.parse_args(args)

    own = {}
    if flags.config is not None:
        experiment = load_config(flags.config)
        own = {"model": experiment.model, **own_functions(experiment.config)}
    members = len(read_manifest(flags.folder)["seeds"]) if read_config(flags.folder) else 1
    prepare(members=members)
    found = verify(flags.folder, steps=flags.steps, **own)
    for one in found.repetitions:
        print(told(one))
    for change in found.changes:
        print(f"since the run: {change}")
    return 0 if found.equal else 1


def told(one: Repetition) -> str:
    """What was compared, and what came of it."""
    steps = f"{one.folder}: steps {one.first} to {one.last}"
    if one.twice:
        return f"{steps}: two repetitions differ in {listed(one.twice)}: this machine is not deterministic"
    if one.stored is None:
        return f"{steps}: two repetitions agree bit for bit; they end before the newest checkpoint"
    if one.stored:
        return f"{steps}: two repetitions agree, but differ from the checkpoint in {listed(one.stored)}"
    return f"{steps}: two repetitions and the checkpoint agree bit for bit"


def listed(paths: tuple[str, ...]) -> str:
    """The first names of many."""
    return f"{len(paths)} arrays ({', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''})"


if __name__ == "__main__":
    run_script(main)
