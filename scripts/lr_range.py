"""Find a learning rate: 32 of them from the same initial weights, for a few hundred steps each, as one program.

    python scripts/lr_range.py --config configs/mnist.py
    python scripts/lr_range.py --config configs/mnist.py:cnn --low 1e-4 --high 0.3 --count 16 --steps 200

Prints the loss of each rate and a suggestion with its reason, and writes OUTPUT/lr_range.png and lr_range.json. Nothing
else is written or changed. A config file is Python and is executed: only run configs that you trust.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.configfile import to_json
from jaxtrain.data import load_data
from jaxtrain.files import probe_writable, write_json
from jaxtrain.folder import default_folder
from jaxtrain.lr_range import LrRange, lr_range
from jaxtrain.plots import lr_range_figure
from jaxtrain.script import StopRequest, make_parser, prepare, read_experiment, run_name, run_script
from jaxtrain.terminal import Terminal


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "", add_help=False)
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="config file, or the config.json of a run")
    parser.add_argument("--low", type=float, default=1e-5, help="smallest rate (default 1e-5)")
    parser.add_argument("--high", type=float, default=1.0, help="largest rate (default 1)")
    parser.add_argument("--count", type=int, default=32, help="number of rates (default 32)")
    parser.add_argument("--steps", type=int, default=300, help="steps with each rate (default 300)")
    parser.add_argument("--output", type=Path, help="folder of the figure (default: runs/NAME-lr-range-DATE-TIME)")
    parser.add_argument("-h", "--help", action="store_true", help="print this and, with --config, all its fields")
    flags, rest = parser.parse_known_args(args)
    experiment = read_experiment(parser, flags.config, rest, show_help=flags.help)
    prepare(members=flags.count)
    terminal = Terminal()
    folder = flags.output or default_folder(f"{run_name(flags.config)}-lr-range")
    probe_writable(folder)
    with StopRequest() as stop, _nothing_left(folder):
        found = lr_range(
            experiment.model,
            load_data(experiment.data, report=terminal.notice),
            experiment.config,
            experiment.hyper,
            low=flags.low,
            high=flags.high,
            count=flags.count,
            num_steps=flags.steps,
            seed=experiment.seed,
            parallel=experiment.parallel,
            stop=stop,
        )
    if stop():
        return stop.exit_status
    show(terminal, found)
    figure = {name: getattr(found, name) for name in ("suggested", "start_loss", "reason", "num_steps")}
    lr_range_figure(found.learning_rates, found.losses, folder / "lr_range.png", **figure)
    write_json(folder / "lr_range.json", {**dataclasses.asdict(found), "experiment": to_json(experiment)})
    terminal.say(f"{folder}/lr_range.png")
    return 0


@contextlib.contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """What fails before it has written anything leaves no empty folder."""
    try:
        yield
    except BaseException:  # Ctrl-C too; it goes on from here
        with contextlib.suppress(OSError):  # not empty, so not ours
            folder.rmdir()
        raise


def show(terminal: Terminal, found: LrRange) -> None:
    """The loss of each rate, and the suggestion."""
    pairs = zip(found.learning_rates, found.losses, strict=True)
    rows = [(f"{rate:.3g}", f"{loss:.4f}", "suggested" if rate == found.suggested else "") for rate, loss in pairs]
    title = f"loss after {found.num_steps} steps; {found.start_loss:.4f} before"
    terminal.table(title, ("learning rate", "training loss", ""), rows)
    take = "no suggestion" if found.suggested is None else f"suggested: --hyper.learning_rate={found.suggested:.2g}"
    terminal.say(f"{take}: {found.reason}")


if __name__ == "__main__":
    run_script(main)
