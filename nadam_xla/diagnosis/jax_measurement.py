"""The measurement in JAX: compiled steps, donated, on the default device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nadam_xla.diagnosis.facts import Measurement
from nadam_xla.diagnosis.measurement import ELEMENTS_OF_LIMIT, LIMIT, OURS, PARAMETERS, measure
from nadam_xla.jax import nadam, update_path


def find_out(found: Measurement) -> None:
    """Ours, optax's, and a plain pass over as much memory."""
    device = jax.local_devices()[0]
    found["framework"] = "jax"
    found["device"] = device.device_kind
    found["update"] = update_path().update
    ours, theirs = nadam(1e-3), optax.nadam(1e-3)

    def our_step(params: Any, state: Any, grads: Any) -> Any:
        return ours.apply(grads, state, params)

    def their_step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = theirs.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def plain_pass(x: Any) -> Any:
        return (x * 0.5 + 1.0,)

    params, grads = jnp.ones(PARAMETERS), jnp.ones(PARAMETERS)
    steps = 1 if device.platform == "cpu" else 16  # in which the time of a launch is lost
    turns = {
        OURS: _turn(our_step, (jnp.copy(params), ours.init(params)), grads, steps=steps),
        "optax.nadam": _turn(their_step, (params, theirs.init(params)), grads, steps=steps),
        LIMIT: _turn(plain_pass, (jnp.ones(ELEMENTS_OF_LIMIT),), steps=steps),
    }
    measure(found, turns, steps)


def _turn(
    step: Callable[..., Any], state: tuple[Any, ...], *fixed: Any, steps: int
) -> Callable[[], None]:
    """Steps in a row, each on what the one before has left."""
    compiled = jax.jit(step, donate_argnums=tuple(range(len(state))))

    def run() -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(*state, *fixed)
        jax.block_until_ready(state)

    return run
