"""Real data, and networks that learn it: the demo's digits, and characters of Python's own sources.

A seed has its own initial parameters and its own order of the batches, the same ones in every
training.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples import digits_network

SYMBOLS = 128  # those of ASCII; what is not one of them is a question mark
CONTEXT = 64  # characters
HELD_OUT = 10  # every tenth file


@dataclass(frozen=True)
class Task:
    """Something to learn.

    Attributes:
        name: as tables and pictures call it.
        initial_params: those of a seed, in float32.
        loss: the mean of a batch, of parameters and a batch.
        picks: the batches of a seed, of so many steps: where their examples are in the data.
        batch: the one at such places, of the training data.
        validation: a batch that is not trained on.
        steps: how many there are.
        interval: the steps from one point of a curve to the next.
        learning_rate: the largest.
    """

    name: str
    initial_params: Callable[[int], Any]
    loss: Callable[[Any, Any], jax.Array]
    picks: Callable[[int, int], np.ndarray]
    batch: Callable[[jax.Array], Any]
    validation: Any
    steps: int
    interval: int
    learning_rate: float


def digits() -> Task:
    """The network and the batches of ``examples``, for more epochs."""
    data = digits_network.load()
    train_x, train_y = jnp.asarray(data.train_x), jnp.asarray(data.train_y)
    epoch = len(data.train_x) // digits_network.BATCH

    def picks(seed: int, steps: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(len(data.train_x)) for _ in range(-(-steps // epoch))]
        kept = [order[: epoch * digits_network.BATCH] for order in orders]
        return np.concatenate(kept).reshape(-1, digits_network.BATCH)[:steps].astype(np.int32)

    return Task(
        name="digits",
        initial_params=digits_network.initial_params,
        loss=lambda params, batch: digits_network.mean_loss(params, *batch),
        picks=picks,
        batch=lambda pick: (train_x[pick], train_y[pick]),
        validation=(jnp.asarray(data.test_x), jnp.asarray(data.test_y)),
        steps=10 * epoch,
        interval=epoch,
        learning_rate=5e-4,
    )


def characters() -> Task:
    """A transformer that reads the sources of Python's standard library."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    text = symbols(f for number, f in enumerate(files) if number % HELD_OUT)
    held_out = symbols(files[::HELD_OUT])
    on_device = jnp.asarray(text)
    module = Transformer()
    init = jax.jit(module.init)
    batch = 8

    def picks(seed: int, steps: int) -> np.ndarray:
        starts = np.random.default_rng(seed).integers(len(text) - CONTEXT, size=(steps, batch))
        return starts.astype(np.int32)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        logits = module.apply(params, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    starts = np.linspace(0, len(held_out) - CONTEXT - 1, 256).astype(np.int32)
    return Task(
        name="characters",
        initial_params=lambda seed: init(jax.random.key(seed), jnp.zeros((1, CONTEXT), jnp.int32)),
        loss=loss,
        picks=picks,
        batch=partial(windows, on_device),
        validation=windows(jnp.asarray(held_out), jnp.asarray(starts)),
        steps=2000,
        interval=100,
        learning_rate=1e-2,
    )


def symbols(files: Iterable[Path]) -> np.ndarray:
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    return np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int32)


def windows(text: jax.Array, starts: jax.Array) -> jax.Array:
    """Of each start, the symbols of a context and the one behind it."""
    return text[starts[:, None] + jnp.arange(CONTEXT + 1)]


class Transformer(nn.Module):
    """Two blocks of width 64, each symbol seeing those before it."""

    width: int = 64
    heads: int = 4
    blocks: int = 2

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        places = self.param("places", nn.initializers.normal(0.02), (CONTEXT, self.width))
        x = nn.Embed(SYMBOLS, self.width)(text) + places
        mask = nn.make_causal_mask(text)
        for _ in range(self.blocks):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(h, mask=mask)
            h = nn.Dense(4 * self.width)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(h))
        return nn.Dense(SYMBOLS)(nn.LayerNorm()(x))


TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "characters": characters}
