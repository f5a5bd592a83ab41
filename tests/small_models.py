"""Three small real Keras models, each with what it is trained on."""

import argparse
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

_VOCABULARY = 128
_WINDOW = 16
_WIDTH = 16


class SmallModel(NamedTuple):
    """A model that gives logits, and its examples: inputs and labels."""

    build: Callable[[], keras.Model]
    examples: Callable[[], tuple[np.ndarray, np.ndarray]]


class RootMeanSquareNormalization(layers.Layer):
    """Over the last axis, with a gain. Keras's own on JAX compute in float32, never in float64."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.gamma = self.add_weight(shape=input_shape[-1:], initializer="ones", name="gamma")

    def call(self, inputs: Any) -> Any:
        mean = ops.sum(inputs * inputs, axis=-1, keepdims=True) / inputs.shape[-1]
        return self.gamma * inputs / ops.sqrt(mean + 1e-6)


def dense() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(32, "tanh"),
            layers.Dense(10),
        ]
    )


def convolutional() -> keras.Model:
    """Without kinks: at one, two trainings that differ by a rounding part for good."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            RootMeanSquareNormalization(),
            layers.Activation("silu"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 3, activation="silu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def transformer() -> keras.Model:
    """One block that predicts each next character."""
    characters = keras.Input((_WINDOW,), dtype="int32")
    positions = layers.Embedding(_WINDOW, _WIDTH)(ops.arange(_WINDOW))
    x = layers.Embedding(_VOCABULARY, _WIDTH)(characters) + positions
    y = RootMeanSquareNormalization()(x)
    # Dropout makes Keras compute the attention itself, in the model's dtype.
    attention = layers.MultiHeadAttention(2, _WIDTH // 2, dropout=0.1, use_bias=False, seed=1)
    x = x + attention(y, y, use_causal_mask=True)
    y = RootMeanSquareNormalization()(x)
    x = x + layers.Dense(_WIDTH)(layers.Dense(2 * _WIDTH, "gelu")(y))
    return keras.Model(characters, layers.Dense(_VOCABULARY)(RootMeanSquareNormalization()(x)))


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    loaded = load_digits()
    return loaded.images[..., None] / 16, loaded.target


@cache
def source_text() -> tuple[np.ndarray, np.ndarray]:
    """Windows of a module of the standard library, in an order of their own, and what follows."""
    text = np.frombuffer(inspect.getsource(argparse).encode("ascii", "ignore"), np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(text.astype("int32"), _WINDOW + 1)
    windows = np.random.default_rng(0).permutation(windows)[:8192]
    return windows[:, :-1], windows[:, 1:]


SMALL_MODELS = {
    "dense": SmallModel(dense, digits),
    "convolutional": SmallModel(convolutional, digits),
    "transformer": SmallModel(transformer, source_text),
}
