"""Handwritten digits, and a dense network that learns them: what the examples train."""

from dataclasses import dataclass
from itertools import pairwise

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 0
WIDTHS = (64, 2048, 2048, 10)
BATCH = 64
EPOCHS = 5


@dataclass(frozen=True)
class Digits:
    """Images, flattened and scaled to [0, 1], and labels; and the order in which batches come."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The batches of all epochs, the same for every run."""
        rng = np.random.default_rng(SEED)
        steps = len(self.train_x) // BATCH
        orders = [rng.permutation(len(self.train_x))[: steps * BATCH] for _ in range(EPOCHS)]
        picks = np.concatenate(orders).reshape(-1, BATCH)
        return [(self.train_x[pick], self.train_y[pick]) for pick in picks]


def load() -> Digits:
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        (x / 16).astype(np.float32), y.astype(np.int32), test_size=0.2, random_state=SEED
    )
    return Digits(train_x, train_y, test_x, test_y)


def initial_params(seed: int = SEED) -> list[np.ndarray]:
    """Kernel and bias of each layer, in turn: He-normal and zeros."""
    rng = np.random.default_rng(seed)
    params = []
    for fan_in, fan_out in pairwise(WIDTHS):
        kernel = rng.normal(scale=np.sqrt(2 / fan_in), size=(fan_in, fan_out))
        params += [kernel.astype(np.float32), np.zeros(fan_out, np.float32)]
    return params


def logits(params: list[jax.Array], x: jax.Array) -> jax.Array:
    *hidden, last = zip(params[::2], params[1::2], strict=True)
    for kernel, bias in hidden:
        x = jax.nn.silu(x @ kernel + bias)
    return x @ last[0] + last[1]


def mean_loss(params: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()
