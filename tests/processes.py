"""Python in processes of their own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
WATCHDOG_S = 300


def output_of(
    code: str, *arguments: object, devices: int = 1, environment: Mapping[str, str] | None = None
) -> str:
    """What the code prints, run with this many JAX devices and the modules that are found here.

    Raises:
        AssertionError: the process failed; the message is what it wrote to its standard error.
    """
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = ["-c", code, *map(str, arguments)]
    with started(*command, environment=flags | dict(environment or {})) as process:
        return outputs_of(process)[0]


@contextmanager
def started(
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stderr: int | IO[bytes] = subprocess.PIPE,
) -> Iterator[subprocess.Popen[str]]:
    """Python with these arguments, in a process that is gone afterwards, whatever happens.

    It finds the modules that are found here, and those of the repository.

    Args:
        *arguments: of Python.
        environment: variables beside those of this process.
        stdin: as :class:`subprocess.Popen` has it.
        stderr: likewise.
    """
    folders = os.pathsep.join([*filter(None, sys.path), str(ROOT)])
    process = subprocess.Popen(
        # Safe path: the package is found where this process finds it, not in the current folder.
        [sys.executable, "-P", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": folders, **(environment or {})},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def outputs_of(*processes: subprocess.Popen[str]) -> list[str]:
    """What each process has printed, once all have ended.

    Raises:
        AssertionError: a process failed; the message is what it wrote to its standard error.
    """
    outputs = [process.communicate(timeout=WATCHDOG_S) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in outputs]


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
