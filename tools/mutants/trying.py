"""Tries mutants in a copy of this repository."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.mutants.listed import ROOT, Mutant, Selection

COPIED = ("nadam_xla", "kernels", "tests", "tools", "pyproject.toml")
MODULES = ("nadam_xla._native", "nadam_xla._native_testing")

# Tests that take this much longer than all of their folder's without a mutant do not end.
TIMES_AS_LONG = 3
SECONDS_AT_LEAST = 60.0
SECONDS_UNMUTATED = 600.0

PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "tools.mutants.unshrunk")
SAME_EXAMPLES = "--hypothesis-seed=0"
SOME_FAILED = 1  # pytest's exit status
SHOWN_LINES = 60


class Fate(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    HUNG = "hung"  # which shows, too
    SURVIVED = "survived"
    NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Outcome:
    """What the tests said of a mutant."""

    fate: Fate
    seconds: float
    says: str  # which test found it, or what went wrong

    def is_expected_of(self, mutant: Mutant) -> bool:
        """Whether the list says so, too."""
        if mutant.survives is not None:
            return self.fate is Fate.SURVIVED
        return self.fate in {Fate.KILLED, Fate.HUNG}


class UnmutatedTestsError(Exception):
    """Tests that fail on the code as it stands say nothing of a mutant."""


class Workplace:
    """A copy of the package, its sources and its tests, where one mutant after the other is tried.

    The native modules are those of this environment. A Python file is mutated beside them; what
    tests a C++ file compiles it itself.
    """

    def __init__(self, folder: Path, source: Path = ROOT) -> None:
        """Copies.

        Args:
            folder: an empty one.
            source: what is copied.
        """
        self._folder = folder
        self._tree = folder / "tree"
        self._python = _environment(folder / "environment")
        self._runners: dict[tuple[object, ...], subprocess.Popen[str]] = {}
        for name in COPIED:
            _copy(source / name, self._tree / name)
        for module in MODULES:
            spec = find_spec(module)
            if spec is not None and spec.origin is not None:
                shutil.copy(spec.origin, self._tree / "nadam_xla")

    def __enter__(self) -> Self:
        """Has processes, which end with the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends them."""
        for runner in self._runners.values():
            runner.kill()
            runner.communicate()

    def unmutated(self, selection: Selection) -> float:
        """The seconds that the tests take on the code as it stands.

        Raises:
            UnmutatedTestsError: they fail.
        """
        start = time.monotonic()
        status, output = self._run(selection, SECONDS_UNMUTATED)
        if status != 0:
            raise UnmutatedTestsError(f"{' '.join(selection.tests)}: {status}\n{_tail(output)}")
        return time.monotonic() - start

    def try_mutant(self, mutant: Mutant, seconds_unmutated: float) -> Outcome:
        """What the tests say of the mutant; afterwards the code is as it was.

        Args:
            mutant: one of a file that is copied.
            seconds_unmutated: what its tests take without it, or more.
        """
        path = self._tree / mutant.file
        text = path.read_text()
        path.write_text(mutant.apply(text))
        start = time.monotonic()
        try:
            limit = max(SECONDS_AT_LEAST, TIMES_AS_LONG * seconds_unmutated)
            status, output = self._run(mutant.selection, limit)
        finally:
            path.write_text(text)
        fate, says = _judged(status, output)
        return Outcome(fate, time.monotonic() - start, says)

    def _run(self, selection: Selection, limit: float) -> tuple[int | None, str]:
        """The exit status, None where it was ended, and what it printed."""
        log = self._folder / "log"
        temporary = f"--basetemp={self._folder / 'temporary'}"
        arguments = [*PYTEST, SAME_EXAMPLES, temporary, *selection.tests]
        runner = self._runner(selection)
        assert runner.stdin is not None
        assert runner.stdout is not None
        runner.stdin.write(json.dumps([arguments, str(log), limit]) + "\n")
        runner.stdin.flush()
        status: int | None = json.loads(runner.stdout.readline())
        return status, log.read_text(errors="replace")

    def _runner(self, selection: Selection) -> subprocess.Popen[str]:
        key = selection.preloaded, selection.environment
        if key not in self._runners:
            # Compiled Python is found to be old by its time, in seconds, and its length: both may
            # be the same.
            own = {"PYTHONPATH": str(self._tree), "PYTHONDONTWRITEBYTECODE": "1"}
            self._runners[key] = subprocess.Popen(
                [self._python, "-m", "tools.mutants.preloaded", *selection.preloaded],
                cwd=self._tree,
                env=os.environ | own | dict(selection.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._runners[key]


def _judged(status: int | None, output: str) -> tuple[Fate, str]:
    if status is None:
        return Fate.HUNG, "ran past its limit"
    if status == 0:
        return Fate.SURVIVED, ""
    if "DoesNotCompileError" in output or status > SOME_FAILED:
        return Fate.NOT_TRIED, _tail(output)
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return Fate.KILLED, found[1] if found else f"ended with {status}"


def _tail(output: str) -> str:
    return "\n".join(output.splitlines()[-SHOWN_LINES:])


def _environment(folder: Path) -> Path:
    """A Python with the packages of this one, but without this package, which may be editable.

    Its finder, which a file beside the packages installs, would be asked before any folder.
    """
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if Path(path).name == "site-packages"]
    packages.joinpath("packages.pth").write_text("\n".join([*site.getsitepackages(), *here]))
    return folder / "bin/python"


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    else:
        shutil.copy(source, to)
