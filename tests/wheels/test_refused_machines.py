"""Machines that are big-endian, or have no addresses of 64 bits: the build ends, and says why.

zig's clang, from PyPI, compiles for all of them. The tests need no header of theirs.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import ziglang

ROOT = Path(__file__).parents[2]
ZIG = Path(ziglang.__file__).with_name("zig")
CMAKE = Path(sys.executable).with_name("cmake")

BIG_ENDIAN = "this machine is not little-endian"
OF_32_BITS = "this machine is not one of 64 bits"
SUPPORTED = "nadam_xla supports little-endian machines of 64 bits"


def compiled_for(machine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """clang, for another machine, as far as it can go without that machine's headers."""
    command = [ZIG, "clang", "-target", f"{machine}-linux-gnu", "-std=c++17", "-fsyntax-only"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def header_for(machine: str) -> subprocess.CompletedProcess[str]:
    return compiled_for(machine, "-x", "c++-header", "kernels/machine.h")


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        ("powerpc64", BIG_ENDIAN),
        ("s390x", BIG_ENDIAN),
        ("aarch64_be", BIG_ENDIAN),
        ("i686", OF_32_BITS),
        ("armv7", OF_32_BITS),
        ("riscv32", OF_32_BITS),
    ],
)
def test_the_header_refuses(machine: str, why: str) -> None:
    result = header_for(machine)
    assert result.returncode != 0
    assert why in result.stderr
    assert SUPPORTED in result.stderr


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64", "powerpc64le"])
def test_the_header_takes_what_it_says_it_does(machine: str) -> None:
    result = header_for(machine)
    assert result.returncode == 0, result.stderr


# What the calls, and the loops, include first.
ENTRIES = ["update_call.h", "rows_call.h", "sum_squares_call.h", "cpu/loops.h"]


def test_every_layer_includes_the_header() -> None:
    for entry in ENTRIES:
        listed = ["-nostdinc", "-I.", "-M", "-MG", "-x", "c++", f"kernels/{entry}"]
        result = compiled_for("powerpc64", *listed)
        assert "kernels/machine.h" in result.stdout, entry


# clang itself, which makes no C++ library of the machine's to link a program with.
TOOLCHAIN = """
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR {machine})
set(CMAKE_CXX_COMPILER {zig} clang --target={machine}-linux-gnu)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
"""


@pytest.mark.parametrize(
    ("machine", "found"), [("powerpc64", "64 bits, BIG_ENDIAN"), ("i686", "32 bits, LITTLE_ENDIAN")]
)
def test_cmake_refuses_before_it_looks_for_anything(
    machine: str, found: str, tmp_path: Path
) -> None:
    toolchain = tmp_path / "toolchain.cmake"
    toolchain.write_text(TOOLCHAIN.format(machine=machine, zig=ZIG))
    result = subprocess.run(
        [CMAKE, "-S", ROOT, "-B", tmp_path / "build", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    said = " ".join(result.stderr.split())
    assert f"nadam_xla cannot be built for {machine}: it is a machine of {found}." in said
    assert "Only little-endian machines of 64 bits are supported" in said
