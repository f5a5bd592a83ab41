"""Every float32 through every encoder and decoder."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import started

from nadam_xla import _native

SWEEP = Path(__file__).with_name("sweep.py")
PARTS = len(os.sched_getaffinity(0))  # each a process


def digests(command: str, instruction_set: str) -> list[str]:
    """Those of the parts, all of which run at once."""
    environment = {"NADAM_XLA_MAX_ISA": instruction_set}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                started(SWEEP, command, str(part), str(PARTS), environment=environment)
            )
            for part in range(PARTS)
        ]
        found = []
        for process in processes:
            output, errors = process.communicate()
            assert process.returncode == 0, errors
            name, digest = output.split()
            assert name == instruction_set
            found.append(digest)
        return found


@pytest.fixture(scope="module")
def checked() -> list[str]:
    """The digests of what the widest instruction set stores, which is right."""
    return digests("check", _native.available_instruction_sets()[-1])


def test_the_widest_set_and_the_cuda_kernels_store_what_they_must(checked: list[str]) -> None:
    assert all(map(int, checked))


@pytest.mark.parametrize("name", _native.available_instruction_sets()[:-1])
def test_every_other_one_stores_the_same(name: str, checked: list[str]) -> None:
    assert digests("digest", name) == checked
