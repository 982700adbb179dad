"""Search over hyper-parameters and static choices: random search, coarse to fine, successive halving.

    python scripts/search.py --config configs/mnist_search.py
    python scripts/search.py --config configs/mnist_search.py --halving --epochs 9 --workdir runs/mnist-search
    python scripts/search.py --config configs/mnist_search.py --refine runs/mnist-search --epochs 15

The same command again, with the same --workdir, continues the search: what is finished is kept. Several of them at the
same time share its trials; on machines without a common disk give the same --storage too. A worker that is killed loses
its own trials only, and they are asked again. The folder gets search.json, trials.csv, trials.png, best_config.json
(for train.py --config), best/ and winner/, the best trial trained over several seeds and scored on the test split.

A config file is Python and is executed: only run configs that you trust. Exit status: 0 done; 1 the world failed;
2 the request is wrong; 3 every trial diverged; 130 Ctrl-C; 143 SIGTERM or SIGUSR1.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.configfile import load_search
from jaxtrain.errors import RequestError
from jaxtrain.overrides import overrides_help, parse_overrides
from jaxtrain.script import StopRequest, folder, make_parser, prepare, run_name, run_script
from jaxtrain.search import run_search
from jaxtrain.search.findings import refined
from jaxtrain.space import Halving, Search


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "", add_help=False)
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="config file whose get_config returns a Search")
    parser.add_argument(
        "--workdir",
        type=folder,
        help="folder of the search; give it to share or continue the search\n(default: runs/NAME-search-DATE-TIME)",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="of the trials: a database (postgresql://...) or a journal file\n(default: study.journal in the folder)",
    )
    parser.add_argument(
        "--preempt-after",
        type=float,
        metavar="MINUTES",
        help="stop then with status 143, as by SIGTERM; for queues with a time limit",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="trials in all")
    parser.add_argument("--sampler", help="random, tpe or qmc")
    parser.add_argument("--search-seed", type=int, metavar="N", help="seed of the draws")
    parser.add_argument("--round", type=int, metavar="N", help="trials that a worker trains together")
    parser.add_argument(
        "--halving",
        type=int,
        nargs="?",
        const=Halving.eta,
        metavar="ETA",
        help="successive halving: one in ETA goes on at a rung (default 3); 0: off",
    )
    parser.add_argument(
        "--refine",
        type=folder,
        metavar="FOLDER",
        help="search around the best of the search in FOLDER\n(default --workdir: FOLDER-refined)",
    )
    parser.add_argument("--keep", type=int, metavar="N", help="trials whose weights are kept in best/")
    parser.add_argument("--winner-seeds", type=int, metavar="N", help="seeds over which the winner is trained; 0: none")
    parser.add_argument("--quiet", action="store_true", help="print nothing but warnings")
    parser.add_argument(
        "-h", "--help", action="store_true", help="print this and, with --config, all fields of the experiment"
    )
    flags, rest = parser.parse_known_args(args)

    search = read_search(parser, flags, rest)
    workdir = flags.workdir or (flags.refine and beside(flags.refine))
    prepare(members=search.trials)
    with StopRequest(flags.preempt_after) as stop:
        run_search(
            search,
            workdir=workdir,
            name=f"{run_name(flags.config)}-search".replace("_search-search", "-search"),
            storage=flags.storage,
            quiet=flags.quiet,
            stop=stop,
        )
    return stop.exit_status if stop.received else 0


def beside(folder: Path) -> Path:
    """FOLDER-refined, where nothing else is asked for."""
    named = folder if folder.name else folder.resolve()  # "." has no name
    return named.with_name(f"{named.name}-refined")


def read_search(parser: argparse.ArgumentParser, flags: argparse.Namespace, rest: list[str]) -> Search:
    """The search of `--config` with the flags, and the overrides of its experiment in `rest`; or print the help."""
    if flags.config is None:
        if not flags.help:
            raise RequestError(f"--config is missing; for example: {parser.prog} --config configs/mnist_search.py")
        parser.print_help()
        print("\nWith --config FILE, --help lists the fields of its experiment too.")
        raise SystemExit(0)
    search = load_search(flags.config)
    if flags.help:
        parser.print_help()
        print("\n" + overrides_help(search.experiment, prog=parser.prog))
        raise SystemExit(0)
    own = [option for action in parser._actions for option in action.option_strings]
    experiment = parse_overrides(search.experiment, rest, prog=parser.prog, own_flags=own)
    given = {
        "trials": flags.trials,
        "sampler": flags.sampler,
        "seed": flags.search_seed,
        "round_size": flags.round,
        "keep": flags.keep,
        "winner_seeds": flags.winner_seeds,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if flags.halving is not None:
        changes["halving"] = (
            dataclasses.replace(search.halving or Halving(), eta=flags.halving) if flags.halving else None
        )
    search = dataclasses.replace(search, experiment=experiment, **changes)
    return refined(search, flags.refine) if flags.refine else search


if __name__ == "__main__":
    run_script(main)
