"""On aarch64 the handlers store the bits that they store on x86-64.

Right calls of every target, with every stream, storage, rounding and shape, any bits as numbers,
and zeros, subnormals, infinities and NaN among numbers of about one: those of
tests/native_boundary. The handlers are those of the package as it is installed here, and of the
wheel for aarch64 that is published: so two compilers are compared, too.

AARCH64_PYTHON is what runs the wheel's, in an emulator; NATIVE_BITS and AARCH64_BITS are the
libraries of tests/native_boundary/bits.cpp for the two machines.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from nadam_xla import _native

ROOT = Path(__file__).parents[2]
CALLS = int(os.environ.get("CALLS", "2000"))


def digests(python: str, library: str, environment: Mapping[str, str]) -> list[str]:
    """What each call has stored."""
    command = [python, "-P", ROOT / "tests/native_boundary/bits.py", library, str(CALLS)]
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.fixture(scope="module")
def on_aarch64() -> list[str]:
    found = digests(os.environ["AARCH64_PYTHON"], os.environ["AARCH64_BITS"], {})
    assert len(found) == CALLS
    assert len(set(found)) > CALLS // 2, "most calls store something of their own"
    return found


@pytest.mark.parametrize("instruction_set", _native.available_instruction_sets())
def test_the_bits_are_those_of_x86(instruction_set: str, on_aarch64: list[str]) -> None:
    limit = {"NADAM_XLA_MAX_ISA": instruction_set}
    here = digests(sys.executable, os.environ["NATIVE_BITS"], limit)
    differ = [call for call in range(CALLS) if here[call] != on_aarch64[call]]
    assert not differ, f"{len(differ)} of {CALLS} calls differ, the first is call {differ[0]}"
