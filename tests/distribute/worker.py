"""Trains under MultiWorkerMirroredStrategy, as one of the processes that TF_CONFIG names.

Run with the optimizer's arguments as JSON, a dictionary for each training. Prints, as JSON, for
each: the loss of each step, and what the parameters and the optimizer's variables have become. That
Keras's own update runs is an error.

It is a loop of its own because Keras 3.15 fails in `fit` under this strategy, with any optimizer:
`TensorFlowTrainer._maybe_symbolic_build` reduces a batch that is no tensor.
"""

import json
import sys
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nadam_xla.keras import Nadam

STEPS, BATCH = 12, 8


def main(trainings: str) -> None:
    warnings.filterwarnings("error", ".*Keras's own update")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    print(json.dumps([train(strategy, arguments) for arguments in json.loads(trainings)]))


def train(strategy: tf.distribute.Strategy, arguments: dict[str, Any]) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.Input((8,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(3)]
        model = keras.Sequential(layers)
        optimizer = Nadam(1e-2, **arguments)
        optimizer.build(model.trainable_variables)

    def replica_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x) - y)) / BATCH
            scaled = optimizer.scale_loss(loss)
        grads = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
        return loss

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(replica_step, args=(x, y)), axis=None)

    rng = np.random.default_rng(0)
    rows = tuple(rng.normal(size=(STEPS * BATCH, n)).astype("f") for n in (8, 3))
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(BATCH)
    losses = [float(step(x, y)) for x, y in strategy.experimental_distribute_dataset(batches)]
    variables = [*model.trainable_variables, *optimizer.variables]
    return {
        "losses": losses,
        "variables": [np.asarray(v.numpy(), "float64").ravel().tolist() for v in variables],
    }


if __name__ == "__main__":
    main(sys.argv[1])
