"""Processes that are forked from one that has imported what they need: a test can afford many.

That one computes nothing, so no framework has started in it, and its threads hold no lock.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from processes import started

WATCHDOG_S = 900  # of a life, which may be one of many programs on a machine

# Flags that make JAX's XLA compile quickly may be none of TensorFlow's.
BY_TENSORFLOW = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "XLA_FLAGS": ""}
"""The environment of programs on TensorFlow."""


class Life:
    """One such process, and the lines that it prints."""

    def __init__(self, nursery: subprocess.Popen[str], errors: BinaryIO) -> None:
        self._nursery = nursery
        self._errors = errors
        self.pid = int(self._line().removeprefix("born "))
        self.status: int | None = None
        """Once it has ended: its exit status, or the signal that ended it, negated."""

    def __iter__(self) -> Iterator[str]:
        """The lines, until it has ended."""
        while self.status is None:
            line = self._line()
            if line.startswith("ended "):
                self.status = int(line.removeprefix("ended "))
            else:
                yield line

    def kill(self) -> None:
        """By SIGKILL. What it had printed by then can still be read."""
        os.kill(self.pid, signal.SIGKILL)

    def said(self) -> str:
        """What it has written to its standard error, and those before it."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def printed(self) -> list[str]:
        """The lines of a process that ends well.

        Raises:
            AssertionError: it does not; the message is what it has written to its standard error.
        """
        lines = list(self)
        assert self.status == 0, f"ended with {self.status}\n{self.said()}"
        return lines

    def _line(self) -> str:
        assert self._nursery.stdout is not None
        line = self._nursery.stdout.readline()
        assert line, self.said()
        return line.rstrip("\n")


@contextmanager
def nursery(
    program: Path, *imports: str, environment: Mapping[str, str] | None = None
) -> Iterator[Callable[..., Life]]:
    """A function that begins a life, which runs the program's ``main`` with its arguments.

    Lives follow one another: the one before must have ended.

    Args:
        program: a file that defines ``main``.
        *imports: modules that are imported before any life begins.
        environment: variables beside those of this process.
    """
    with (
        TemporaryFile() as errors,
        started(
            __file__,
            program,
            *imports,
            environment=environment,
            stdin=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        lives: list[Life] = []

        def born(**arguments: Any) -> Life:
            assert process.stdin is not None
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
            lives.append(Life(process, errors))
            return lives[-1]

        try:
            yield born
        finally:
            if lives and lives[-1].status is None:
                lives[-1].kill()


def _serve(program: str, *imports: str) -> None:
    for module in imports:
        import_module(module)
    main = runpy.run_path(program)["main"]
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            print("born", os.getpid(), flush=True)
            signal.alarm(WATCHDOG_S)  # ends what hangs, whatever it hangs in
            main(**json.loads(line))
            return  # and ends as any program does
        _, status = os.waitpid(pid, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
