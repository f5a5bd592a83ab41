"""JAX: what a donated step needs beyond its leaves, and what a process holds at its peak."""

from collections.abc import Callable, Iterator

import jax

from benchmarks.jax_steps import FLOOR, OPTIMIZERS, Leaves, calls, one_step
from benchmarks.other_process import peak_memory
from benchmarks.records import Record, records_of
from benchmarks.shapes import CASES, Shapes, elements
from nadam_xla.diagnosis.interleave import Turns

TURNS = 3
STEPS = 3
MIB = 2**20
CASES_MEASURED = 2 * len(CASES)


def measure() -> Iterator[list[Record]]:
    """The records of each case: the compiled program's temporary memory, the process's peak."""
    for case, shapes_of in CASES.items():
        shapes = shapes_of()
        leaves = Leaves(shapes)
        sizes = {name: [float(temporary(name, leaves))] * TURNS for name in OPTIMIZERS}
        yield records_of(
            "JAX, temporary memory of the compiled, donated step",
            case,
            elements(shapes),
            Turns(sizes),
            scale=1 / 1024,
            unit="KiB",
        )
        del leaves
        names = [*OPTIMIZERS, "empty call"]
        peaks = {
            name: [float(peak_memory(donated_calls, name, shapes)) for _ in range(TURNS)]
            for name in names
        }
        yield records_of(
            "JAX, peak memory of a process that makes the donated calls",
            case,
            elements(shapes),
            Turns(peaks),
            scale=1 / MIB,
            unit="MiB",
        )


def temporary(name: str, leaves: Leaves) -> int:
    """The bytes that XLA sets aside while the step runs."""
    optimizer = OPTIMIZERS[name]
    step = jax.jit(one_step(optimizer), donate_argnums=(0, 1))
    compiled = step.lower(*leaves.start(optimizer), leaves.grads).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def donated_calls(name: str, shapes: Shapes) -> Callable[[], None]:
    optimizer = (OPTIMIZERS | {"empty call": FLOOR})[name]
    return calls(optimizer, Leaves(shapes), STEPS, donate=True)
