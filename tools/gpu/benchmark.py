"""The benchmarks: each framework in a process of its own, one after the other."""

from collections.abc import Iterator
from importlib.util import find_spec

from benchmarks.gpu_cases import OURS_CALL, OURS_LOOP, UPDATES
from benchmarks.gpu_steps import NO_TIME, Measured, load
from tools.gpu.layout import BUILT, ENVIRONMENT, LOGS, PYTHON, SOURCES
from tools.gpu.outcome import Outcome, failed, passed, skipped
from tools.gpu.processes import Finished, Running

MEASURED = BUILT / "measured.jsonl"
SHARES = {"jax": 0.55, "torch": 0.5, "torch_compiled": 1.0}  # of the time that is left then
GRACE = 20  # seconds that a process may take beyond its time before it is ended
LEAST = 15  # seconds for which a process is worth being started


class Benchmarks:
    """Runs them, and has what they measured."""

    def __init__(self) -> None:
        """Forgets what earlier runs measured."""
        MEASURED.unlink(missing_ok=True)

    def run(self, framework: str, left: float) -> Iterator[Outcome]:
        """One framework's, in its share of the time that is left."""
        part = f"benchmark, {framework}"
        package = framework.split("_", maxsplit=1)[0]
        if find_spec(package) is None:
            yield skipped(part, f"Python has no {package}")
            return
        seconds = SHARES[framework] * (left - GRACE)
        if seconds < LEAST:
            yield skipped(part, f"{left:.0f} s are left, which is too little")
            return
        before = len(self.measured())
        finished = Running(
            [
                *[*PYTHON, "-m", "benchmarks.gpu_steps", framework],
                *["--seconds", str(seconds), "--output", MEASURED],
            ],
            LOGS / f"benchmark_{framework}.log",
            seconds=seconds + GRACE,
            environment=ENVIRONMENT,
            folder=SOURCES,
        ).wait()
        new = [m for m in self.measured()[before:] if m.contender in UPDATES]
        yield judged(part, finished, new)

    @staticmethod
    def measured() -> list[Measured]:
        """What was measured up to now."""
        return load(MEASURED)


def judged(part: str, finished: Finished, measured: list[Measured]) -> Outcome:
    """What its process came to: PyTorch's contenders may be missing, ours must run."""
    detail = f"{sum(m.time is not None for m in measured)} figures"
    broken = [f"{m.contender}: {m.note}" for m in measured if m.note not in ("", NO_TIME)]
    detail = "; ".join([detail, *dict.fromkeys(broken)])
    if finished.status is None:
        return skipped(part, f"{detail}, then its time was over")
    if finished.failed:
        print(finished.tail())
        detail = f"{detail}, then it {finished.ending}; {finished.log}"
    ours = any(line.startswith((OURS_LOOP, OURS_CALL)) for line in broken)
    if ours or (finished.failed and part.endswith("jax")):
        return failed(part, detail)
    return skipped(part, detail) if finished.failed else passed(part, detail)
