"""JAX: compiled loops of steps, and one call a step with and without donation, against optax."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.interleave import interleave
from benchmarks.records import OURS, Record, records_of
from benchmarks.shapes import CASES, Shapes, elements
from nadam_xla import _native_testing
from nadam_xla.jax import nadam

TURNS = 11
ELEMENTS_IN_TURN = 2**28  # what one turn updates in all, whatever the case
STEPS_IN_LOOP = (10, 400)  # at least and at most

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
Optimizer = tuple[Callable[[Any], Any], Step]

_ours = nadam(1e-3)
_theirs = optax.nadam(1e-3)


def _optax_step(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    updates, state = _theirs.update(grads, state, params)
    return optax.apply_updates(params, updates), state


OPTIMIZERS: dict[str, Optimizer] = {
    OURS: (_ours.init, _ours.apply),
    "optax": (_theirs.init, _optax_step),
}
FLOOR: Optimizer = (_ours.init, lambda grads, state, params: (params, state))


class Leaves:
    """Parameters and gradients of a case."""

    def __init__(self, shapes: Shapes) -> None:
        rng = np.random.default_rng(0)
        self.params, self.grads = (
            [jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes] for _ in range(2)
        )

    def start(self, optimizer: Optimizer) -> tuple[Any, Any]:
        """Parameters to donate, and a state."""
        return jax.tree.map(jnp.copy, self.params), optimizer[0](self.params)


def compiled_loop(optimizer: Optimizer, leaves: Leaves, steps: int) -> Callable[[], None]:
    """Donated steps in one call."""

    def run(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        def body(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            return optimizer[1](grads, carry[1], carry[0])

        return jax.lax.fori_loop(0, steps, body, (params, state))

    return _contender(jax.jit(run, donate_argnums=(0, 1)), optimizer, leaves, 1)


def calls(optimizer: Optimizer, leaves: Leaves, steps: int, *, donate: bool) -> Callable[[], None]:
    """One call a step."""

    def run(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        return optimizer[1](grads, state, params)

    compiled = jax.jit(run, donate_argnums=(0, 1) if donate else ())
    return _contender(compiled, optimizer, leaves, steps)


def _contender(
    compiled: Any, optimizer: Optimizer, leaves: Leaves, calls: int
) -> Callable[[], None]:
    carry = leaves.start(optimizer)

    def contender() -> None:
        nonlocal carry
        for _ in range(calls):
            carry = compiled(*carry, leaves.grads)
        jax.block_until_ready(carry)

    return contender


def measure() -> Iterator[list[Record]]:
    """The records of each case, one section after the other."""
    threads = len(os.sched_getaffinity(0))
    for case, shapes_of in CASES.items():
        shapes = shapes_of()
        leaves = Leaves(shapes)
        steps = int(np.clip(ELEMENTS_IN_TURN // elements(shapes), *STEPS_IN_LOOP))
        limit = _native_testing.MemoryLimit(elements(shapes), threads)

        contenders = {n: compiled_loop(o, leaves, steps) for n, o in OPTIMIZERS.items()}
        contenders["memory limit"] = lambda limit=limit, steps=steps: limit.run(steps)
        timings = interleave(contenders, TURNS)
        yield records_of("JAX, compiled loop of steps", case, timings, steps)

        few = max(3, steps // 8)
        for donate in (True, False):
            contenders = {n: calls(o, leaves, few, donate=donate) for n, o in OPTIMIZERS.items()}
            if donate:
                contenders["empty call"] = calls(FLOOR, leaves, few, donate=True)
            section = f"JAX, a call a step, {'donated' if donate else 'not donated'}"
            yield records_of(section, case, interleave(contenders, TURNS), few)


SECTIONS_OF_CASE = 3
CASES_MEASURED = len(CASES) * SECTIONS_OF_CASE
