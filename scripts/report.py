"""Write the report of a finished run again, or put several runs side by side.

    python scripts/report.py runs/mnist-20261122-101500
    python scripts/report.py runs/plain runs/dropout runs/wide --output wide-or-dropout

Of one run: report.html and report.md in its folder, as training has written them. Of several: what differs in their
configs and in their results, whether each differs from the first by more than the luck of its seeds, and their curves;
as report-PLAIN-DROPOUT-WIDE.html, .md and .png here, or where --output says.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.config import own_functions
from jaxtrain.configfile import from_json, load_config
from jaxtrain.data import Data, load_data
from jaxtrain.errors import RequestError, WorldError
from jaxtrain.folder import read_config
from jaxtrain.report import write_comparison, write_report
from jaxtrain.runs import load_run
from jaxtrain.script import data_of, make_parser, prepare, run_script

MOST_NAMES = 3


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("run", type=Path, nargs="+", help="folder of a finished run")
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="one run: its config file, for a network of your own"
    )
    parser.add_argument("--no-baseline", action="store_true", help="one run: train no linear network beside it")
    parser.add_argument("--output", type=Path, help="several runs: where to write, without an ending")
    parser.add_argument("--split", choices=("val", "test"), help="several runs: whose scores count; default: val")
    parser.add_argument("--metric", help="several runs; default: accuracy where there is one, else loss")
    flags, rest = parser.parse_known_args(args)
    several = len(flags.run) > 1
    _check_flags(several, vars(flags), rest)
    if several:
        output = flags.output or Path(_name_of(flags.run))
        page = write_comparison(flags.run, output, split=flags.split, metric=flags.metric)
    else:
        prepare()
        page = _write_again(flags.run[0], flags.config, rest, baseline=not flags.no_baseline)
    print(page)


def _check_flags(several: bool, flags: dict[str, Any], rest: list[str]) -> None:
    """Refuse what would be without effect."""
    wrong = ("config", "no_baseline") if several else ("output", "split", "metric")
    given = [f"--{name.replace('_', '-')}" for name in wrong if flags[name]] + (rest if several else [])
    if given:
        raise RequestError(f"{given[0]} is not for {'several runs' if several else 'one run'}; see report.py --help")


def _name_of(folders: list[Path]) -> str:
    """report-a-b-c, and for more "-and-2-more"."""
    names = [folder.resolve().name for folder in folders]
    more = f"-and-{len(names) - MOST_NAMES}-more" if len(names) > MOST_NAMES else ""
    return f"report-{'-'.join(names[:MOST_NAMES])}{more}"


def _write_again(folder: Path, reference: str | None, rest: list[str], *, baseline: bool) -> Path:
    passed: dict[str, Any] = {}
    if reference is not None:
        own = load_config(reference)
        passed = {"model": own.model, **own_functions(own.config)}
    run = load_run(folder, **passed)
    data, why = _data_of(folder, passed, rest)
    if data is not None and data.info.sha256 != run.info.sha256:
        data, why = None, f"The data is not what the run was trained on (SHA-256 {data.info.sha256[:12]} now)."
    if data is None:
        print(f"warning: the report is written without what needs the data. {why}", file=sys.stderr)
    return write_report(run, data, folder, baseline=baseline, no_data=why)


def _data_of(folder: Path, passed: dict[str, Any], rest: list[str]) -> tuple[Data | None, str]:
    """The run's data, or why there is none; only where it lies may be said anew."""
    described = read_config(folder) or {}
    if described.get("data", {}).get("type") == "arrays":
        return None, "The data was given as arrays, which a run does not keep."
    moved = data_of(from_json(described, **passed), rest, "report.py")
    try:
        return load_data(moved, report=lambda text: print(text, file=sys.stderr)), ""
    except (RequestError, WorldError) as error:
        return None, f"The data could not be loaded: {error}."


if __name__ == "__main__":
    run_script(main)
