"""Keras on TensorFlow: convolution and attention, whose gradients a GPU lays out otherwise."""

from importlib.util import find_spec

import pytest
from processes import output_of

if find_spec("tensorflow") is None or find_spec("keras") is None:
    pytest.skip("there is no TensorFlow or no Keras here", allow_module_level=True)

TRAIN = """
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from nadam_xla.keras import Nadam

warnings.filterwarnings("error", message=".*Keras's own update")
tf.config.experimental.enable_tensor_float_32_execution(False)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 8, 8, 3)).astype("f"), rng.normal(size=(64, 10)).astype("f")


def trained(kind):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    h = layers.Conv2D(16, 3, padding="same", activation="tanh")(inputs)
    h = layers.Reshape((64, 16))(h)
    h = layers.Add()([h, layers.MultiHeadAttention(num_heads=4, key_dim=4)(h, h)])
    model = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(h)))
    model.compile(optimizer=kind(1e-2), loss="mse", jit_compile=sys.argv[1] == "True")
    losses = model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0).history["loss"]
    return losses, model.get_weights()


(losses, weights), (of_stock, weights_of_stock) = map(trained, (Nadam, keras.optimizers.Nadam))
assert losses == sorted(losses, reverse=True)
np.testing.assert_allclose(losses, of_stock, rtol=1e-3)
for a, b in zip(weights, weights_of_stock, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)
"""


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_convolution_and_attention_train_as_with_stock(jit_compile: bool) -> None:
    # This process's JAX has taken most of a GPU's memory.
    environment = {"KERAS_BACKEND": "tensorflow", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    output_of(TRAIN, jit_compile, environment=environment)
