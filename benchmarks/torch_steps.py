"""A call a step against PyTorch's optimizers, which run in a process of their own.

The processes take turns, each on all cores; a turn of ours is one donated JAX call a step.
"""

import os
from collections.abc import Callable, Iterator

from benchmarks.other_process import interleave_processes
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.shapes import CASES, Shapes, elements

TURNS = 7
STEPS = 4
LARGEST_COMPILED = 120  # leaves; of several hundred, one step takes minutes to compile
CASES_MEASURED = len(CASES)


def measure() -> Iterator[list[Record]]:
    """The records of each case."""
    for case, shapes_of in CASES.items():
        shapes = shapes_of()
        builds = (jax_contenders, torch_contenders)
        turns = interleave_processes(builds, TURNS, shapes, STEPS)
        yield records_of(
            "PyTorch, a call a step",
            case,
            elements(shapes),
            turns,
            scale=MILLISECONDS / STEPS,
        )


def jax_contenders(shapes: Shapes, steps: int) -> dict[str, Callable[[], None]]:
    from benchmarks.jax_steps import OPTIMIZERS, Leaves, calls  # noqa: PLC0415 - that process's

    return {OURS: calls(OPTIMIZERS[OURS], Leaves(shapes), steps, donate=True)}


def torch_contenders(shapes: Shapes, steps: int) -> dict[str, Callable[[], None]]:
    import torch  # noqa: PLC0415 - that process's

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def contender(
        optimizer_of: Callable[..., torch.optim.Optimizer], *, compiled: bool = False
    ) -> Callable[[], None]:
        params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer = optimizer_of(params)
        step = torch.compile(optimizer.step) if compiled else optimizer.step

        def run() -> None:
            for _ in range(steps):
                step()

        return run

    def nadam(params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.NAdam(params, lr=1e-3, foreach=True)

    contenders = {
        "NAdam, foreach": contender(nadam),
        "Adam, fused": contender(lambda params: torch.optim.Adam(params, lr=1e-3, fused=True)),
    }
    if len(shapes) <= LARGEST_COMPILED:
        contenders["NAdam, compiled"] = contender(nadam, compiled=True)
    return contenders
