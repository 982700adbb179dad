"""Write a checkpoint to keep: later versions must restore it bit for bit. Once for each format, never again.

    python tests/checkpoints/write.py tests/checkpoints/format-1

The folder gets `00000003/`, as `jaxtrain.checkpoint.Store` writes it, and `expected.npz`: each leaf by its path, read
from the device and not from the checkpoint, a PRNG key as its key data. The state is that of a small network after
three steps: an MLP with BatchNorm and dropout, trained by Adam, with an average of its parameters. format-1 was written
by jaxtrain 0.1.0 with jax 0.10.2 and orbax-checkpoint 0.12.8.
"""

import sys
from pathlib import Path

import jax
import numpy as np

import jaxtrain as jt
from jaxtrain.checkpoint import Store
from jaxtrain.leaves import named_leaves, to_host
from jaxtrain.members import Group, make_group
from jaxtrain.step import make_setting
from jaxtrain.train import checkpoint_tree

NUM_STEPS = 3


def make() -> Group:
    """The run before its first step."""
    random = np.random.default_rng(0)
    data = jt.from_arrays(random.integers(0, 255, (40, 2, 2, 1), dtype=np.uint8), np.arange(40) % 3)
    config = jt.Config(epochs=2, batch_size=8, ema_decay=0.9, plateau=jt.Plateau(), early_stopping=jt.EarlyStopping())
    hyper = jt.Hyper(learning_rate=1e-2, weight_decay=1e-2, dropout_rate=0.2, clip_norm=1.0)
    return make_group(make_setting(jt.MLP(num_outputs=3, hidden=(4,)), data, config), data, [7], hyper)


def main(folder: Path) -> None:
    group = make()
    (lane,) = group.lanes
    lane.advance(0, 0, NUM_STEPS)
    tree = checkpoint_tree(group)
    with Store(folder) as store:
        store.save(NUM_STEPS, tree, {"epoch": 0, "seeds": [7]})
    (folder / ".lock").unlink()
    for path in folder.rglob("commit_success.txt"):  # which nobody reads; Orbax writes in it where the folder lay
        path.write_text(path.read_text().replace(f"{folder.absolute().parent}/", ""))
    np.savez_compressed(folder / "expected.npz", **to_host(named_leaves(jax.device_get(tree))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
