"""PyTorch's NAdam compiled, in a process of its own: its time may run out while it compiles."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import gpu_cases
from benchmarks.gpu_cases import COPY, LARGEST, TORCH_COMPILED, TRANSFORMER
from benchmarks.gpu_steps import Build
from benchmarks.gpu_torch_steps import TRACERS, copy, stepping
from benchmarks.shapes import Shapes

__all__ = ["CASES", "TRACERS", "contenders"]

# Of several hundred leaves, one step takes minutes to compile.
CASES = {name: gpu_cases.CASES[name] for name in (LARGEST, TRANSFORMER)}


def contenders(shapes: Shapes, dtype: str) -> dict[str, Build]:
    # Capturable: its counts are on the device, and a new one is no reason to compile again.
    nadam = partial(torch.optim.NAdam, lr=1e-3, foreach=True, capturable=True)

    def compiled(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
        torch.compiler.reset()
        return torch.compile(optimizer.step)

    return {COPY: copy, TORCH_COMPILED: lambda: stepping(nadam, shapes, dtype, compiled)}
