"""Sources of this repository, compiled by the tests that look at them alone."""

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import ROOT

COMPILER = os.environ.get("CXX", "c++")


class DoesNotCompileError(Exception):
    """With what the compiler says."""


def skip_where_the_compiler_is_for_another_machine() -> None:
    """Skips the whole module. Under an emulator the compiler is that of the machine around it."""
    command = [COMPILER, "-dumpmachine"]
    made_for = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if not made_for.startswith(platform.machine()):
        pytest.skip(f"{COMPILER} compiles for another machine", allow_module_level=True)


def compile_library(
    library: Path, *options: str | Path, sources: Sequence[str | Path] = (), code: str | None = None
) -> Path:
    """A library of these sources, or of this code, which find the headers of this repository."""
    given: Sequence[str | Path] = sources if code is None else ["-x", "c++", "-"]
    return _compile(library, ["-shared", "-fPIC", *options, *given], code)


def compile_program(program: Path, *options: str | Path, sources: Sequence[str | Path]) -> Path:
    """A program of these sources, which find the headers of this repository."""
    return _compile(program, [*options, *sources], None)


def _compile(made: Path, arguments: Sequence[str | Path], code: str | None) -> Path:
    made.parent.mkdir(exist_ok=True)
    command = [COMPILER, "-std=c++17", f"-I{ROOT}", *map(str, arguments), "-o", str(made)]
    done = subprocess.run(
        command, input=code, capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise DoesNotCompileError(done.stderr)
    return made
