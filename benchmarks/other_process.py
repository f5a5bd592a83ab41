"""Contenders that cannot share a process, because their thread pools or their memory would mix."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

from nadam_xla.diagnosis.interleave import Turns, interleave

Build = Callable[..., Mapping[str, Callable[[], None]]]

# A pool of OpenMP spins for a while after its work, and would disturb the next contender.
SPINNING_SECONDS = 0.3


def interleave_processes(builds: Sequence[Build], turns: int, *arguments: Any) -> Turns:
    """Times the contenders of all ``build(*arguments)``, each build in a process of its own."""
    with ExitStack() as processes:
        contenders: dict[str, Callable[[], None]] = {}
        for build in builds:
            contenders |= processes.enter_context(in_another_process(build, *arguments))
        return interleave(contenders, turns, rest=SPINNING_SECONDS)


@contextmanager
def in_another_process(
    build: Callable[..., Mapping[str, Callable[[], Any]]],
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Callable[[], Any]]]:
    """The contenders that ``build(*arguments)`` makes in a process of its own.

    Each runs there when it is called here, and what it returns there is returned here. The process
    ends with the block.

    Args:
        build: a function of a module, which the other process imports.
        *arguments: of it; they are pickled.
        environment: variables that the process has beside those of this one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
    with mock.patch.dict(os.environ, environment or {}):
        process.start()
    theirs.close()
    try:
        yield {name: _remote(ours, name) for name in ours.recv()}
    finally:
        ours.close()
        process.join()


def peak_memory(build: Callable[..., Callable[[], None]], *arguments: Any) -> int:
    """The bytes that a process of its own held at most while it built a contender and ran it."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_memory, (build, arguments))


def _peak_memory(build: Callable[..., Callable[[], None]], arguments: tuple[Any, ...]) -> int:
    build(*arguments)()
    # Not getrusage: its figure begins with that of the process which started this one.
    status = Path("/proc/self/status").read_text()
    high_water_mark = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(high_water_mark.split()[1]) * 1024


def _remote(connection: Connection, name: str) -> Callable[[], Any]:
    def run() -> Any:
        connection.send(name)
        return connection.recv()

    return run


def _serve(connection: Connection, build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    contenders = build(*arguments)
    connection.send(list(contenders))
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        connection.send(contenders[name]())
