"""Runs tests in processes that have the frameworks loaded, and nothing of this repository.

    python -m tools.mutants.preloaded MODULE...

Each line of the input is a run: the arguments for pytest, the file for what it prints, and the
seconds after which it is ended with all that it started, as it is where the command has ended. Each
line of the output is its exit status, or null where it was ended. To import JAX takes longer than
most tests do.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import pytest

PAUSE_S = 0.01


def main() -> None:
    """Loads, and then runs what it is told to."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for what modules print
    for name in sys.argv[1:]:
        import_module(name)
    if "nadam_xla" in sys.modules:
        raise RuntimeError("nadam_xla is loaded, so that a mutant of it would not be")
    for line in sys.stdin:
        print(json.dumps(_status(*json.loads(line))), file=answers, flush=True)


def _status(arguments: Sequence[str], log: str, seconds: float) -> int | None:
    command = os.getppid()
    process = os.fork()
    if process == 0:
        _run(arguments, log)
    until = time.monotonic() + seconds
    ended, status = os.waitpid(process, os.WNOHANG)
    while not ended and time.monotonic() < until and os.getppid() == command:
        time.sleep(PAUSE_S)
        ended, status = os.waitpid(process, os.WNOHANG)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if not ended:
        os.waitpid(process, 0)
        return None
    return os.waitstatus_to_exitcode(status)


def _run(arguments: Sequence[str], log: str) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, file in ((0, nothing), (1, output), (2, output)):
        os.dup2(file, stream)
    status = 1
    try:
        status = int(pytest.main(list(arguments)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
