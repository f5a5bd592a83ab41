"""Steps in optax's protocol, as users of JAX, Flax and Equinox write them.

Ours in their code as it stands, the same under ``fuse_updates``, and the one-pass call that takes
its place, each beside optax in that code: the lone update in a compiled loop, and whole training
steps, which donate what they train.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.jax_steps import Leaves
from benchmarks.networks import NETWORKS, Network
from benchmarks.protocol_steps import (
    APPLY,
    FUSED,
    RETURNS_CHANGE,
    STOCK,
    UPDATE,
    Contender,
    clipped_chain,
    equinox,
    flax_linen,
    flax_nnx,
    loop_of_updates,
)
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.shapes import elements, transformer_blocks
from nadam_xla.diagnosis.interleave import Turns, interleave

TURNS_OF_LOOPS, STEPS_IN_LOOP = 11, 5
TURNS, CALLS_IN_TURN = 9, 3
TURNS_OF_LONG_STEPS = 5
MOST_APART = 1e-2  # after a turn, beside what the turn has changed

CLIPPING = {"": None, ", clipped by global norm": 1.0}
DENSE = tuple(name for name in NETWORKS if "dense" in name)
LINEN = "transformer, 12 layers of 512, unrolled"
WAYS = (STOCK, UPDATE, FUSED, APPLY)


class Protocol(NamedTuple):
    """Whose step it is."""

    step: Callable[[Network, str], Contender]
    networks: tuple[str, ...]
    ways: tuple[str, ...] = WAYS


PROTOCOLS = {
    "Flax linen": Protocol(flax_linen, (*DENSE, LINEN)),
    # fuse_updates takes pure functions, and these change the modules that they are given.
    "Flax NNX": Protocol(flax_nnx, DENSE, (STOCK, UPDATE, APPLY)),
    "Equinox": Protocol(equinox, DENSE),
    "JAX, clipped by global norm in a chain": Protocol(clipped_chain, DENSE),
}
CASES_MEASURED = len(CLIPPING) + sum(len(p.networks) for p in PROTOCOLS.values())


class Case(NamedTuple):
    """What is done in each of several ways."""

    section: str
    name: str
    parameters: int
    step: Callable[[str], Contender]  # of a way
    ways: tuple[str, ...]
    turns: int
    calls: int  # of a turn
    steps: int  # of a turn


def cases() -> Iterator[Case]:
    shapes = transformer_blocks()
    for how, norm in CLIPPING.items():
        yield Case(
            "JAX, compiled loop of steps in optax's protocol",
            "transformer, 108 leaves" + how,
            elements(shapes),
            partial(loop_of_updates, Leaves(shapes), STEPS_IN_LOOP, norm),
            WAYS,
            turns=TURNS_OF_LOOPS,
            calls=1,
            steps=STEPS_IN_LOOP,
        )
    for whose, protocol in PROTOCOLS.items():
        for name in protocol.networks:
            network = NETWORKS[name]()
            calls = min(CALLS_IN_TURN, network.steps)
            yield Case(
                f"Whole training step in optax's protocol, {whose}",
                name,
                network.parameters(),
                partial(protocol.step, network),
                protocol.ways,
                turns=TURNS if calls > 1 else TURNS_OF_LONG_STEPS,
                calls=calls,
                steps=calls,
            )


def measure() -> Iterator[list[Record]]:
    """The records of each case: the times, and the temporary memory of the compiled step."""
    for case in cases():
        contenders = {way: case.step(way) for way in case.ways}
        check(contenders, case.calls)
        runs = {way: partial(contender.run, case.calls) for way, contender in contenders.items()}
        times = interleave(runs, case.turns)
        temporary = Turns(
            {way: [float(c.memory.temp_size_in_bytes)] * 2 for way, c in contenders.items()}
        )
        del contenders, runs
        yield [
            *records(case, times, "", scale=MILLISECONDS / case.steps, unit="ms a step"),
            *records(case, temporary, ": temporary memory", scale=2**-20, unit="MiB"),
        ]


def records(case: Case, turns: Turns, what: str, *, scale: float, unit: str) -> Iterator[Record]:
    """For each way in which ours is used, a row that has optax and the one-pass call over it."""
    for way in case.ways[1:]:
        names = (STOCK, APPLY) if way != APPLY else (STOCK,)
        figures = {OURS: turns.figures[way]} | {name: turns.figures[name] for name in names}
        yield from records_of(
            case.section + what,
            f"{case.name}: {way}",
            case.parameters,
            Turns(figures),
            scale=scale,
            unit=unit,
        )


def check(contenders: Mapping[str, Contender], calls: int) -> None:
    """Takes a turn of each, and compares what has become of parameters and moments.

    Raises:
        RuntimeError: a contender is not what its name says.
    """
    stock = contenders[STOCK]
    start = [jnp.copy(x) for x in stock.trained()]
    for contender in contenders.values():
        contender.run(calls)
    moved = distance(stock.trained(), start)
    for way, contender in contenders.items():
        apart = distance(stock.trained(), contender.trained()) / moved
        if not apart < MOST_APART:
            raise RuntimeError(f"{way}: {apart:.2g} of what {STOCK} has changed is different")
        if contender.memory.alias_size_in_bytes < sum(x.nbytes for x in start):
            raise RuntimeError(f"{way}: not all that was donated is updated in place")
        if contender.returns_change != RETURNS_CHANGE[way]:
            raise RuntimeError(f"{way}: a fused call returns what that of another way does")


def distance(one: list[jax.Array], other: list[jax.Array]) -> float:
    pairs = zip(one, other, strict=True)
    return float(jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in pairs)))
