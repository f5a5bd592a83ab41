"""Whole training steps in Keras: ``model.fit`` on this process's backend, timed by the batch.

Ours against stock, with and without clipping by global norm, and on TensorFlow in each way in which
it compiles.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from benchmarks.keras_networks import NETWORKS, Network
from benchmarks.keras_steps import OPTIMIZERS
from benchmarks.records import MILLISECONDS, Record, records_of
from nadam_xla.diagnosis.interleave import interleave_figures

BACKEND = keras.backend.backend()
CLIPPING = {"": None, ", clipped by global norm": 1.0}


def measure() -> Iterator[list[Record]]:
    """The records of each network, clipped and not, in each way."""
    for name, network in NETWORKS.items():
        for how, norm in CLIPPING.items():
            for jit_compile in ways_of(network):
                compiled = "" if BACKEND == "jax" else f", jit_compile={jit_compile}"
                yield records_of(
                    f"Whole training step, Keras on {BACKEND}, model.fit{compiled}",
                    name + how,
                    network.build().count_params(),
                    interleave_figures(fits(network, norm, jit_compile), network.turns),
                    scale=MILLISECONDS,
                )


def ways_of(network: Network) -> tuple[Any, ...]:
    """The values of ``jit_compile``; on JAX everything is compiled."""
    return ("auto",) if BACKEND == "jax" else network.compiled_in


CASES_MEASURED = len(CLIPPING) * sum(len(ways_of(network)) for network in NETWORKS.values())


def fits(network: Network, norm: float | None, jit_compile: Any) -> dict[str, Callable[[], float]]:
    """Fits of each contender; each returns the seconds of its median batch."""
    rng = np.random.default_rng(0)
    x, y = (
        rng.standard_normal((network.batches * network.batch, *shape), np.float32)
        for shape in (network.input_shape, network.output_shape)
    )

    def contender(optimizer: Any) -> Callable[[], float]:
        model = network.build()
        model.compile(
            optimizer=optimizer(global_clipnorm=norm), loss="mse", jit_compile=jit_compile
        )

        def fit() -> float:
            clock = _Clock()
            model.fit(x, y, batch_size=network.batch, shuffle=False, verbose=0, callbacks=[clock])
            return statistics.median(clock.seconds)

        return fit

    return {name: contender(optimizer) for name, optimizer in OPTIMIZERS.items()}


class _Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """Times batches: an epoch lasts a second longer now and then, whatever is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if logs:
            float(logs["loss"])  # waits
        self.seconds.append(time.perf_counter() - self._begin)
