"""compute-sanitizer over a short run: of the kernels alone, and of calls in a JAX program."""

import re
from collections.abc import Iterator

from tools.gpu import machine
from tools.gpu.layout import ENVIRONMENT, LOGS, ON_DEVICE, PYTHON, SOURCES
from tools.gpu.outcome import Outcome, failed, passed, skipped
from tools.gpu.processes import Finished, Running

SECONDS = 90
TOOLS = ("memcheck", "racecheck", "initcheck")
FOUND = 9  # the exit status for errors
NOTHING_FOUND = re.compile(r"(?:ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards)")

NOT_HERE = "Device not supported"  # what it says in some virtual machines

# By the mangled name: other kernels of the program, XLA's own, only take time.
OUR_KERNELS = "kns=nadam_xla"

_SHORT_RUN = [*PYTHON, "-m", "tools.gpu.short_run"]
PROGRAMS = {
    "without XLA": [ON_DEVICE],
    "in JAX": _SHORT_RUN,
}
# The tools look at whole allocations, so each array must be one.
_PLAIN_ALLOCATIONS = {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}


def check() -> Iterator[Outcome]:
    """Each tool over each program, all at once: most of their time goes by on the host."""
    sanitizer = machine.cuda_program("compute-sanitizer")
    if sanitizer is None:
        for tool in TOOLS:
            yield skipped(f"compute-sanitizer, {tool}", "compute-sanitizer not found")
        return
    options = ["--error-exitcode", str(FOUND), "--target-processes", "application-only"]
    # Loaders ask drivers for functions that they may not have; the programs check their own calls.
    options += ["--report-api-errors", "no"]
    running = {
        (tool, program): Running(
            [sanitizer, "--tool", tool, *options, "--kernel-name", OUR_KERNELS, *command],
            LOGS / f"{tool}_{program.replace(' ', '_')}.log",
            seconds=SECONDS,
            environment=ENVIRONMENT | _PLAIN_ALLOCATIONS,
            folder=SOURCES,
        )
        for tool in TOOLS
        for program, command in PROGRAMS.items()
        if command != [ON_DEVICE] or ON_DEVICE.exists()
    }
    for (tool, program), process in running.items():
        yield judged(f"compute-sanitizer, {tool}, {program}", process.wait())


def judged(part: str, finished: Finished) -> Outcome:
    """That the program ended well is not enough: the tool must say that it found nothing."""
    if NOT_HERE in finished.output:
        return skipped(part, f"compute-sanitizer says {NOT_HERE!r}; {finished.log}")
    if not finished.failed and NOTHING_FOUND.search(finished.output):
        return passed(part, "nothing found")
    print(finished.tail())
    found = finished.ending if finished.failed else "no summary of the tool"
    return failed(part, f"{found}; {finished.log}")
