"""The whole program of the benchmarks: an MLP on MNIST, five epochs, with all that train.py writes by default."""

import jaxtrain as jt


def get_config() -> jt.Experiment:
    """784-512-512-10, batch 128."""
    return jt.Experiment(
        model=jt.MLP(hidden=(512, 512)),
        data=jt.DataConfig(name="mnist", download=False),
        config=jt.Config(epochs=5, batch_size=128),
        hyper=jt.Hyper(learning_rate=2e-3, weight_decay=1e-2, dropout_rate=0.2),
    )
