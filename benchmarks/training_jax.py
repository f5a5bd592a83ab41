"""Whole training steps in JAX, forward and backward included, with and without clipping.

Jitted and donated: ours against optax; the time, what XLA sets aside for the compiled step, and
what a process holds at its peak.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.donation import carrying
from benchmarks.networks import NETWORKS, Network
from benchmarks.other_process import peak_memory
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from nadam_xla.coefficients import constant_momentum
from nadam_xla.coefficients import nadam as coefficients
from nadam_xla.diagnosis.interleave import Turns, interleave
from nadam_xla.jax import NadamState, nadam, nadam_update, sum_squares

TURNS = 9
TURNS_OF_PEAKS = 2
CLIPPING = {"": None, ", clipped by global norm": 1.0}
CASES_MEASURED = 2 * len(NETWORKS) * len(CLIPPING)
SECTION = "Whole training step, JAX, jitted and donated"

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def measure() -> Iterator[list[Record]]:
    """For each network, clipped and not, the times, the temporary memory and the peaks."""
    for name, make in NETWORKS.items():
        for how, norm in CLIPPING.items():
            network = make()
            case = name + how
            yield times_and_temporary_memory(network, norm, case)
            size = network.parameters()
            del network
            peaks = {
                contender: [
                    float(peak_memory(one_turn, name, norm, contender))
                    for _ in range(TURNS_OF_PEAKS)
                ]
                for contender in (OURS, "optax")
            }
            section = SECTION + ": peak memory of the process"
            yield records_of(section, case, size, Turns(peaks), scale=2**-20, unit="MiB")


def times_and_temporary_memory(network: Network, norm: float | None, case: str) -> list[Record]:
    """The records of all contenders in one process."""
    runs, temporary = {}, {}
    for name, contender in contenders(norm).items():
        compiled, runs[name] = turn(network, *contender)
        temporary[name] = [float(compiled.memory_analysis().temp_size_in_bytes)] * 2
    scale, size = MILLISECONDS / network.steps, network.parameters()
    return [
        *records_of(SECTION, case, size, interleave(runs, TURNS), scale=scale),
        *records_of(
            SECTION + ": temporary memory",
            case,
            size,
            Turns(temporary),
            scale=2**-20,
            unit="MiB",
        ),
    ]


def one_turn(network: str, norm: float | None, contender: str) -> Callable[[], None]:
    """A turn of one contender alone, in a process of its own."""
    _, run = turn(NETWORKS[network](), *contenders(norm)[contender])
    return run


def turn(
    network: Network, init: Callable[[Any], Any], take: Step
) -> tuple[Any, Callable[[], None]]:
    """The compiled step, and what takes as many as a turn has."""

    def step(params: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        return take(jax.grad(network.loss)(params, x, y), state, params)

    params = jax.tree.map(jnp.array, network.params)
    carry, batch = (params, init(params)), (network.inputs, network.targets)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, *batch).compile()
    return compiled, carrying(compiled, carry, [batch] * network.steps)


def contenders(norm: float | None) -> dict[str, tuple[Callable[[Any], Any], Step]]:
    """Of each, what makes its state, and its step from gradients, which it clips first."""

    def chained(tx: Any) -> tuple[Callable[[Any], Any], Step]:
        chain = tx if norm is None else optax.chain(optax.clip_by_global_norm(norm), tx)

        def take(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
            updates, state = chain.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return chain.init, take

    ours = nadam(1e-3)
    return {
        OURS: (ours.init, ours.apply if norm is None else partial(clipped_step, norm)),
        "optax": chained(optax.nadam(1e-3)),
        "nadam_xla as optax's": chained(ours),
    }


def clipped_step(norm: float, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """The step of ``nadam(1e-3)`` that multiplies gradients as it reads them."""
    total = sum(jax.tree.leaves(sum_squares(grads)))
    b1, b2, count = 0.9, 0.999, state.count + 1
    row = coefficients(
        learning_rate=1e-3,
        momentum=constant_momentum(b1, count),
        b1=b1,
        b2=b2,
        b2_power=b2**count,
        eps=1e-8,
    )._replace(grad_scale=jnp.minimum(1.0, norm / jnp.sqrt(total)))
    params, mu, nu = nadam_update(row, params, grads, state.mu, state.nu)
    return params, NadamState(count, mu, nu, None)
