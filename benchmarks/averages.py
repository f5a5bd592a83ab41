"""Averages of the parameters in JAX: in our pass, our plain step, and optax with a pass for them.

The first ratio of the plain step is what the average costs us.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.donation import carrying
from benchmarks.jax_steps import (
    Leaves,
    Optimizer,
    loop_of_steps,
    one_step,
    steps_in_calls,
    steps_in_loop,
)
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.shapes import CASES, elements
from nadam_xla import _native_testing
from nadam_xla.diagnosis.interleave import interleave
from nadam_xla.jax import nadam

TURNS = 9
DECAY = 0.999
LISTS = ("4096x4096", "transformer, 108 leaves")

_ours = nadam(1e-3, average_decay=DECAY)
_plain = nadam(1e-3)
_theirs = optax.nadam(1e-3)


def _with_average(
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """The step, and behind it the pass of optax's, which keeps the average beside the state."""

    def averaged(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        inner, average = state
        params, inner = step(grads, inner, params)
        return params, (inner, optax.incremental_update(params, average, step_size=1 - DECAY))

    return averaged


def _optax_step(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    updates, state = _theirs.update(grads, state, params)
    return optax.apply_updates(params, updates), state


OPTIMIZERS: dict[str, Optimizer] = {
    OURS: (_ours.init, _ours.apply),
    "ours, no average": (_plain.init, _plain.apply),
    "ours + incremental_update": (
        lambda params: (_plain.init(params), jax.tree.map(jnp.copy, params)),
        _with_average(_plain.apply),
    ),
    "optax + incremental_update": (
        lambda params: (_theirs.init(params), jax.tree.map(jnp.copy, params)),
        _with_average(_optax_step),
    ),
}


def measure() -> Iterator[list[Record]]:
    """The records of each case, one section after the other."""
    for case in LISTS:
        shapes = CASES[case]()
        leaves, parameters = Leaves(shapes), elements(shapes)
        for heading, runner, steps_of in (
            ("compiled loop of steps", _loop, steps_in_loop),
            ("a call a step, donated", _calls, steps_in_calls),
        ):
            steps = steps_of(parameters)
            contenders = {name: runner(o, leaves, steps) for name, o in OPTIMIZERS.items()}
            limit = _native_testing.MemoryLimit(
                parameters, len(os.sched_getaffinity(0)), (4, 4, 4, 4, 4)
            )
            turns = interleave(
                contenders | {"memory limit": lambda limit=limit, steps=steps: limit.run(steps)},
                TURNS,
            )
            yield records_of(
                f"Averages, {heading}", case, parameters, turns, scale=MILLISECONDS / steps
            )


def _loop(optimizer: Optimizer, leaves: Leaves, steps: int) -> Callable[[], None]:
    compiled = jax.jit(loop_of_steps(optimizer[1], steps), donate_argnums=(0, 1))
    return carrying(compiled, leaves.start(optimizer), [(leaves.grads,)])


def _calls(optimizer: Optimizer, leaves: Leaves, steps: int) -> Callable[[], None]:
    compiled = jax.jit(one_step(optimizer), donate_argnums=(0, 1))
    return carrying(compiled, leaves.start(optimizer), [(leaves.grads,)] * steps)


CASES_MEASURED = len(LISTS) * 2
