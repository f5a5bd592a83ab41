"""Whole training steps of the same networks in PyTorch, beside ours in JAX: for orientation.

The processes take turns, each on all cores. The frameworks' products and convolutions are not the
same, so what differs here is more than the optimizer.
"""

import os
from collections.abc import Callable, Iterator

from benchmarks.other_process import interleave_processes
from benchmarks.records import MILLISECONDS, OURS, Record, records_of

TURNS = 5
STEPS = {
    "12 dense layers of 1024, batch 64": 8,
    "40 dense layers of 512, batch 64": 8,
    "4 dense layers of 2048, batch 64": 8,
    "transformer, 12 layers of 512, unrolled": 1,
    "ResNet-18, 16 images of 32x32": 2,
}
CASES_MEASURED = len(STEPS)


def measure() -> Iterator[list[Record]]:
    """The records of each network."""
    for name, steps in STEPS.items():
        turns = interleave_processes((jax_contenders, torch_contenders), TURNS, name)
        yield records_of(
            "Whole training step, PyTorch beside JAX",
            name,
            parameters(name),
            turns,
            scale=MILLISECONDS / steps,
        )


def parameters(name: str) -> int:
    from benchmarks import torch_networks  # noqa: PLC0415 - heavy

    return sum(p.numel() for p in torch_networks.NETWORKS[name]().module.parameters())


def jax_contenders(name: str) -> dict[str, Callable[[], None]]:
    from benchmarks import networks, training_jax  # noqa: PLC0415 - that process's

    network = networks.NETWORKS[name]()._replace(steps=STEPS[name])
    _, run = training_jax.turn(network, *training_jax.contenders(None)[OURS])
    return {OURS: run}


def torch_contenders(name: str) -> dict[str, Callable[[], None]]:
    import torch  # noqa: PLC0415 - that process's

    from benchmarks import torch_networks  # noqa: PLC0415

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def contender(optimizer_of: Callable[..., torch.optim.Optimizer]) -> Callable[[], None]:
        network = torch_networks.NETWORKS[name]()
        optimizer = optimizer_of(network.module.parameters())

        def run() -> None:
            for _ in range(STEPS[name]):
                optimizer.zero_grad(set_to_none=True)
                outputs = network.module(network.inputs)
                torch.nn.functional.mse_loss(outputs, network.targets).backward()
                optimizer.step()

        return run

    return {
        "NAdam, foreach": contender(lambda p: torch.optim.NAdam(p, lr=1e-3, foreach=True)),
        "Adam, fused": contender(lambda p: torch.optim.Adam(p, lr=1e-3, fused=True)),
    }
