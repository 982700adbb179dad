"""Random search on the handwritten digits: nothing to download, a minute to run.

python scripts/search.py --config configs/digits_search.py
python scripts/search.py --config configs/digits_search.py --halving     # successive halving: about a fifth of the work
"""

from pathlib import Path

import jaxtrain as jt
from jaxtrain.configfile import load_config


def get_config(variant: str = "") -> jt.Search:
    if variant:
        raise ValueError(f"unknown variant {variant!r}; there is none but the default")
    return jt.Search(
        load_config(str(Path(__file__).with_name("digits.py"))),
        {
            "hyper.learning_rate": jt.Range(1e-4, 1e-1, log=True),
            "hyper.weight_decay": jt.Range(1e-4, 1.0, log=True),
            "hyper.dropout_rate": jt.Range(0.0, 0.7),
            "hyper.label_smoothing": jt.Range(0.0, 0.2),
            "batch_size": jt.Choice((32, 64, 128)),
        },
        trials=60,
    )
