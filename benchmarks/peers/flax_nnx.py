"""Flax NNX, in the form of its MNIST tutorial: `nnx.jit` around one step, a Python loop, a MultiMetric.

python benchmarks/peers/flax_nnx.py --network cnn --data data
"""

from contestant import (
    DROPOUT_RATE,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Contestant,
    Work,
    normalise,
    read_mnist,
    serve,
)


def make(work: Work) -> Contestant:
    """The training that `work` asks for."""
    import jax
    import numpy as np
    import optax
    from flax import nnx

    init = nnx.initializers.he_normal()

    class Dense(nnx.Module):
        def __init__(self, size: int, width: int, rngs: nnx.Rngs) -> None:
            self.linear = nnx.Linear(size, width, use_bias=False, kernel_init=init, rngs=rngs)
            self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
            self.dropout = nnx.Dropout(DROPOUT_RATE, rngs=rngs)

        def __call__(self, x):
            return self.dropout(nnx.relu(self.norm(self.linear(x))))

    class Conv(nnx.Module):
        def __init__(self, channels: int, features: int, rngs: nnx.Rngs) -> None:
            self.conv = nnx.Conv(channels, features, (3, 3), use_bias=False, kernel_init=init, rngs=rngs)
            self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

        def __call__(self, x):
            return nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            cnn = work.network == "cnn"
            self.convs = nnx.List([Conv(1, 32, rngs), Conv(32, 64, rngs)] if cnn else [])
            sizes = [(7 * 7 * 64, 128)] if cnn else [(784, 512), (512, 512)]
            self.hidden = nnx.List([Dense(*size, rngs) for size in sizes])
            self.outputs = nnx.Linear(sizes[-1][1], 10, rngs=rngs)

        def __call__(self, x):
            for conv in self.convs:
                x = conv(x)
            x = x.reshape(x.shape[0], -1)
            for dense in self.hidden:
                x = dense(x)
            return self.outputs(x)

    model = Network(nnx.Rngs(work.seed))
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, work.num_steps)

    def matrices(params):
        return jax.tree.map(lambda x: x.ndim > 1, params)

    optimizer = nnx.Optimizer(model, optax.adamw(schedule, weight_decay=WEIGHT_DECAY, mask=matrices), wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))

    def loss_fn(model, image, label):
        logits = model(image)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), logits

    @nnx.jit
    def train_step(model, optimizer, metrics, image, label):
        (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, image, label)
        metrics.update(loss=loss, logits=logits, labels=label)
        optimizer.update(model, grads)

    @nnx.jit
    def right(model, image, label):
        return (model(image).argmax(-1) == label).sum()

    image, label = read_mnist(work.folder, "train", work.examples)
    images, labels = normalise(image)[..., None], label.astype(np.int32)
    rng = np.random.default_rng(work.seed)

    def epochs():
        for _ in range(work.epochs):
            model.train()
            order = rng.permutation(len(images))
            for start in range(0, work.steps_per_epoch * work.batch_size, work.batch_size):
                index = order[start : start + work.batch_size]
                train_step(model, optimizer, metrics, images[index], labels[index])
            metrics.compute()
            metrics.reset()
            yield

    def accuracy() -> float:
        image, label = read_mnist(work.folder, "t10k")
        test, labels = normalise(image)[..., None], label.astype(np.int32)
        model.eval()
        parts = range(0, len(test), 1000)
        return sum(int(right(model, test[i : i + 1000], labels[i : i + 1000])) for i in parts) / len(test)

    return Contestant(epochs(), accuracy)


if __name__ == "__main__":
    serve(make, ("loop",))
