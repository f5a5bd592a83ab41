"""What answers ``malloc`` in this process, and what a step with a large temporary block costs.

XLA asks for the temporary memory of a step as one block and gives it back after the step. An
allocator that gives such a block back to the system has the next step fault in every page anew.
"""

import ctypes
import resource
import statistics
from collections.abc import Callable
from pathlib import Path

from nadam_xla.diagnosis.facts import LargeStep
from nadam_xla.diagnosis.system import libc, transparent_huge_pages

SIDE = 4096
"""Of the square of float32 that a large step holds: 64 MiB, twice what glibc ever keeps."""

_SQUARE_BYTES = SIDE * SIDE * 4
_FIRST_STEPS, _STEPS = 3, 5
_NAMES = {
    "tcmalloc": "tcmalloc",
    "jemalloc": "jemalloc",
    "mimalloc": "mimalloc",
    "ld-musl": "musl's malloc",
}


def allocator() -> str | None:
    """What answers ``malloc``, by the library in which its code lies; None where it is unknown."""
    try:
        file = _mapped_file(ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value or 0)
    except (OSError, AttributeError):
        return None
    if file is None:
        return None
    for part, name in _NAMES.items():
        if part in file:
            return name
    return f"{libc()} malloc" if file.startswith(("libc.so", "libc-")) else file


def large_step(step: Callable[[], None]) -> LargeStep:
    """The page faults of a step that holds such a square, and what can be done about them."""
    for _ in range(_FIRST_STEPS):
        step()
    page_faults = statistics.median_low(_page_faults_of(step) for _ in range(_STEPS))
    faults_anew = page_faults * resource.getpagesize() > _SQUARE_BYTES / 2
    return {
        "temporary_mib": _SQUARE_BYTES / 2**20,
        "page_faults": page_faults,
        "faults_anew": faults_anew,
        "advice": _advice() if faults_anew else None,
    }


def _mapped_file(address: int) -> str | None:
    """The name of the file whose mapping holds the address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, *_ = line.split()
        begin, end = (int(number, 16) for number in addresses.split("-"))
        if begin <= address < end:
            return Path(line).name if "/" in line else None
    return None


def _page_faults_of(step: Callable[[], None]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _advice() -> str:
    """What was measured to help. Nothing that mimalloc can be told did."""
    name = allocator()
    if name == "jemalloc":
        return "MALLOC_CONF=oversize_threshold:0 has it keep that memory"
    advice = "LD_PRELOAD=libtcmalloc_minimal.so.4 keeps that memory"
    if name and name.startswith("glibc") and _takes_huge_pages():
        advice += "; GLIBC_TUNABLES=glibc.malloc.hugetlb=1 takes it in huge pages"
    return advice


def _takes_huge_pages() -> bool:
    """Whether ``malloc`` can ask for them: glibc 2.35 and later, and where the system lets it."""
    name, _, version = (libc() or "").partition(" ")
    return (
        name == "glibc"
        and tuple(map(int, version.split(".")[:2])) >= (2, 35)
        and transparent_huge_pages() in ("always", "madvise")
    )
