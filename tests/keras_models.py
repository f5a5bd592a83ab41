"""Small Keras models and data, the same whenever they are made, and ways to train them."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

BACKEND = keras.backend.backend()
BATCH = 8
BATCHES = 12
WORDS = 32  # of the vocabulary: as many as a batch has, so that each may be there once

against_stock = pytest.mark.skipif(
    BACKEND == "torch",
    reason="Keras's own Nadam for torch multiplies its momentum product twice a step",
)

Batch = tuple[np.ndarray, np.ndarray]


def dense() -> keras.Model:
    """Two layers, four variables."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, "tanh", name="a"), layers.Dense(3, name="b")],
        name="model",
    )


def embedding(width: int = 6) -> keras.Model:
    """An embedding of four words, a projection, and one vector for them all."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((BATCH // 2,)),
            layers.Embedding(WORDS, width, name="words"),
            layers.EinsumDense("abc,cd->abd", (BATCH // 2, 5), name="projection"),
            layers.Flatten(),
            layers.Dense(3, name="b"),
        ],
        name="model",
    )


def compiled(model: keras.Model, optimizer: Any, **arguments: Any) -> keras.Model:
    """The model, ready to train; the arguments are those of ``compile``."""
    model.compile(optimizer=optimizer, loss="mse", **arguments)
    return model


def batches() -> list[Batch]:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(BATCH, 8)), rng.normal(size=(BATCH, 3))) for _ in range(BATCHES)]
    return [(x.astype("f"), y.astype("f")) for x, y in pairs]


def batches_of_words() -> list[Batch]:
    """Each word once in each batch."""
    rng = np.random.default_rng(0)
    return [(rng.permutation(WORDS).reshape(BATCH, -1), y) for _, y in batches()]


def fit(
    model: keras.Model, epochs: int = 3, data: Callable[[], list[Batch]] = batches, **arguments: Any
) -> list[float]:
    """The mean losses of the epochs."""
    x, y = (np.concatenate(part) for part in zip(*data(), strict=True))
    history = model.fit(
        x, y, epochs=epochs, batch_size=BATCH, shuffle=False, verbose=0, **arguments
    )
    return history.history["loss"]


def numpy_of(values: Sequence[Any]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(ops.convert_to_tensor(v)) for v in values]


def assert_all_close(a: Sequence[Any], b: Sequence[Any], rtol: float = 2e-5) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol / 10)
