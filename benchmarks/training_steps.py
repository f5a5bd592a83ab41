"""A whole training step, forward and backward included: a dense network of four 2048-wide layers.

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
WIDTH = 2048
LAYERS = 4
CASES_MEASURED = 1
BACKEND = keras.backend.backend()
CASE = f"{LAYERS} dense layers of {WIDTH}, batch {BATCH}"


def measure() -> Iterator[list[Record]]:
    """One list of records, for the backend of this process."""
    contenders, section = {
        "jax": (jax_contenders, "Training step, JAX, jitted and donated"),
        "tensorflow": (keras_contenders, "Training step, Keras on tensorflow, model.fit"),
    }[BACKEND]
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((STEPS * BATCH, WIDTH), np.float32) for _ in range(2))
    turns = interleave(contenders(x, y), TURNS)
    yield records_of(section, CASE, LAYERS * WIDTH**2, turns, scale=MILLISECONDS / STEPS)


def jax_contenders(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], None]]:
    import jax  # noqa: PLC0415 - this backend's alone
    import jax.numpy as jnp  # noqa: PLC0415

    from benchmarks.donation import carrying  # noqa: PLC0415
    from benchmarks.jax_steps import OPTIMIZERS  # noqa: PLC0415

    def loss(params: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        for kernel in params:
            x = jnp.tanh(x @ kernel)
        return jnp.mean((x - y) ** 2)

    rng = np.random.default_rng(1)
    kernels = [rng.standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5 for _ in range(LAYERS)]
    batches = list(zip(np.split(x, STEPS), np.split(y, STEPS), strict=True))

    def contender(optimizer: Any) -> Callable[[], None]:
        init, optimizer_step = optimizer

        def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
            return optimizer_step(jax.grad(loss)(params, x, y), state, params)

        compiled = jax.jit(step, donate_argnums=(0, 1))
        params = [jnp.array(kernel) for kernel in kernels]
        return carrying(compiled, (params, init(params)), batches)

    return {name: contender(optimizer) for name, optimizer in OPTIMIZERS.items()}


def keras_contenders(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], None]]:
    from benchmarks.keras_steps import OPTIMIZERS  # noqa: PLC0415

    def contender(optimizer: Any) -> Callable[[], None]:
        layers = [keras.layers.Dense(WIDTH, activation="tanh") for _ in range(LAYERS)]
        model = keras.Sequential([keras.Input((WIDTH,)), *layers])
        model.compile(optimizer=optimizer(), loss="mse")
        return lambda: model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)

    return {name: contender(optimizer) for name, optimizer in OPTIMIZERS.items()}
