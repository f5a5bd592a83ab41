"""Sources of this repository, compiled by the tests that look at them alone."""

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import ROOT

COMPILER = os.environ.get("CXX", "c++")
LAUNCHER = os.environ.get("CMAKE_CXX_COMPILER_LAUNCHER", "").split()  # a cache of compilers
FLAGS = ["-std=c++17", f"-I{ROOT}"]


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
    library.parent.mkdir(exist_ok=True)
    given: Sequence[str | Path] = sources if code is None else ["-x", "c++", "-"]
    _run([COMPILER, *FLAGS, "-shared", "-fPIC", *options, *given, "-o", library], code)
    return library


def compile_program(program: Path, *options: str | Path, sources: Sequence[Path]) -> Path:
    """A program of these sources, each compiled by itself, as caches of compilers like it."""
    objects = [program.with_name(f"{source.stem}.o") for source in sources]
    for source, made in zip(sources, objects, strict=True):
        _run([*LAUNCHER, COMPILER, *FLAGS, *options, "-c", source, "-o", made])
    _run([COMPILER, *options, *objects, "-o", program])
    return program


def _run(command: Sequence[str | Path], code: str | None = None) -> None:
    words = list(map(str, command))
    done = subprocess.run(words, input=code, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise DoesNotCompileError(done.stderr)
