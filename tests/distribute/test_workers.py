"""MultiWorkerMirroredStrategy: two processes over loopback, against one."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import free_port, outputs_of, started

SCRIPT = Path(__file__).parent / "worker.py"
ARGUMENTS: list[dict[str, Any]] = [
    {"weight_decay": 0.1, "loss_scale_factor": 8.0},
    {"gradient_accumulation_steps": 3, "use_ema": True, "ema_overwrite_frequency": 2},
]


def trained(number: int) -> list[list[dict[str, Any]]]:
    """What each of so many workers has come to, with each of the arguments."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(number)]
    with ExitStack() as stack:
        workers = []
        for index in range(number):
            task = {"type": "worker", "index": index}
            cluster = json.dumps({"cluster": {"worker": addresses}, "task": task})
            environment = {"TF_CONFIG": cluster, "KERAS_BACKEND": "tensorflow"}
            worker = started(SCRIPT, json.dumps(ARGUMENTS), environment=environment)
            workers.append(stack.enter_context(worker))
        return [json.loads(output.splitlines()[-1]) for output in outputs_of(*workers)]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one() -> None:
    (one_process,) = trained(1)
    first, second = trained(2)
    assert first == second, "the replicas differ"
    for ours, expected in zip(first, one_process, strict=True):
        assert ours["losses"][-1] < ours["losses"][0]
        np.testing.assert_allclose(ours["losses"], expected["losses"], rtol=1e-5)
        for a, b in zip(ours["variables"], expected["variables"], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
