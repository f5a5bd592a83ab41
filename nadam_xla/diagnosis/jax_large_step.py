"""A step of JAX's with a large temporary block."""

from typing import Any

import jax
import jax.numpy as jnp

from nadam_xla.diagnosis.facts import Framework
from nadam_xla.diagnosis.memory import SIDE, large_step


def find_out(found: Framework) -> None:
    """Its page faults, where steps run on the CPU."""
    if jax.default_backend() != "cpu":
        return
    update = jax.jit(_update, donate_argnums=0)
    params, rows = jnp.ones((SIDE, SIDE)), jnp.ones((8, SIDE))

    def step() -> None:
        nonlocal params
        params = jax.block_until_ready(update(params, rows))

    found["large_step"] = large_step(step)


def _update(params: Any, rows: Any) -> Any:
    """The whole gradient has to be there before any of it is used."""
    grads = rows.T @ rows
    return params - grads / jnp.linalg.norm(grads)
