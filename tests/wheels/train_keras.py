"""Trains with Keras on TensorFlow, and fails where the step is not fused and in place.

A program of its own, so that an environment needs nothing but the wheel and the two to run it.
"""

import os
import warnings

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from nadam_xla.keras import Nadam

CALL = 'custom_call_target="nadam_xla_update_v2"'
WIDTH = 64

# Where the fused step cannot run, the optimizer warns and takes Keras's own.
warnings.filterwarnings("error", message=".*own update")

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(256, WIDTH)).astype("float32")
model = keras.Sequential([keras.layers.Dense(WIDTH, activation="tanh") for _ in range(3)])
model.compile(optimizer=Nadam(1e-2), loss="mse")
losses = model.fit(x, np.full_like(x, 0.5), epochs=20, verbose=0).history["loss"]
assert losses[-1] < 0.1 * losses[0], f"the loss does not fall: {losses[0]} to {losses[-1]}"

variables = [v.value for v in model.trainable_variables]


@tf.function(jit_compile=True)
def step(grads):
    model.optimizer.apply(grads, model.trainable_variables)


grads = [tf.ones_like(v) for v in variables]
text = step.experimental_get_compiler_ir(grads)(stage="optimized_hlo")
assert CALL in text, "the compiled step does not call the kernel"
aliases = text.split("entry_computation_layout")[0].count("-alias)")
assert aliases >= 3 * len(variables), f"{aliases} results keep the memory of their argument"
print(tf.__version__, keras.__version__)
