"""The whole programs of the benchmarks: an MLP on MNIST, five epochs; and a search for its learning rate.

python scripts/train.py --config benchmarks/five_epochs.py
python scripts/search.py --config benchmarks/five_epochs.py:search --epochs 2
"""

import jaxtrain as jt


def get_config(variant: str = "") -> jt.Experiment | jt.Search:
    """784-512-512-10, batch 128; search: eight trials of it."""
    experiment = jt.Experiment(
        model=jt.MLP(hidden=(512, 512)),
        data=jt.DataConfig(name="mnist", download=False),
        config=jt.Config(epochs=5, batch_size=128),
        hyper=jt.Hyper(learning_rate=2e-3, weight_decay=1e-2, dropout_rate=0.2),
    )
    if variant == "search":
        return jt.Search(experiment, {"hyper.learning_rate": jt.Range(1e-4, 1e-2, log=True)}, trials=8, winner_seeds=0)
    return experiment
