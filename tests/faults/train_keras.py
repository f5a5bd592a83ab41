"""A training by ``fit`` under BackupAndRestore that goes on where it was ended."""

import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from nadam_xla.keras import Nadam

WORDS, WIDTH, BATCH, BATCHES = 512, 128, 8, 4

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "float32": lambda: Nadam(1e-2, weight_decay=0.01, use_ema=True, global_clipnorm=1.0),
    "narrow": lambda: Nadam(
        1e-2,
        momentum_dtype="bfloat16",
        velocity_dtype="float16",
        rounding="stochastic",
        seed=3,
        master="correction",
        sparse="lazy",
    ),
    "codes": lambda: Nadam(1e-2, momentum_dtype="blockwise8", velocity_dtype="blockwise8"),
}


def model_of(storage: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    dtype = "bfloat16" if storage == "narrow" else "float32"
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(WORDS, WIDTH, dtype=dtype),
            layers.GlobalAveragePooling1D(dtype=dtype),
            layers.Dense(WIDTH, "tanh", dtype=dtype),
            layers.Dense(3, dtype=dtype),
        ]
    )
    model.compile(optimizer=OPTIMIZERS[storage](), loss="mse")
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    words = rng.integers(0, WORDS, (BATCH * BATCHES, 4)).astype("int32")
    return words, rng.normal(size=(len(words), 3)).astype("float32")


def digest(model: keras.Model) -> str:
    """Of every bit of the model's variables and of the optimizer's."""
    bits = hashlib.sha256()
    for variable in [*model.variables, *model.optimizer.variables]:
        bits.update(ops.convert_to_numpy(variable.value).tobytes())
    return bits.hexdigest()


class Markers(keras.callbacks.Callback):
    """Tells where the training goes on, and of each epoch that is made before it is kept."""

    begun = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self.begun:
            tell("resumed", self.model)
        self.begun = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        tell("made", self.model)


def tell(what: str, model: keras.Model) -> None:
    print(what, int(model.optimizer.iterations), digest(model), flush=True)


def fit(folder: str, storage: str, epochs: int, double: bool) -> None:
    """Until so many epochs are made, each with a backup, of which there may be two."""
    backup = keras.callbacks.BackupAndRestore(
        folder, double_checkpoint=double, delete_checkpoint=False
    )
    model, (x, y) = model_of(storage), data()
    callbacks = [Markers(), backup]
    model.fit(x, y, BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)


def loop(folder: str, storage: str, epochs: int) -> None:
    """TensorFlow's own loop, with a checkpoint of each epoch."""
    import tensorflow as tf  # noqa: PLC0415

    model, (x, y) = model_of(storage), data()
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)  # or only the first step would restore its variables
    done = tf.Variable(0)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, done=done)
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=2)
    manager.restore_or_initialize()

    @tf.function
    def step(words: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            error = tf.cast(model(words, training=True), tf.float32) - labels
            mean = tf.reduce_mean(error**2)
        optimizer.apply(tape.gradient(mean, model.trainable_variables), model.trainable_variables)

    tell("resumed", model)
    while int(done) < epochs:
        for batch in range(BATCHES):
            rows = slice(batch * BATCH, (batch + 1) * BATCH)
            step(x[rows], y[rows])
        done.assign_add(1)
        tell("made", model)
        manager.save()


def main(way: str, **arguments: Any) -> None:
    {"fit": fit, "loop": loop}[way](**arguments)
