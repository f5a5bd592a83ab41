"""JAX: compiled loops of steps, and one call a step with and without donation, against optax."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.donation import carrying
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.shapes import CASES, Shapes, elements
from nadam_xla import _native_testing
from nadam_xla.diagnosis.interleave import interleave
from nadam_xla.jax import nadam

TURNS = 11
ELEMENTS_IN_TURN = 2**28  # what one turn updates in all, whatever the case
STEPS_IN_LOOP = (10, 400)  # at least and at most

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
Optimizer = tuple[Callable[[Any], Any], Step]
Contenders = Mapping[str, Callable[[], None]]

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
    compiled = jax.jit(loop_of_steps(optimizer[1], steps), donate_argnums=(0, 1))
    return carrying(compiled, leaves.start(optimizer), [(leaves.grads,)])


def loop_of_steps(step: Step, steps: int) -> Step:
    """All of them, with its arguments in the order in which it returns them."""

    def run(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        def body(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            return step(grads, carry[1], carry[0])

        return jax.lax.fori_loop(0, steps, body, (params, state))

    return run


def calls(optimizer: Optimizer, leaves: Leaves, steps: int, *, donate: bool) -> Callable[[], None]:
    """One call a step."""
    compiled = jax.jit(one_step(optimizer), donate_argnums=(0, 1) if donate else ())
    return carrying(compiled, leaves.start(optimizer), [(leaves.grads,)] * steps)


def calls_beside_work(optimizer: Optimizer, leaves: Leaves, steps: int) -> Callable[[], None]:
    """One donated call a step, of a program that also multiplies two small matrices.

    XLA counts a custom call as no arithmetic at all, and runs a program without arithmetic in the
    thread that calls it; the product makes it run beside that thread, as a training step does.
    """

    def run(params: Any, state: Any, work: jax.Array, grads: Any) -> tuple[Any, Any, jax.Array]:
        return *one_step(optimizer)(params, state, grads), work @ work

    compiled = jax.jit(run, donate_argnums=(0, 1, 2))
    carry = (*leaves.start(optimizer), jnp.zeros((32, 32)))
    return carrying(compiled, carry, [(leaves.grads,)] * steps)


def one_step(optimizer: Optimizer) -> Step:
    """The step with its arguments in the order in which it returns them, for donation."""
    return lambda params, state, grads: optimizer[1](grads, state, params)


def steps_in_loop(parameters: int) -> int:
    return int(np.clip(ELEMENTS_IN_TURN // parameters, *STEPS_IN_LOOP))


def steps_in_calls(parameters: int) -> int:
    return max(3, steps_in_loop(parameters) // 8)


def measure() -> Iterator[list[Record]]:
    """The records of each case, one section after the other."""
    for case, shapes_of in CASES.items():
        shapes = shapes_of()
        for section, contenders, steps in sections(Leaves(shapes), elements(shapes)):
            turns = interleave(contenders, TURNS)
            yield records_of(
                f"JAX, {section}", case, elements(shapes), turns, scale=MILLISECONDS / steps
            )


def sections(leaves: Leaves, parameters: int) -> Iterator[tuple[str, Contenders, int]]:
    """The heading, the contenders and the steps of a turn of each section, one by one."""
    steps = steps_in_loop(parameters)
    loops = {name: compiled_loop(o, leaves, steps) for name, o in OPTIMIZERS.items()}
    yield (
        "compiled loop of steps",
        loops | {"memory limit": memory_limit(parameters, steps)},
        steps,
    )

    steps = steps_in_calls(parameters)
    with_floor = OPTIMIZERS | {"empty call": FLOOR}
    yield (
        "a call a step, donated",
        {name: calls(o, leaves, steps, donate=True) for name, o in with_floor.items()},
        steps,
    )
    yield (
        "a call a step, donated, beside other work",
        {name: calls_beside_work(o, leaves, steps) for name, o in with_floor.items()},
        steps,
    )
    yield (
        "a call a step, not donated",
        {name: calls(o, leaves, steps, donate=False) for name, o in OPTIMIZERS.items()},
        steps,
    )


def memory_limit(parameters: int, steps: int) -> Callable[[], None]:
    """Reads and writes what a step does, next to no arithmetic, on as many threads."""
    limit = _native_testing.MemoryLimit(parameters, len(os.sched_getaffinity(0)))
    return lambda: limit.run(steps)


SECTIONS_OF_CASE = 4
CASES_MEASURED = len(CASES) * SECTIONS_OF_CASE
