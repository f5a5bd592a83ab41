"""JAX: how long a donated step takes to trace and compile, against the number of leaves."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from benchmarks.jax_steps import OPTIMIZERS, Optimizer
from benchmarks.records import MILLISECONDS, Record, records_of
from nadam_xla.diagnosis.interleave import interleave

TURNS = 3
LENGTH = 64
LEAVES = (10, 100, 400, 1000)
CASES_MEASURED = len(LEAVES)


def measure() -> Iterator[list[Record]]:
    """The records of each number of leaves."""
    for leaves in LEAVES:
        contenders = {name: compilation(o, leaves) for name, o in OPTIMIZERS.items()}
        yield records_of(
            "JAX, trace and compile one step",
            f"{leaves} leaves of {LENGTH}",
            leaves * LENGTH,
            interleave(contenders, TURNS),
            scale=MILLISECONDS,
            unit="ms",
        )


def compilation(optimizer: Optimizer, leaves: int) -> Callable[[], None]:
    init, step = optimizer
    params = [jnp.ones(LENGTH)] * leaves
    state = init(params)

    def run() -> None:
        # A new function each time, which JAX has not compiled yet.
        compiled = jax.jit(lambda p, s, g: step(g, s, p), donate_argnums=(0, 1))
        compiled.lower(params, state, params).compile()

    return run
