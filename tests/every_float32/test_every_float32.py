"""All 2**32 float32 numbers through every encoder and decoder, on each instruction set."""

from pathlib import Path
from typing import Any

import pytest
from processes import started

from nadam_xla import _native

SWEEP = Path(__file__).with_name("sweep.py")


def result_of(process: Any) -> list[str]:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.split()


@pytest.fixture(scope="module")
def checked() -> str:
    """The digest of what the widest instruction set stores, which is right."""
    widest = _native.available_instruction_sets()[-1]
    with started(SWEEP, "check", environment={"NADAM_XLA_MAX_ISA": widest}) as process:
        name, digest = result_of(process)
    assert name == widest
    return digest


def test_the_widest_instruction_set_stores_what_it_must(checked: str) -> None:
    assert int(checked) != 0


@pytest.mark.parametrize("name", _native.available_instruction_sets()[:-1])
def test_every_other_one_stores_the_same(name: str, checked: str) -> None:
    with started(SWEEP, "digest", environment={"NADAM_XLA_MAX_ISA": name}) as process:
        assert result_of(process) == [name, checked]
