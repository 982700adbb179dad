"""Keras 3 on JAX: `compile` and `fit`, as its guide has them.

python benchmarks/peers/keras_fit.py --network mlp --data data
"""

import os

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
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    from keras import layers

    keras.utils.set_random_seed(work.seed)

    def dense(width: int) -> list[layers.Layer]:
        return [
            layers.Dense(width, use_bias=False, kernel_initializer="he_normal"),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            layers.Activation("relu"),
            layers.Dropout(DROPOUT_RATE),
        ]

    def conv(features: int) -> list[layers.Layer]:
        return [
            layers.Conv2D(features, 3, padding="same", use_bias=False, kernel_initializer="he_normal"),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            layers.Activation("relu"),
            layers.MaxPooling2D(2),
        ]

    hidden = [layers.Flatten(), *dense(512), *dense(512)]
    if work.network == "cnn":
        hidden = [*conv(32), *conv(64), layers.Flatten(), *dense(128)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *hidden, layers.Dense(10)])
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, work.num_steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], jit_compile=True
    )
    image, label = read_mnist(work.folder, "train", work.examples)
    images, labels = normalise(image)[..., None], label.astype("int32")
    whole = work.steps_per_epoch * work.batch_size

    def epochs():
        for _ in range(work.epochs):
            model.fit(images[:whole], labels[:whole], batch_size=work.batch_size, epochs=1, verbose=0)
            yield

    def accuracy() -> float:
        image, label = read_mnist(work.folder, "t10k")
        _, right = model.evaluate(normalise(image)[..., None], label.astype("int32"), batch_size=1000, verbose=0)
        return float(right)

    return Contestant(epochs(), accuracy)


if __name__ == "__main__":
    serve(make, ("fit",))
