"""Time against size: one leaf of a thousand to a hundred million parameters, every contender.

JAX, PyTorch and TensorFlow take turns, each in a process of its own.
"""

import os
from collections.abc import Callable, Iterator

from tqdm import tqdm

from benchmarks.other_process import interleave_processes
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.shapes import Shapes, elements

SECTION = "One leaf, a call a step"
LIMIT = "memory limit"
SIZES = [10**exponent for exponent in range(3, 9)]
TURNS = 5
PARAMETERS_IN_TURN = 10**8
STEPS_IN_TURN = (1, 200)  # at least and at most
BYTES_A_PARAMETER = 160  # that all contenders hold together
CASES_MEASURED = len(SIZES)


def measure() -> Iterator[list[Record]]:
    """The records of each size that fits into the memory which is free."""
    for size in SIZES:
        if size * BYTES_A_PARAMETER > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            tqdm.write(f"{size:.0e} parameters left out: too little memory is free")
            yield []
            continue
        shapes = [(size,)]
        least, most = STEPS_IN_TURN
        steps = min(max(PARAMETERS_IN_TURN // size, least), most)
        builds = (jax_contenders, torch_contenders, tensorflow_contenders)
        turns = interleave_processes(builds, TURNS, shapes, steps)
        yield records_of(SECTION, f"{size:.0e}", size, turns, scale=MILLISECONDS / steps)


def jax_contenders(shapes: Shapes, steps: int) -> dict[str, Callable[[], None]]:
    from benchmarks.jax_steps import OPTIMIZERS, Leaves, calls, memory_limit  # noqa: PLC0415

    leaves = Leaves(shapes)
    return {
        **{name: calls(o, leaves, steps, donate=True) for name, o in OPTIMIZERS.items()},
        LIMIT: memory_limit(elements(shapes), steps),
    }


def torch_contenders(shapes: Shapes, steps: int) -> dict[str, Callable[[], None]]:
    from benchmarks import torch_steps  # noqa: PLC0415 - that process's

    contenders = torch_steps.torch_contenders(shapes, steps)
    return {f"torch {name}": run for name, run in contenders.items()}


def tensorflow_contenders(shapes: Shapes, steps: int) -> dict[str, Callable[[], None]]:
    from benchmarks import keras_steps  # noqa: PLC0415 - that process's

    grads = keras_steps.grads_of(shapes)
    jitted = keras_steps.TENSORFLOW_WAYS[keras_steps.COMPILED]
    stock, ours = (keras_steps.OPTIMIZERS[name] for name in ("stock", OURS))
    return {
        "Keras on TensorFlow, jitted": jitted(stock(), shapes, grads, steps),
        "the same with nadam_xla": jitted(ours(), shapes, grads, steps),
        "ResourceApplyAdam": keras_steps.resource_apply_adam(grads, steps),
    }
