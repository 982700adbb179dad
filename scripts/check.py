"""Look at network, data and gradient before training: two dozen checks, in seconds.

    python scripts/check.py --config configs/mnist.py
    python scripts/check.py --config configs/mnist.py:cnn --hyper.learning_rate=0.1 --output runs/checks.json

Prints each check with what was found and what a healthy network gives, and advice for each that did not pass. Nothing
is written but --output. A config file is Python and is executed: only run configs that you trust. Exit status: 0 no
check failed, 1 one did; 2 the request is wrong.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from jaxtrain.checks import check
from jaxtrain.data import load_data
from jaxtrain.files import write_json
from jaxtrain.script import make_parser, prepare, read_experiment, run_script
from jaxtrain.terminal import Terminal


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "", add_help=False)
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="config file, or the config.json of a run")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the checks as JSON to this file")
    parser.add_argument("-h", "--help", action="store_true", help="print this and, with --config, all its fields")
    flags, rest = parser.parse_known_args(args)
    experiment = read_experiment(parser, flags.config, rest, show_help=flags.help)
    prepare()
    terminal = Terminal()
    data = load_data(experiment.data, report=terminal.notice)
    found = check(experiment.model, data, experiment.config, experiment.hyper, seed=experiment.seed)
    found.show(terminal)
    if flags.output is not None:
        write_json(flags.output, found.to_json())
    return 1 if found.failed else 0


if __name__ == "__main__":
    run_script(main)
