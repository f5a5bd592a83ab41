"""Whole training steps, forward and backward included, with and without clipping by global norm.

In the process of the JAX backend jitted JAX steps, ours against optax, and Keras's model.fit; in
that of TensorFlow Keras's model.fit in each way in which it compiles, ours against stock.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks.interleave import Turns, interleave, interleave_figures
from benchmarks.keras_steps import OPTIMIZERS as KERAS_OPTIMIZERS
from benchmarks.records import MILLISECONDS, OURS, Record, records_of

TURNS = 9
BATCH = 64
BATCHES = 12  # of a fit
DENSE = ((12, 1024), (40, 512), (4, 2048))  # how many layers, of which width
CLIPPING = {"": None, ", clipped by global norm": 1.0}
BACKEND = keras.backend.backend()
COMPILED_IN = {"jax": ("auto",), "tensorflow": ("auto", True, False)}[BACKEND]
NETWORKS_IN_JAX = len(DENSE) + 3 if BACKEND == "jax" else 0
CASES_MEASURED = len(CLIPPING) * (2 * NETWORKS_IN_JAX + len(DENSE) * len(COMPILED_IN))


def measure() -> Iterator[list[Record]]:
    """A list of records for each case of this process's backend."""
    if BACKEND == "jax":
        yield from measure_jax()
    for layers, width in DENSE:
        for how, norm in CLIPPING.items():
            for jit_compile in COMPILED_IN:
                compiled = "" if BACKEND == "jax" else f", jit_compile={jit_compile}"
                yield records_of(
                    f"Whole training step, Keras on {BACKEND}, model.fit{compiled}",
                    f"{layers} dense layers of {width}, batch {BATCH}{how}",
                    layers * width * (width + 1),
                    interleave_figures(fits(layers, width, norm, jit_compile), TURNS),
                    scale=MILLISECONDS,
                )


def measure_jax() -> Iterator[list[Record]]:
    """For each network the times, and the temporary memory of the compiled step."""
    from benchmarks import networks  # noqa: PLC0415 - this backend's alone

    makers: list[Callable[[], Any]] = [
        *(partial(networks.dense, *of, BATCH) for of in DENSE),
        partial(networks.transformer, scanned=False),
        partial(networks.transformer, scanned=True),
        networks.residual,
    ]
    for make in makers:
        network = make()
        size = sum(x.size for x in keras.tree.flatten(network.params))
        for how, norm in CLIPPING.items():
            runs, temporary = jax_steps(network, norm)
            turns = interleave(runs, TURNS)
            name, scale = network.name + how, MILLISECONDS / network.steps
            section = "Whole training step, JAX, jitted and donated"
            yield records_of(section, name, size, turns, scale=scale)
            held = Turns({name: [float(b)] * 2 for name, b in temporary.items()})
            yield records_of(
                section + ": temporary memory", name, size, held, scale=2**-20, unit="MiB"
            )


def jax_steps(
    network: Any, norm: float | None
) -> tuple[dict[str, Callable[[], None]], dict[str, int]]:
    """A turn of each contender, and the bytes that XLA sets aside for its step."""
    import jax  # noqa: PLC0415 - this backend's alone
    import optax  # noqa: PLC0415

    from benchmarks.donation import carrying  # noqa: PLC0415
    from nadam_xla.jax import nadam  # noqa: PLC0415

    def chained(tx: Any) -> tuple[Any, Any]:
        chain = tx if norm is None else optax.chain(optax.clip_by_global_norm(norm), tx)

        def take(grads: Any, state: Any, params: Any) -> Any:
            updates, state = chain.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return chain.init, take

    ours = nadam(1e-3)
    folded = ours.apply if norm is None else partial(clipped_step, norm)
    contenders = {
        OURS: (ours.init, folded),
        "optax": chained(optax.nadam(1e-3)),
        "nadam_xla as optax's": chained(ours),
    }
    runs, temporary = {}, {}
    for name, (init, take) in contenders.items():

        def step(params: Any, state: Any, x: Any, y: Any, take: Any = take) -> Any:
            return take(jax.grad(network.loss)(params, x, y), state, params)

        params = jax.tree.map(jax.numpy.array, network.params)
        carry, batch = (params, init(params)), (network.inputs, network.targets)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, *batch).compile()
        temporary[name] = compiled.memory_analysis().temp_size_in_bytes
        runs[name] = carrying(compiled, carry, [batch] * network.steps)
    return runs, temporary


def clipped_step(norm: float, grads: Any, state: Any, params: Any) -> Any:
    """The step of ``nadam(1e-3)`` that multiplies gradients as it reads them."""
    import jax.numpy as jnp  # noqa: PLC0415 - this backend's alone

    from nadam_xla.coefficients import constant_momentum, nadam  # noqa: PLC0415
    from nadam_xla.jax import NadamState, nadam_update, sum_squares  # noqa: PLC0415

    total = sum(keras.tree.flatten(sum_squares(grads)))
    b1, b2, count = 0.9, 0.999, state.count + 1
    row = nadam(
        learning_rate=1e-3,
        momentum=constant_momentum(b1, count),
        b1=b1,
        b2=b2,
        b2_power=b2**count,
        eps=1e-8,
    )._replace(grad_scale=jnp.minimum(1.0, norm / jnp.sqrt(total)))
    params, mu, nu = nadam_update(row, params, grads, state.mu, state.nu)
    return params, NadamState(count, mu, nu, None)


def fits(
    layers: int, width: int, norm: float | None, jit_compile: Any
) -> dict[str, Callable[[], float]]:
    """Fits of each contender; each returns the seconds of its median batch."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((BATCHES * BATCH, width), np.float32) for _ in range(2))

    def contender(optimizer: Any) -> Callable[[], float]:
        dense = [keras.layers.Dense(width, activation="tanh") for _ in range(layers)]
        model = keras.Sequential([keras.Input((width,)), *dense])
        model.compile(
            optimizer=optimizer(global_clipnorm=norm), loss="mse", jit_compile=jit_compile
        )

        def fit() -> float:
            clock = _Clock()
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[clock])
            return statistics.median(clock.seconds)

        return fit

    return {name: contender(optimizer) for name, optimizer in KERAS_OPTIMIZERS.items()}


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
