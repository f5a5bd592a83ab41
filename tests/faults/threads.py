"""Optimizers that are stepped by threads of their own, which race for every first use."""

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

THREADS, STEPS, SHAPE = 6, 4, (80, 128)
NARROW = {"rounding": "stochastic", "master": "correction"}


def of_jax(number: int) -> list[Any]:
    """What training leaves, half of it without ``jit``."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    from nadam_xla.jax import nadam  # noqa: PLC0415

    kinds: list[tuple[str, dict[str, Any]]] = [
        ("float32", {}),
        ("bfloat16", {"mu_dtype": "bfloat16", "nu_dtype": "float16", "seed": number, **NARROW}),
        ("float32", {"mu_dtype": "blockwise8", "nu_dtype": "blockwise8"}),
    ]
    dtype, storage = kinds[number % 3]
    tx = nadam(1e-2 * (1 + number), **storage)
    params = {"w": jnp.asarray(start(number), dtype)}
    state = tx.init(params)
    step = tx.apply if number % 2 else jax.jit(tx.apply)
    for _ in range(STEPS):
        params, state = step(params, state, params)
    return jax.tree.leaves((params, state))


def of_keras(number: int) -> list[Any]:
    """What training leaves, on TensorFlow half of it in a graph."""
    import keras  # noqa: PLC0415

    from nadam_xla.keras import Nadam  # noqa: PLC0415

    kinds: list[tuple[str, dict[str, Any]]] = [
        ("float32", {}),
        ("bfloat16", {"momentum_dtype": "bfloat16", "seed": number, **NARROW}),
        ("float32", {"momentum_dtype": "blockwise8", "velocity_dtype": "blockwise8"}),
    ]
    dtype, storage = kinds[number % 3]
    optimizer = Nadam(1e-2 * (1 + number), **storage)
    variable = keras.Variable(start(number), dtype=dtype)
    optimizer.build([variable])
    grad = keras.ops.cast(start(number + 1), dtype)

    def step() -> None:
        optimizer.apply([grad], [variable])

    if keras.backend.backend() == "tensorflow" and number % 2:
        import tensorflow as tf  # noqa: PLC0415

        step = tf.function(step)
    for _ in range(STEPS):
        step()
    return [keras.ops.convert_to_numpy(v.value) for v in [variable, *optimizer.variables]]


def start(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=SHAPE).astype("float32")


def digest(arrays: list[Any]) -> str:
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in arrays)).hexdigest()


def at_once(train: Callable[[int], list[Any]]) -> list[str]:
    """All of them in threads, which Python lets take turns as often as it can."""
    sys.setswitchinterval(1e-6)
    ready = threading.Barrier(THREADS)
    digests = ["failed"] * THREADS

    def run(number: int) -> None:
        ready.wait()
        digests[number] = digest(train(number))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return digests


def main(of: str, in_threads: bool) -> None:
    train = {"jax": of_jax, "keras": of_keras}[of]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    digests = at_once(train) if in_threads else [digest(train(i)) for i in range(THREADS)]
    print(*digests, sep="\n", flush=True)
