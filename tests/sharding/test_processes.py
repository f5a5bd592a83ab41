"""examples/cluster.py in two processes over loopback, against one."""

import re
import subprocess
from contextlib import AbstractContextManager, ExitStack

import numpy as np
import pytest
from processes import free_port, outputs_of, started

pytest.importorskip("sklearn", reason="the example trains on scikit-learn's digits")

STEPS = 20


def example(*arguments: object) -> AbstractContextManager[subprocess.Popen[str]]:
    return started("-m", "examples.cluster", "--steps", STEPS, *arguments)


def losses_of(*processes: subprocess.Popen[str]) -> np.ndarray:
    """What the first process prints, once all have ended."""
    printed = re.findall(r"^step \d+: loss (\S+)$", outputs_of(*processes)[0], re.MULTILINE)
    return np.array([float(loss) for loss in printed])


@pytest.fixture(scope="module")
def losses_of_one_process() -> np.ndarray:
    with example() as process:
        return losses_of(process)


@pytest.mark.slow
@pytest.mark.parametrize("zero1", [False, True], ids=["data-parallel", "zero-1"])
def test_two_processes_give_the_losses_of_one(
    zero1: bool, losses_of_one_process: np.ndarray
) -> None:
    cluster = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
    cluster += ["--devices-a-process", 2, *(["--zero1"] if zero1 else [])]
    with ExitStack() as stack:
        processes = [stack.enter_context(example(*cluster, "--process", i)) for i in range(2)]
        losses = losses_of(*processes)
    assert len(losses) == STEPS
    assert losses[-1] < 0.7 * losses[0]
    np.testing.assert_allclose(losses, losses_of_one_process, rtol=1e-4)
