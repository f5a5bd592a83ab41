"""Gradients unscaled, clipped by their global norm and judged: ours, our plain step, and optax.

A call a step, and no compiled loop of steps: out of a loop XLA would take the norm of gradients
that do not change in it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.donation import carrying
from benchmarks.jax_steps import Leaves, steps_in_calls
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.shapes import CASES, elements
from nadam_xla.diagnosis.interleave import interleave
from nadam_xla.jax import nadam

TURNS = 11
PLAIN = "ours, plain"
LISTS = ("4096x4096", "transformer, 108 leaves")
LOSS_SCALE = 2.0**10
NEVER = 2**30  # so many steps in a row does optax leave out before it gives up
HEADING = "Gradient processing: max_norm, grad_scale and skip_nonfinite, a call a step, donated"

Step = Callable[[Any, Any, Any, jax.Array], tuple[Any, Any]]


class Contender(NamedTuple):
    init: Callable[[Any], Any]
    step: Step  # of the parameters, the state, the gradients and the loss scale


def ours() -> Contender:
    tx = nadam(1e-3, max_norm=1.0, skip_nonfinite=True)

    def step(params: Any, state: Any, grads: Any, loss_scale: jax.Array) -> tuple[Any, Any]:
        return tx.apply(grads, state, params, grad_scale=1 / loss_scale)

    return Contender(tx.init, step)


def ours_without() -> Contender:
    tx = nadam(1e-3)

    def step(params: Any, state: Any, grads: Any, loss_scale: jax.Array) -> tuple[Any, Any]:
        del loss_scale
        return tx.apply(grads, state, params)

    return Contender(tx.init, step)


def optax_chain() -> Contender:
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.nadam(1e-3))
    tx = optax.apply_if_finite(inner, NEVER)

    def step(params: Any, state: Any, grads: Any, loss_scale: jax.Array) -> tuple[Any, Any]:
        unscaled = jax.tree.map(lambda grad: grad / loss_scale, grads)
        updates, state = tx.update(unscaled, state, params)
        return optax.apply_updates(params, updates), state

    return Contender(tx.init, step)


CONTENDERS = {OURS: ours, PLAIN: ours_without, "optax": optax_chain}


def measure() -> Iterator[list[Record]]:
    """The records of each case."""
    for case in LISTS:
        shapes = CASES[case]()
        steps = steps_in_calls(elements(shapes))
        leaves = Leaves(shapes)
        calls = {name: _calls(make(), leaves, steps) for name, make in CONTENDERS.items()}
        turns = interleave(calls, TURNS)
        yield records_of(HEADING, case, elements(shapes), turns, scale=MILLISECONDS / steps)


def _calls(contender: Contender, leaves: Leaves, steps: int) -> Callable[[], None]:
    compiled = jax.jit(contender.step, donate_argnums=(0, 1))
    carry = jax.tree.map(jnp.copy, leaves.params), contender.init(leaves.params)
    return carrying(compiled, carry, [(leaves.grads, jnp.float32(LOSS_SCALE))] * steps)


CASES_MEASURED = len(LISTS)
