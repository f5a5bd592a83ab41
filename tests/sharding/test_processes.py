"""examples/cluster.py in two processes over loopback, against one."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the example trains on scikit-learn's digits")

ROOT = Path(__file__).parents[2]
STEPS = 20
WATCHDOG_S = 240


def command(*arguments: object) -> list[str]:
    # Safe path: the package is found where this process finds it, not in the current folder.
    return [
        sys.executable,
        "-P",
        "-m",
        "examples.cluster",
        "--steps",
        str(STEPS),
        *map(str, arguments),
    ]


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The example in a process that is gone afterwards, whatever happens."""
    folders = [*filter(None, sys.path), str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    process = subprocess.Popen(
        command(*arguments),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def losses_of(*processes: subprocess.Popen[str]) -> np.ndarray:
    """What the first process prints, once all have ended."""
    outputs = [process.communicate(timeout=WATCHDOG_S) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    printed = re.findall(r"^step \d+: loss (\S+)$", outputs[0][0], re.MULTILINE)
    return np.array([float(loss) for loss in printed])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def losses_of_one_process() -> np.ndarray:
    with started() as process:
        return losses_of(process)


@pytest.mark.parametrize("zero1", [False, True], ids=["data-parallel", "zero-1"])
def test_two_processes_give_the_losses_of_one(
    zero1: bool, losses_of_one_process: np.ndarray
) -> None:
    address = f"127.0.0.1:{free_port()}"
    flags = ["--zero1"] if zero1 else []
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                started(
                    "--coordinator",
                    address,
                    "--processes",
                    2,
                    "--process",
                    i,
                    "--devices-a-process",
                    2,
                    *flags,
                )
            )
            for i in range(2)
        ]
        losses = losses_of(*processes)
    assert len(losses) == STEPS
    assert losses[-1] < 0.7 * losses[0]
    np.testing.assert_allclose(losses, losses_of_one_process, rtol=1e-4)
