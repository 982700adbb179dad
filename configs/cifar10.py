"""CIFAR-10 with a small ResNet, crop and flip.

python scripts/train.py --config configs/cifar10.py

test 83.81 %, validation 82.74 % (1 seed), 1528 s a run on 1 core.
Intel Xeon, jax 0.10.2; by scripts/reproduce.py, figures of every seed in benchmarks/results.
"""

import jaxtrain as jt


def get_config(variant: str = "") -> jt.Experiment:
    if variant:
        raise ValueError(f"unknown variant {variant!r}; there is none but the default")
    return jt.Experiment(
        model=jt.ResNet(num_outputs=10, widths=(32, 64, 128), stem_pool=True),
        data=jt.DataConfig(name="cifar10", val_share=0.1),
        config=jt.Config(
            epochs=10,
            batch_size=128,
            schedule=jt.Schedule(kind="one_cycle"),
            augment=jt.Augment(crop=4, flip=True),
        ),
        hyper=jt.Hyper(learning_rate=1e-2, weight_decay=5e-2),
    )
