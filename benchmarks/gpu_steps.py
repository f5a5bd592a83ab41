"""`python -m benchmarks.gpu_steps FRAMEWORK`: one framework's contenders on a GPU.

Each case's contenders take turns, the copy of a gigabyte among them; each turn waits for the
device. What is measured is appended to a file, a line of JSON each, so that nothing is lost where
the time runs out.
"""

import argparse
import gc
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gpu_cases import CASES, PRECISIONS, WEIGHTS
from benchmarks.launches import Launches, launches_a_step
from nadam_xla.diagnosis.interleave import Turns, interleave

TURNS = (3, 15)  # at least and at most
MODULES = {  # each has contenders(shapes, dtype) and TRACERS
    "jax": "benchmarks.gpu_jax_steps",
    "torch": "benchmarks.gpu_torch_steps",
    "torch_compiled": "benchmarks.gpu_torch_compiled",
}
SHARE_OF_TURNS = 0.5  # of a case's time; the rest is for compiling and counting
NO_TIME = "no time was left"
ALWAYS_BUILT = 3  # contenders of a case that are built whatever time that takes: the first ones


@dataclass(frozen=True)
class Run:
    """What a contender does in a turn."""

    run: Callable[[], None]  # returns when the device is done
    steps: int  # in a turn
    bytes: int  # that a step must read and write
    counted: bool = True  # whether its launches are: long loops start too many for a profiler


Build = Callable[[], Run]


@dataclass(frozen=True)
class Measured:
    """A contender in one case and precision; what could not be had is None, and the note says why.

    Times are seconds a step: the median of the turns, and their quartiles.
    """

    framework: str
    case: str
    precision: str
    contender: str
    time: float | None = None
    low: float | None = None
    high: float | None = None
    bytes: int = 0
    launches: float | None = None
    our_launches: float | None = None
    turns: int = 0
    note: str = ""

    @property
    def rate(self) -> float | None:
        """Bytes a second."""
        return self.bytes / self.time if self.time else None


def measure(
    builds: Mapping[str, Build], tracers: Iterable[Callable], seconds: float
) -> Iterator[tuple[str, dict[str, object]]]:
    """The figures of each contender, by the names of `Measured`'s fields.

    Args:
        builds: the contenders of a case; one that cannot be built or run is left out with a note.
        tracers: ways to see which kernels a run starts, the first that works is taken.
        seconds: how long it may take, about.
    """
    until = time.monotonic() + seconds
    runs: dict[str, Run] = {}
    for name, build in builds.items():
        if time.monotonic() > until and len(runs) >= ALWAYS_BUILT:
            yield name, {"note": NO_TIME}
            continue
        try:
            runs[name] = build()
            runs[name].run()  # compiles
        except Exception as error:
            runs.pop(name, None)  # the others go on
            yield name, {"note": reason(error)}
    if not runs:
        return
    took = interleave({name: run.run for name, run in runs.items()}, 1)
    of_round = sum(figures[0] for figures in took.figures.values())
    possible = SHARE_OF_TURNS * (until - time.monotonic()) / of_round
    turns = interleave(
        {name: run.run for name, run in runs.items()},
        int(min(max(possible, TURNS[0]), TURNS[1])),
    )
    for name, run in runs.items():
        counted = launches_a_step(run.run, run.steps, tracers) if run.counted else None
        yield name, figures_of(turns, name, run, counted)


def reason(error: Exception) -> str:
    """The error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def figures_of(turns: Turns, name: str, run: Run, counted: Launches | None) -> dict[str, object]:
    """What the turns of a contender come to."""
    low, _, high = statistics.quantiles(turns.figures[name], n=4)
    return {
        "time": turns.median(name) / run.steps,
        "low": low / run.steps,
        "high": high / run.steps,
        "bytes": run.bytes,
        "launches": counted.all if counted else None,
        "our_launches": counted.ours if counted else None,
        "turns": len(turns.figures[name]),
    }


def measure_all(framework: str, seconds: float) -> Iterator[Measured]:
    """Every case in every precision, the time that is left being dealt out by their weights."""
    module = importlib.import_module(MODULES[framework])
    until = time.monotonic() + seconds
    pairs = [
        (precision, case)
        for precision in PRECISIONS
        for case in CASES
        if case in getattr(module, "CASES", CASES)
    ]
    for number, (precision, case) in enumerate(pairs):
        left = until - time.monotonic()
        if left <= 0:
            return
        share = WEIGHTS[case] / sum(WEIGHTS[later] for _, later in pairs[number:])
        builds = module.contenders(CASES[case](), PRECISIONS[precision])
        for name, figures in measure(builds, module.TRACERS, share * left):
            yield Measured(framework, case, precision, name, **figures)
        del builds
        gc.collect()


def append(measured: Measured, path: Path) -> None:
    with path.open("a") as file:
        file.write(json.dumps(asdict(measured)) + "\n")


def load(path: Path) -> list[Measured]:
    """What was measured, up to a line that was not finished."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(Measured(**json.loads(line)))
        except ValueError:
            break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=MODULES)
    parser.add_argument("--seconds", type=float, required=True, help="how long it may take, about")
    parser.add_argument("--output", type=Path, required=True, help="gets the lines of JSON")
    arguments = parser.parse_args()
    for measured in measure_all(arguments.framework, arguments.seconds):
        append(measured, arguments.output)
        print(measured, file=sys.stderr)


if __name__ == "__main__":
    main()
