"""Whether XLA records the call in a command buffer, and whether it is right when it does."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.gpu.layout import BUILT, ENVIRONMENT, LOGS, PYTHON, SOURCES
from tools.gpu.outcome import Outcome, failed, passed
from tools.gpu.processes import Running

SECONDS = 60
DUMP = BUILT / "dump"

# Command buffers are on by default; XLA makes none of fewer than five kernels unless told to.
FLAGS = f"--xla_gpu_graph_min_graph_size=1 --xla_dump_to={DUMP} --xla_dump_hlo_as_text"

_THUNK = re.compile(r"^(?P<indent>\s*)(?:\d+: )?(?P<kind>k[A-Z]\w+)\b")


def calls_in_thunks(text: str) -> tuple[int, int]:
    """The custom calls of a program inside its command buffers, and outside of them.

    Args:
        text: XLA's dump of the steps of a compiled program. What a command buffer holds stands
            below it, indented further.
    """
    inside = outside = 0
    depth: int | None = None  # of the command buffer that we are in
    for line in text.splitlines():
        if not (found := _THUNK.match(line)):
            continue
        indent = len(found["indent"])
        if depth is not None and indent <= depth:
            depth = None
        if found["kind"] == "kCommandBuffer" and depth is None:
            depth = indent
        elif found["kind"] == "kCustomCall":
            inside += depth is not None
            outside += depth is None
    return inside, outside


def calls_in_hlo(text: str) -> tuple[int, int]:
    """The same for an XLA that forms command buffers in the HLO: as computations of that name."""
    inside = outside = 0
    in_buffer = False
    for line in text.splitlines():
        if line.endswith("{"):
            in_buffer = line.lstrip("%").startswith("command_buffer")
        elif 'custom_call_target="nadam_xla_update_v2"' in line:
            inside += in_buffer
            outside += not in_buffer
    return inside, outside


def calls_in(dump: Path) -> tuple[int, int]:
    """The calls of all programs in a dump that have any, inside command buffers and outside.

    The newest form of the dump that there is says it: the steps after XLA's last passes, or before
    them where these changed nothing, or the HLO.
    """
    inside = outside = 0
    for hlo in sorted(dump.glob("*gpu_after_optimizations.txt")):
        text = hlo.read_text(errors="replace")
        if "nadam_xla_update_v2" not in text:
            continue
        program = hlo.name.split(".")[0] + "."  # module_0012
        thunks = [
            path
            for name in ("thunk_sequence_after_thunk_passes", "thunk_sequence")
            for path in sorted(dump.glob(f"{program}*{name}.txt"))
        ]
        found = calls_in_hlo(text)
        if thunks and not found[0]:
            found = calls_in_thunks(thunks[0].read_text(errors="replace"))
        inside, outside = inside + found[0], outside + found[1]
    return inside, outside


def check() -> Iterator[Outcome]:
    """Runs the program, and reads from XLA's dump what became of the calls in it."""
    shutil.rmtree(DUMP, ignore_errors=True)
    finished = Running(
        [*PYTHON, "-m", "tools.gpu.recorded_run"],
        LOGS / "command_buffer.log",
        seconds=SECONDS,
        environment=ENVIRONMENT | {"XLA_FLAGS": FLAGS},
        folder=SOURCES,
    ).wait()
    part = "XLA's command buffers"
    if finished.failed:
        print(finished.tail())
        yield failed(part, f"{finished.ending}; {finished.log}")
        return
    results = "; ".join(line for line in finished.output.splitlines() if line.endswith(": right"))
    yield _judged(part, results, *calls_in(DUMP))


def _judged(part: str, results: str, inside: int, outside: int) -> Outcome:
    if outside:
        return failed(part, f"XLA recorded {inside} calls of {inside + outside}; {DUMP}")
    if not inside:
        return passed(part, f"{results}; whether they were recorded XLA's dump does not show")
    return passed(part, f"{results}; XLA recorded all {inside} calls")
