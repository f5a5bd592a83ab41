"""JAX on a GPU: ours and optax's step as XLA compiles it, in a compiled loop and a call a step."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.gpu_cases import COPY, OURS_CALL, OURS_LOOP, XLA_CALL, XLA_LOOP
from benchmarks.gpu_steps import Build, Run
from benchmarks.jax_steps import Leaves, Optimizer, calls, compiled_loop
from benchmarks.launches import seen_by_jax, seen_by_torch
from benchmarks.shapes import Shapes, elements
from nadam_xla.jax import nadam

TRACERS = (seen_by_jax, seen_by_torch)

BYTES_COPIED = 2**30
COPIES = 10
ELEMENTS_IN_LOOP = 2**34
STEPS_IN_LOOP = (10, 2000)  # at least and at most
LEAVES_A_STEP = 2  # of a loop at most, so that the one call with all leaves does not show
ELEMENTS_IN_CALLS = 2**31
STEPS_IN_CALLS = (5, 50)

_ours = nadam(1e-3)
_theirs = optax.nadam(1e-3)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _optax_init(params: Any) -> Any:
    return _theirs.init(_wide(params))


def _optax_step(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """With float32 moments and arithmetic, as ours has them."""
    updates, state = _theirs.update(_wide(grads), state, _wide(params))
    new = jax.tree.map(lambda p, u: (p.astype(jnp.float32) + u).astype(p.dtype), params, updates)
    return new, state


OURS: Optimizer = (_ours.init, _ours.apply)
XLA: Optimizer = (_optax_init, _optax_step)


class LeavesOnDevice(Leaves):
    """Leaves that are drawn where they stay."""

    def __init__(self, shapes: Shapes, dtype: str) -> None:
        keys = iter(range(2 * len(shapes)))
        self.params, self.grads = (
            [jax.random.normal(jax.random.key(next(keys)), shape, dtype) for shape in shapes]
            for _ in range(2)
        )

    def bytes_of_step(self) -> int:
        """Parameters are read and written, gradients read, two float32 moments read and written."""
        moments = 2 * 2 * 4 * sum(x.size for x in self.params)
        return sum(3 * x.nbytes for x in self.params) + moments


def contenders(shapes: Shapes, dtype: str) -> dict[str, Build]:
    leaves = LeavesOnDevice(shapes, dtype)
    parameters = elements(shapes)
    wanted = max(ELEMENTS_IN_LOOP // parameters, len(shapes) // LEAVES_A_STEP)
    in_loop = int(np.clip(wanted, *STEPS_IN_LOOP))
    in_calls = int(np.clip(ELEMENTS_IN_CALLS // parameters, *STEPS_IN_CALLS))

    def loop(optimizer: Optimizer) -> Run:
        run = compiled_loop(optimizer, leaves, in_loop)
        return Run(run, in_loop, leaves.bytes_of_step(), counted=False)

    def call(optimizer: Optimizer) -> Run:
        run = calls(optimizer, leaves, in_calls, donate=True)
        return Run(run, in_calls, leaves.bytes_of_step())

    return {
        COPY: copy,
        OURS_LOOP: partial(loop, OURS),
        XLA_LOOP: partial(loop, XLA),
        OURS_CALL: partial(call, OURS),
        XLA_CALL: partial(call, XLA),
    }


def copy() -> Run:
    source = jax.random.normal(jax.random.key(0), (BYTES_COPIED // 4,))
    compiled = jax.jit(jnp.copy)

    def run() -> None:
        for _ in range(COPIES):
            copied = compiled(source)
        copied.block_until_ready()

    return Run(run, COPIES, 2 * source.nbytes, counted=False)
