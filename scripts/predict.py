"""Print labels and probabilities for image files.

    python scripts/predict.py runs/mnist-20261122-101500 seven.png three.png
    python scripts/predict.py runs/a --with runs/b seven.png

A run of several members, or several runs, answer as an ensemble, by the mean of their probabilities, and it is said how
many name the class. Each image is resized to the size of the training images; a run on grey images reads it as grey.
"""

import sys
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

import numpy as np

from jaxtrain.config import Tta
from jaxtrain.data import read_image
from jaxtrain.errors import RequestError
from jaxtrain.result import Run
from jaxtrain.runs import Ensemble
from jaxtrain.script import make_parser, prepare, read_runs, run_script


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument(
        "--with", dest="others", metavar="RUN", type=Path, action="append", default=[], help="another run"
    )
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="its config file, for a network of your own")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--top", type=int, default=3, help="how many classes to print for each image (default 3)")
    parser.add_argument("--invert", action="store_true", help="dark on light to light on dark, as MNIST has it")
    parser.add_argument("--tta", choices=get_args(Tta), help="views of each image (default: as the run was trained)")
    flags = parser.parse_args(args)
    prepare()
    run, _ = read_runs([flags.run, *flags.others], flags.config)
    run = run if flags.tta is None else run.with_tta(flags.tta)
    info = run.info
    shape = info.stored_shape
    if len(shape) != 3 or info.num_classes is None:
        raise RequestError(f"{flags.run} classifies no images (its inputs have shape {list(shape)}); use run.predict")
    images = np.stack([read_image(path, shape) for path in flags.images])
    images = 255 - images if flags.invert else images
    if info.stored_dtype != "uint8":
        raise RequestError(f"{flags.run} was trained on {run.info.stored_dtype} images, whose range a file cannot tell")
    names = info.class_names or tuple(map(str, range(info.num_classes)))
    answer = run.predict(images)
    for number, path in enumerate(flags.images):
        probability = answer.probability[number]
        best = np.argsort(-probability)[: max(1, flags.top)]
        line = ", ".join(f"{names[k]} {100 * probability[k]:.1f} %" for k in best)
        print(f"{path}: {line}{_agreement(run, answer, number, best[0])}")


def _agreement(run: Run | Ensemble, answer: Any, number: int, label: int) -> str:
    if not isinstance(run, Ensemble):
        return ""
    share = answer.vote_share[number, label]
    return f" ({round(share * len(run.living))} of {len(run.living)} members)"


if __name__ == "__main__":
    run_script(main)
