"""The parity matrix: tests/gpu, and the same kernels without a framework."""

import re
from collections.abc import Iterator

from tools.gpu.layout import ENVIRONMENT, LOGS, ON_DEVICE, PYTHON, SOURCES
from tools.gpu.outcome import Outcome, failed, passed, skipped
from tools.gpu.processes import Running

SECONDS = 200
SECONDS_ON_DEVICE = 30


def check() -> Iterator[Outcome]:
    """Every test of tests/gpu on the GPU; those left out say why."""
    finished = Running(
        [*PYTHON, "-m", "pytest", "tests/gpu", "-q", "-rs", "-p", "no:cacheprovider"],
        LOGS / "parity.log",
        seconds=SECONDS,
        environment=ENVIRONMENT,
        folder=SOURCES,
    ).wait()
    summary = next(
        (line for line in reversed(finished.output.splitlines()) if " passed" in line), "no test"
    )
    left_out = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)", finished.output, re.MULTILINE)
    detail = "; ".join([summary.strip("= "), *(f"left out: {reason}" for reason in left_out)])
    if finished.failed:
        print(finished.tail(80))
        yield failed("parity", f"pytest {finished.ending}: {detail}; {finished.log}")
    else:
        yield passed("parity", detail)


def check_without_framework() -> Iterator[Outcome]:
    """Memory at any offset between guards, and a CUDA graph that is captured and replayed."""
    part = "kernels and CUDA graph, without XLA"
    if not ON_DEVICE.exists():
        yield skipped(part, "its program was not built")
        return
    finished = Running([ON_DEVICE], LOGS / "on_device.log", seconds=SECONDS_ON_DEVICE).wait()
    detail = "; ".join(finished.output.splitlines())
    if finished.failed:
        yield failed(part, f"{finished.ending}: {detail}")
    else:
        yield passed(part, detail)
