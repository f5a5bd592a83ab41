"""Whole training steps, forward and backward included, of dense networks.

In the process of the JAX backend a jitted JAX step, ours against optax; in that of TensorFlow
Keras's model.fit as it runs by default, ours against stock.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from benchmarks.interleave import interleave
from benchmarks.records import MILLISECONDS, Record, records_of

TURNS = 9
STEPS = 8
BATCH = 64
NETWORKS = ((12, 1024), (40, 512), (4, 2048))  # how many layers, of which width
CASES_MEASURED = len(NETWORKS)
BACKEND = keras.backend.backend()


def measure() -> Iterator[list[Record]]:
    """A list of records for each network, on the backend of this process."""
    contenders, section = {
        "jax": (jax_contenders, "Training step, JAX, jitted and donated"),
        "tensorflow": (keras_contenders, "Training step, Keras on tensorflow, model.fit"),
    }[BACKEND]
    for layers, width in NETWORKS:
        rng = np.random.default_rng(0)
        x, y = (rng.standard_normal((STEPS * BATCH, width), np.float32) for _ in range(2))
        turns = interleave(contenders(layers, x, y), TURNS)
        case = f"{layers} dense layers of {width}, batch {BATCH}"
        yield records_of(section, case, layers * width**2, turns, scale=MILLISECONDS / STEPS)


def jax_contenders(layers: int, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], None]]:
    import jax  # noqa: PLC0415 - this backend's alone
    import jax.numpy as jnp  # noqa: PLC0415

    from benchmarks.donation import carrying  # noqa: PLC0415
    from benchmarks.jax_steps import OPTIMIZERS  # noqa: PLC0415

    def loss(params: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        for kernel in params:
            x = jnp.tanh(x @ kernel)
        return jnp.mean((x - y) ** 2)

    rng, width = np.random.default_rng(1), x.shape[1]
    shape = (width, width)
    kernels = [rng.standard_normal(shape, np.float32) / width**0.5 for _ in range(layers)]
    batches = list(zip(np.split(x, STEPS), np.split(y, STEPS), strict=True))

    def contender(optimizer: Any) -> Callable[[], None]:
        init, optimizer_step = optimizer

        def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
            return optimizer_step(jax.grad(loss)(params, x, y), state, params)

        compiled = jax.jit(step, donate_argnums=(0, 1))
        params = [jnp.array(kernel) for kernel in kernels]
        return carrying(compiled, (params, init(params)), batches)

    return {name: contender(optimizer) for name, optimizer in OPTIMIZERS.items()}


def keras_contenders(layers: int, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], None]]:
    from benchmarks.keras_steps import OPTIMIZERS  # noqa: PLC0415

    def contender(optimizer: Any) -> Callable[[], None]:
        width = x.shape[1]
        dense = [keras.layers.Dense(width, activation="tanh") for _ in range(layers)]
        model = keras.Sequential([keras.Input((width,)), *dense])
        model.compile(optimizer=optimizer(), loss="mse")
        return lambda: model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)

    return {name: contender(optimizer) for name, optimizer in OPTIMIZERS.items()}
