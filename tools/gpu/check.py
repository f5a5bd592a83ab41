"""`tools/gpu_check`: builds the package, checks it on this machine's GPU, and measures it.

In ten minutes, without a network: the build; the parity matrix (tests/gpu); the kernels and a CUDA
graph without a framework; compute-sanitizer; XLA's command buffers; the benchmarks, in what is left
of the time; and one table last. It writes into build/gpu-check alone.

The exit status is 0 where all is right, 1 where something is wrong, and 2 where there is nothing to
check it on. A target that is missed shows in the table and changes no status; neither does what was
skipped, with the reason.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

from benchmarks.gpu_table import report
from tools.gpu import build, command_buffer, machine, parity, sanitizer
from tools.gpu.benchmark import SHARES, Benchmarks
from tools.gpu.layout import BUILT, SITE, SOURCES
from tools.gpu.outcome import Outcome, Verdict

SECONDS = 570
REPORT = BUILT / "report.md"

WRONG = 1
NOTHING_TO_CHECK = 2

Part = Callable[[], Iterable[Outcome]]


class Check:
    """Runs parts one after the other, printing each outcome and the time that it took."""

    def __init__(self) -> None:
        """Starts the clock."""
        self._start = time.monotonic()
        self.outcomes: list[Outcome] = []

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return SECONDS - (time.monotonic() - self._start)

    def run(self, part: Part) -> None:
        """One part."""
        start = time.monotonic()
        for outcome in part():
            self.outcomes.append(outcome)
            now = time.monotonic()
            print(f"[{now - self._start:4.0f} s, +{now - start:.0f} s] {outcome}", flush=True)
            start = now

    @property
    def wrong(self) -> bool:
        """Whether any part failed."""
        return any(outcome.verdict is Verdict.FAILED for outcome in self.outcomes)


def main() -> int:
    """The whole check; returns the exit status."""
    description = __doc__ or ""
    argparse.ArgumentParser(
        prog="tools/gpu_check",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    obstacles = list(machine.obstacles())
    if obstacles:
        print("gpu_check: nothing was checked:", file=sys.stderr)
        for obstacle in obstacles:
            print(f"gpu_check: {obstacle}", file=sys.stderr)
        return NOTHING_TO_CHECK
    check = Check()
    check.run(build.build)
    if is_built():
        for part in (
            parity.check,
            parity.check_without_framework,
            command_buffer.check,
            sanitizer.check,
        ):
            check.run(part)
    conclude(check)
    return WRONG if check.wrong else 0


def is_built() -> bool:
    """Whether there is a package to check."""
    return (SITE / "nadam_xla").exists()


def conclude(check: Check) -> None:
    """Measures, unless nothing could be built, and prints the table."""
    benchmarks = Benchmarks()
    if is_built():
        for framework in SHARES:
            check.run(partial(benchmarks.run, framework, check.left))
    summary = "\n".join(f"- {outcome}" for outcome in check.outcomes)
    text = f"{report(benchmarks.measured(), machine.description())}\n"
    REPORT.write_text(f"{summary}\n\n{text}")
    print(f"\n{summary}\n\nkept in {REPORT.relative_to(SOURCES)}\n\n{text}", flush=True)
