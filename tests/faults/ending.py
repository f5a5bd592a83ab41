"""Programs that end while steps are running, with our optimizer and with stock's."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

Step = Callable[[], Any]

SIZE = 1 << 20


def jax_step(whose: str) -> Step:
    """A step whose result is not awaited."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import optax  # noqa: PLC0415

    nadam: Any = optax.nadam
    if whose == "ours":
        from nadam_xla.jax import nadam  # noqa: PLC0415
    tx = nadam(1e-3)
    params = [jnp.ones(SIZE) for _ in range(4)]
    carry = params, tx.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        grads = [jnp.sin(x) for x in params]
        if whose == "ours":
            return tx.apply(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def one() -> Any:
        nonlocal carry
        carry = step(*carry)
        return carry

    return one


def tensorflow_step(whose: str) -> Step:
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    make: Any = keras.optimizers.Nadam
    if whose == "ours":
        from nadam_xla.keras import Nadam as make  # noqa: N813, PLC0415
    optimizer = make(1e-3)
    variables = [tf.Variable(tf.ones(SIZE)) for _ in range(4)]
    optimizer.build(variables)

    @tf.function
    def step() -> None:
        optimizer.apply([tf.sin(v) for v in variables], variables)

    return step


def end_of_program(step: Step) -> None:
    step()


def sys_exit(step: Step) -> None:
    step()
    sys.exit(3)


def exception(step: Step) -> None:
    step()
    raise RuntimeError("the program's own")


def os_exit(step: Step) -> None:
    step()
    os._exit(4)


def daemon_thread(step: Step) -> None:
    """That goes on with steps while the interpreter is ending."""
    begun = threading.Event()

    def work() -> None:
        while True:
            step()
            begun.set()

    threading.Thread(target=work, daemon=True).start()
    begun.wait()


WAYS = {way.__name__: way for way in (end_of_program, sys_exit, exception, os_exit, daemon_thread)}
STEPS = {"jax": jax_step, "tensorflow": tensorflow_step}


def main(framework: str, whose: str, way: str) -> None:
    step = STEPS[framework](whose)
    step()  # compiles
    for _ in range(10):
        step()
    print("steps are running", flush=True)
    WAYS[way](step)
