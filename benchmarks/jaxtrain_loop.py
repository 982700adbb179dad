"""jaxtrain in the contest of `peers/`: the loop of `fit`, with its defaults.

python benchmarks/jaxtrain_loop.py --network mlp --data data

default   what `fit` does: chunks, sums, fetches, log points; several members as `parallel="auto"` lays them out
vmap      several members as one stack
loop      several members one after another on each device
bf16      the networks computed in bfloat16
bare      the hand-written loops of bare_mlp.py and bare_cnn.py, which are no part of jaxtrain
fixed     the same with a number of steps that is fixed when they are compiled
unrolled  the same, four steps at a time

lax, patches, windows and columns are the CNN with this form of convolution, several members as one stack; conv_forms.py
says what they are.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from contestant import DROPOUT_RATE, LEARNING_RATE, WEIGHT_DECAY, Contestant, Work, read_mnist, serve

CONVOLUTIONS = ("lax", "patches", "windows", "columns")
VERSIONS = ("default", "vmap", "loop", "bf16", *CONVOLUTIONS)  # of the framework, which make_framework knows


def make(work: Work) -> Contestant:
    """The training that `work` asks for."""
    return make_bare(work) if work.version in ("bare", "fixed", "unrolled") else make_framework(work)


def make_framework(work: Work) -> Contestant:
    """The loop of `fit`, an epoch at a time."""
    import statistics

    import jaxtrain as jt
    from jaxtrain.device import enable_compilation_cache, one_device_per_core
    from jaxtrain.log import Log, Logs
    from jaxtrain.members import make_group
    from jaxtrain.metrics import compute
    from jaxtrain.step import make_setting
    from jaxtrain.terminal import Terminal
    from jaxtrain.train import evaluate, fetch, train

    enable_compilation_cache()
    if work.members > 1:
        one_device_per_core(work.members)
    # A tenth is held out for validation, as always; what is trained on are as many as the others have.
    pool = read_mnist(work.folder, "train", work.examples * 10 // 9)
    data = jt.from_arrays(*pool, val_share=0.1, test=read_mnist(work.folder, "t10k"))
    # The others do not evaluate within an epoch; what the last one has of it is kept small.
    config = jt.Config(
        epochs=work.epochs, batch_size=work.batch_size, eval_every_epochs=work.epochs, train_eval_examples=128
    )
    hyper = jt.Hyper(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, dropout_rate=DROPOUT_RATE)
    parallel = "auto" if work.version in ("default", "bf16") else "loop" if work.version == "loop" else "vmap"
    seeds = range(work.seed, work.seed + work.members)
    setting = make_setting(make_network(work), data, config)
    if setting.steps_per_epoch != work.steps_per_epoch:
        raise SystemExit(f"{setting.steps_per_epoch} steps an epoch, where the others take {work.steps_per_epoch}")
    group = make_group(setting, data, seeds, hyper, parallel)

    def epochs():
        for epoch in range(1, work.epochs + 1):
            with Log(None, Terminal(quiet=True)) as log:
                train(group, log=Logs(log), until=epoch * work.steps_per_epoch)
            if epoch == 1:
                accuracy()  # the last epoch, which counts, evaluates: that is to be compiled in this one, too
            yield

    def accuracy() -> float:
        start = data.num_train + data.num_val
        sums = []
        for lane in group.lanes:
            weights = {"params": lane.state.params, "batch_stats": lane.state.batch_stats}
            sums.append(fetch(evaluate(lane, weights, start, start + data.num_test)))
        return statistics.fmean(float(compute(group.pick(sums, index))["accuracy"]) for index in range(work.members))

    return Contestant(epochs(), accuracy)


def make_network(work: Work):
    """That of `work`, in its dtype or with its form of convolution."""
    import jaxtrain as jt

    if work.version in CONVOLUTIONS:
        if work.network != "cnn":
            raise SystemExit(f"{work.version} is a form of convolution, and the {work.network} has none; take the cnn")
        from conv_forms import FormCNN

        return FormCNN(work.version)
    dtype = "bfloat16" if work.version == "bf16" else "float32"
    if work.network == "mlp":
        return jt.MLP(hidden=(512, 512), dtype=dtype)
    return jt.CNN(features=(32, 64), hidden=128, dtype=dtype)


def make_bare(work: Work) -> Contestant:
    """The yardstick: JAX and Optax by hand."""
    import bare_cnn
    import bare_mlp
    import jax.numpy as jnp

    parts = {"mlp": (bare_mlp.init_mlp, bare_mlp.apply_mlp), "cnn": (bare_cnn.init_cnn, bare_cnn.apply_cnn)}
    init, apply = parts[work.network]

    def read(split: str, count: int | None) -> bare_mlp.Data:
        image, label = read_mnist(work.folder, split, count)
        return bare_mlp.Data(jnp.asarray(image.reshape(len(image), -1)), jnp.asarray(label.astype("int32")))

    forms: dict[str, bare_mlp.Form] = {"bare": "traced", "fixed": "fixed", "unrolled": "unrolled"}
    data, last = read("train", work.examples), []

    def epochs():
        for _, state in bare_mlp.train_segments(
            init,
            apply,
            data,
            epochs=work.epochs,
            learning_rate=LEARNING_RATE,
            seed=work.seed,
            steps=work.steps_per_epoch,
            form=forms[work.version],
        ):
            last[:] = [state]
            yield

    return Contestant(epochs(), lambda: bare_mlp.evaluate(apply, last[0], read("t10k", None)))


if __name__ == "__main__":
    serve(make, (*VERSIONS, "bare", "fixed", "unrolled"))
