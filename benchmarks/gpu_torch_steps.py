"""PyTorch on a GPU: NAdam by foreach and in a CUDA graph, and fused Adam."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_cases import COPY, TORCH_FOREACH, TORCH_FUSED, TORCH_GRAPH
from benchmarks.gpu_steps import Build, Run
from benchmarks.launches import seen_by_torch
from benchmarks.shapes import Shapes, elements

TRACERS = (seen_by_torch,)

BYTES_COPIED = 2**30
COPIES = 10
ELEMENTS_IN_TURN = 2**31
STEPS_IN_TURN = (5, 50)  # at least and at most
WARM_UP = 3  # before a capture

Optimizer = torch.optim.Optimizer


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def contenders(shapes: Shapes, dtype: str) -> dict[str, Build]:
    nadam = partial(torch.optim.NAdam, lr=1e-3, foreach=True)
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    capturable = partial(nadam, capturable=True)
    return {
        COPY: copy,
        TORCH_FOREACH: lambda: stepping(nadam, shapes, dtype, lambda optimizer: optimizer.step),
        TORCH_FUSED: lambda: stepping(adam, shapes, dtype, lambda optimizer: optimizer.step),
        TORCH_GRAPH: lambda: stepping(capturable, shapes, dtype, captured),
    }


def stepping(
    make: Callable[..., Optimizer],
    shapes: Shapes,
    dtype: str,
    way: Callable[[Optimizer], Callable[[], Any]],
) -> Run:
    """Steps of an optimizer over leaves of its own, in the way that is given."""
    element = getattr(torch, dtype)
    draw = partial(torch.randn, dtype=element, device=device())
    params = [torch.nn.Parameter(draw(shape)) for shape in shapes]
    for p in params:
        p.grad = draw(p.shape)
    step = way(make(params))
    steps = min(max(ELEMENTS_IN_TURN // elements(shapes), STEPS_IN_TURN[0]), STEPS_IN_TURN[1])

    def run() -> None:
        for _ in range(steps):
            step()
        wait()

    # Parameters are read and written, gradients read, two moments of their type read and written.
    return Run(run, steps, 7 * sum(p.nbytes for p in params))


def captured(optimizer: Optimizer) -> Callable[[], Any]:
    """The step as a CUDA graph, which is replayed."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph.replay


def copy() -> Run:
    source = torch.randn(BYTES_COPIED // 4, device=device())
    target = torch.empty_like(source)

    def run() -> None:
        for _ in range(COPIES):
            target.copy_(source)
        wait()

    return Run(run, COPIES, 2 * source.nbytes, counted=False)
