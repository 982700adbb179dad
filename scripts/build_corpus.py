"""Train the corpus that the diagnosis is measured on: real runs, healthy ones and ones with a fault put in on purpose.

    python scripts/build_corpus.py                       # all of it, about three hours on two cores; may be stopped
    python scripts/build_corpus.py --half tuning --minutes 30
    python scripts/build_corpus.py --only mnist/cnn      # the recipes whose name begins with that
    python scripts/build_corpus.py --pack                # what is there into benchmarks/corpus/*.jsonl.gz, and end

What has been trained is kept in build/corpus, a line a run, and not trained again. Needs a checkout, and MNIST,
Fashion-MNIST and CIFAR-10 in $JAXTRAIN_DATA. Exit status: 0, or 2 if the request is wrong.
"""

import gzip
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "corpus"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from recipes import Recipe, data_of, described, recipes
from sets import score

import jaxtrain as jt
from jaxtrain.device import enable_compilation_cache, one_device_per_core
from jaxtrain.diagnose.history import read_members
from jaxtrain.errors import NonFiniteError, RequestError
from jaxtrain.files import JsonLines, read_json_lines
from jaxtrain.script import make_parser, run_script

ROOT = Path(__file__).resolve().parents[1]
HALVES = ("tuning", "held-out")


def main(args: list[str]) -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--half", choices=HALVES, help="only this one")
    parser.add_argument("--only", default="", metavar="NAME", help="recipes whose name begins so")
    parser.add_argument("--minutes", type=float, help="begin no training after so long")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "corpus")
    parser.add_argument("--pack", action="store_true", help="compress what is there into the checkout, and end")
    flags = parser.parse_args(args)
    flags.folder.mkdir(parents=True, exist_ok=True)
    if flags.pack:
        return pack(flags.folder)
    wanted = [one for one in recipes() if one.name.startswith(flags.only) and flags.half in (None, one.half)]
    if not wanted:
        raise RequestError(f"no recipe's name begins with {flags.only!r}; one is digits/mlp/healthy/base")
    enable_compilation_cache()
    one_device_per_core(2)
    paths = {half: flags.folder / f"{half}.jsonl" for half in HALVES}
    done = {line["name"] for path in paths.values() for line in read_json_lines(path)}
    started = time.monotonic()
    for recipe in wanted:
        if recipe.name in done:
            continue
        if flags.minutes is not None and time.monotonic() - started > 60 * flags.minutes:
            break
        now = time.monotonic()
        lines = train(recipe)
        with JsonLines(paths[recipe.half]) as file:  # without what a kill has cut short
            for line in lines:
                file.append(line)
        scores = ", ".join("diverged" if line["score"] is None else f"{line['score']:.3f}" for line in lines)
        print(f"{recipe.half} {recipe.name}: {scores} ({time.monotonic() - now:.1f} s)", flush=True)
    return 0


def train(recipe: Recipe) -> list[dict[str, Any]]:
    """A line for each seed: what it is, how well it did on the test split, and its history."""
    case = recipe.make()
    arrays, data = case.arrays, data_of(case, recipe.data)
    common = {"half": recipe.half, "name": recipe.name, "twin": recipe.twin, "kind": recipe.kind, **described(case)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            jt.fit(
                case.model,
                data,
                case.config,
                case.hyper,
                seeds=recipe.seeds,
                task=case.task,
                workdir=Path(folder, "run"),
                report=False,
                quiet=True,
            )
        except NonFiniteError:
            pass  # every seed of it diverged; what they recorded is there
        histories = read_members(Path(folder, "run"))
    return [
        {
            **common,
            "seed": seed,
            "score": score(history.test, arrays.test_label) if history.test else None,  # none of a run that diverged
            "history": history.to_json(),
        }
        for seed, history in zip(recipe.seeds, histories.values(), strict=True)
    ]


def pack(folder: Path) -> int:
    """Compress, with no time in the header: the same lines are the same bytes."""
    for half in HALVES:
        path = folder / f"{half}.jsonl"
        if path.exists():
            packed = gzip.compress(path.read_bytes(), compresslevel=9, mtime=0)
            (ROOT / "benchmarks" / "corpus" / f"{half}.jsonl.gz").write_bytes(packed)
    return 0


if __name__ == "__main__":
    run_script(main)
