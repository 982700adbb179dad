"""Train a network from a config file.

    python scripts/train.py --config configs/mnist.py
    python scripts/train.py --config configs/mnist.py:cnn --hyper.learning_rate=2e-3 --epochs 5 --seed 1
    python scripts/train.py --config configs/mnist.py --members 8
    python scripts/train.py --resume --workdir runs/mnist-20261122-101500

A config file is Python and is executed: only run configs that you trust. Exit status: 0 done; 1 the world failed;
2 the request is wrong; 3 the loss became NaN or infinite; 130 Ctrl-C; 143 SIGTERM or SIGUSR1.
"""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

import jax

from jaxtrain.configfile import to_json
from jaxtrain.errors import RequestError
from jaxtrain.run import fit
from jaxtrain.script import StopRequest, folder, make_parser, prepare, read_experiment, run_name, run_script


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "", add_help=False)
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="config file, or the config.json of a run")
    parser.add_argument("--workdir", type=folder, help="folder of the run (default: runs/NAME-DATE-TIME)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --workdir")
    parser.add_argument("--init-from", metavar="RUN", type=folder, help="start from the weights of a finished run")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config as JSON and leave")
    parser.add_argument("--members", type=int, metavar="N", help="train N seeds, from --seed on, as one program")
    parser.add_argument("--width", type=int, help="most members at the same time (default: what memory holds)")
    parser.add_argument(
        "--check", action="store_true", help="run the checks of scripts/check.py first, and stop if one fails"
    )
    parser.add_argument("--profile-steps", metavar="A:B", help="profile steps A to B, for TensorBoard's PROFILE tab")
    parser.add_argument(
        "--preempt-after",
        type=float,
        metavar="MINUTES",
        help="stop then with a checkpoint and status 143, as by SIGTERM; for queues with a time limit",
    )
    parser.add_argument("--debug-nans", action="store_true", help="stop at the operation that makes a NaN; slow")
    parser.add_argument("--no-report", action="store_true", help="write no report.html at the end")
    parser.add_argument("--quiet", action="store_true", help="print nothing but warnings")
    parser.add_argument("-h", "--help", action="store_true", help="print this and, with --config, all its fields")
    flags, rest = parser.parse_known_args(args)

    reference = flags.config
    if flags.resume and not flags.help:
        if flags.workdir is None:
            raise RequestError("--resume needs the folder of the run to continue; give --workdir")
        reference = reference or str(flags.workdir / "config.json")
    experiment = read_experiment(parser, reference, rest, show_help=flags.help)
    if flags.print_config:
        print(json.dumps(to_json(experiment), indent=2))
        return 0

    if flags.width is not None and flags.width < 1:
        raise RequestError(f"--width is {flags.width}; give at least 1")
    if flags.members is not None:
        if flags.members < 1:
            raise RequestError(f"--members is {flags.members}; give at least 1")
        experiment = dataclasses.replace(experiment, seeds=_seeds(experiment.seed, flags.members))
    prepare(members=len(experiment.seeds or ()))
    if flags.debug_nans:
        jax.config.update("jax_debug_nans", True)
    parts = {field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)}
    name = None if flags.workdir else run_name(reference)
    with StopRequest(flags.preempt_after) as stop:
        run = fit(
            **parts,
            workdir=flags.workdir,
            name=name,
            resume=flags.resume,
            init_from=flags.init_from,
            width=flags.width,
            check=flags.check,
            report=not flags.no_report,
            profile_steps=_steps(flags.profile_steps),
            quiet=flags.quiet,
            stop=stop,
        )
    return stop.exit_status if run.summary["status"] == "stopped" else 0


def _steps(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise RequestError(f"--profile-steps is {text!r}; give two steps, as in 100:120")
    return int(first), int(last)


def _seeds(first: int, count: int) -> tuple[int, ...]:
    return tuple(range(first, first + count))


if __name__ == "__main__":
    run_script(main)
