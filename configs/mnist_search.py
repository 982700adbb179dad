"""Random search on MNIST, coarse to fine as cs231n teaches it: few epochs over wide ranges, then more over narrow ones.

python scripts/search.py --config configs/mnist_search.py --epochs 2 --workdir runs/mnist-coarse
python scripts/search.py --config configs/mnist_search.py --epochs 5 --refine runs/mnist-coarse
python scripts/search.py --config configs/mnist_search.py:cnn --halving

Any number of these commands, started with one --workdir (and one --storage where the machines share no disk), share the
work. The experiment is that of configs/mnist.py.
"""

from pathlib import Path

import jaxtrain as jt
from jaxtrain.configfile import load_config


def get_config(variant: str = "") -> jt.Search:
    experiment = load_config(str(Path(__file__).with_name("mnist.py")) + (f":{variant}" if variant else ""))
    space: dict[str, jt.Range | jt.Choice] = {
        "hyper.learning_rate": jt.Range(1e-4, 1e-1, log=True),
        "hyper.weight_decay": jt.Range(1e-4, 1.0, log=True),
        "batch_size": jt.Choice((64, 128, 256)),
        "schedule.kind": jt.Choice(("cosine", "linear")),
    }
    if variant != "linear":  # logistic regression has no hidden units to drop
        space["hyper.dropout_rate"] = jt.Range(0.0, 0.6)
        space["hyper.label_smoothing"] = jt.Range(0.0, 0.2)
    if variant == "":
        space["model.hidden"] = jt.Choice(((256, 256), (512, 512)))
    return jt.Search(experiment, space, trials=60)
