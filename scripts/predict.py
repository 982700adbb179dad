"""Print labels and probabilities for image files.

    python scripts/predict.py runs/mnist-20261122-101500 seven.png three.png

Each image is resized to the size of the training images; a run on grey images reads it as grey.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

import numpy as np

from jaxtrain.data import read_image
from jaxtrain.errors import RequestError
from jaxtrain.script import make_parser, prepare, read_run, run_script


def main(args: list[str]) -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="its config file, for a network of your own")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--top", type=int, default=3, help="how many classes to print for each image (default 3)")
    parser.add_argument("--invert", action="store_true", help="dark on light to light on dark, as MNIST has it")
    flags = parser.parse_args(args)
    prepare()
    run, _ = read_run(flags.run, flags.config)
    shape = run.info.stored_shape
    if len(shape) != 3 or run.info.num_classes is None:
        raise RequestError(f"{flags.run} classifies no images (its inputs have shape {list(shape)}); use run.predict")
    images = np.stack([read_image(path, shape) for path in flags.images])
    images = 255 - images if flags.invert else images
    if run.info.stored_dtype != "uint8":
        raise RequestError(f"{flags.run} was trained on {run.info.stored_dtype} images, whose range a file cannot tell")
    names = run.info.class_names or tuple(map(str, range(run.info.num_classes)))
    for path, probability in zip(flags.images, run.predict(images).probability, strict=True):
        best = np.argsort(-probability)[: max(1, flags.top)]
        print(f"{path}: " + ", ".join(f"{names[k]} {100 * probability[k]:.1f} %" for k in best))


if __name__ == "__main__":
    run_script(main)
