"""Every float32 through every encoder and decoder, or as many as ``--one-in`` says."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import started

from nadam_xla import _native

SWEEP = Path(__file__).with_name("sweep.py")
PROCESSES = len(os.sched_getaffinity(0))

Digests = Callable[[str, str], list[str]]


@pytest.fixture(scope="module")
def digests(pytestconfig: pytest.Config) -> Digests:
    """Of a command and an instruction set, the digests of parts that are tried at once."""
    parts = PROCESSES * pytestconfig.getoption("--one-in")
    seed = pytestconfig.getoption("--seed")

    def of(command: str, instruction_set: str) -> list[str]:
        environment = {"NADAM_XLA_MAX_ISA": instruction_set}
        with ExitStack() as stack:
            processes = [
                stack.enter_context(
                    started(SWEEP, command, part, parts, seed, environment=environment)
                )
                for part in range(PROCESSES)
            ]
            found = []
            for process in processes:
                output, errors = process.communicate()
                assert process.returncode == 0, errors
                name, digest = output.split()
                assert name == instruction_set
                found.append(digest)
            return found

    return of


@pytest.fixture(scope="module")
def checked(digests: Digests) -> list[str]:
    """The digests of what the widest instruction set stores, which is right."""
    return digests("check", _native.available_instruction_sets()[-1])


def test_the_widest_set_and_the_cuda_kernels_store_what_they_must(checked: list[str]) -> None:
    assert all(map(int, checked))


@pytest.mark.parametrize("name", _native.available_instruction_sets()[:-1])
def test_every_other_one_stores_the_same(name: str, checked: list[str], digests: Digests) -> None:
    assert digests("digest", name) == checked
