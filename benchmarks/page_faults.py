"""`python -m benchmarks.page_faults`: what the allocator costs a clipped training step on a CPU.

XLA asks for the temporary memory of each step as one block and gives it back after the step. glibc
returns a block of more than 32 MiB to the system, so that the next step faults its pages in anew.
Prints for each allocator the median milliseconds and page faults of a step, and how many times as
fast as optax's ours is, with quartiles. All take turns, each allocator in a process of its own.
"""

import argparse
import resource
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ctypes.util import find_library

from benchmarks.other_process import in_another_process
from benchmarks.records import MILLISECONDS, OURS
from nadam_xla.diagnosis.interleave import Turns, interleave, interleave_figures

STOCK = "optax"
CONTENDERS = (OURS, STOCK)
TCMALLOC = find_library("tcmalloc_minimal") or find_library("tcmalloc")
ALLOCATORS: dict[str, Mapping[str, str]] = {
    "glibc": {},
    "glibc, huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    **({"tcmalloc": {"LD_PRELOAD": TCMALLOC}} if TCMALLOC else {}),
}
NORM = 1.0
STEPS = 8  # of a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=12, help="dense layers")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    with ExitStack() as processes:
        runs: dict[str, Callable[[], float]] = {}
        for allocator, environment in ALLOCATORS.items():
            process = in_another_process(
                turns_of, arguments.depth, arguments.width, environment=environment
            )
            for contender, run in processes.enter_context(process).items():
                runs[f"{contender}, {allocator}"] = run
        times = interleave(runs, arguments.turns)
        faults = interleave_figures(runs, arguments.turns)
    print(f"{arguments.depth} dense layers of {arguments.width}, clipped by their global norm\n")
    print(table(times, faults))


def turns_of(depth: int, width: int) -> dict[str, Callable[[], float]]:
    """A turn of each contender, which returns the page faults of a step."""
    from benchmarks import networks  # noqa: PLC0415 - that process's
    from benchmarks.training_jax import contenders, turn  # noqa: PLC0415

    network = networks.dense(depth, width)._replace(steps=STEPS)

    def counted(run: Callable[[], None]) -> Callable[[], float]:
        def counted_turn() -> float:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            run()
            return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / STEPS

        return counted_turn

    return {name: counted(turn(network, *contenders(NORM)[name])[1]) for name in CONTENDERS}


def table(times: Turns, faults: Turns) -> str:
    lines = ["| allocator | ours, ms (page faults) | optax, ms (page faults) | optax / ours |"]
    lines.append("|---|---|---|---|")
    for allocator in ALLOCATORS:
        ours, stock = (f"{contender}, {allocator}" for contender in CONTENDERS)
        cells = [
            f"{times.median(name) * MILLISECONDS / STEPS:.1f} ({faults.median(name):.0f})"
            for name in (ours, stock)
        ]
        middle, low, high = times.ratio(stock, ours)
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {allocator} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
