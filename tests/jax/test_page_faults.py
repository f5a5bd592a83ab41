"""The advice of docs/performance/page_faults.md, by the program that prints its figures."""

import re
from pathlib import Path

import pytest
from processes import outputs_of, started

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def faults_of_a_step(depth: int, width: int) -> dict[str, float]:
    """Those of our step, by allocator."""
    program = ("-m", "benchmarks.page_faults", "--turns", 2, "--depth", depth, "--width", width)
    with started(*program) as process:
        (printed,) = outputs_of(process)
    rows = re.findall(
        r"^\| (\w.*?) \| [\d.]+ \((\d+)\) \| [\d.]+ \(\d+\) \| [\d.]+ ", printed, re.M
    )
    return {allocator: float(faults) for allocator, faults in rows}


@pytest.mark.slow
def test_glibc_maps_a_large_block_anew_in_each_step_and_huge_pages_are_few() -> None:
    """Nine gradients of 4 MiB wait for their norm: more than glibc ever keeps."""
    if not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text():
        pytest.skip("this system has no transparent huge pages")
    faults = faults_of_a_step(9, 1024)
    pages_of_gradients = 9 * 1024 * 1024 * 4 / 4096
    assert faults["glibc"] > pages_of_gradients / 2
    assert faults["glibc, huge pages"] < faults["glibc"] / 4
