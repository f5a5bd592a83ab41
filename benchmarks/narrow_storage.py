"""Narrow storage in JAX: ours, ours in float32, optax as a user would write it, and the limit.

The limit is that of the memory for just the bytes that the storage moves.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.donation import carrying
from benchmarks.jax_steps import loop_of_steps, one_step, steps_in_calls, steps_in_loop
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.shapes import CASES, Shapes, elements
from nadam_xla import _native_testing
from nadam_xla.diagnosis.interleave import interleave
from nadam_xla.jax import nadam
from nadam_xla.storage import BLOCKWISE

TURNS = 9
FLOAT32 = "ours, float32"
LIMIT = "memory limit"
LISTS = ("4096x4096", "transformer, 108 leaves")

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


class Storage(NamedTuple):
    """A row of the benchmark: how it is stored, and how optax would be used for it."""

    params: str
    grads: str
    moments: str
    arguments: Mapping[str, Any]  # of our optimizer, beside the dtypes of the moments
    optax: Callable[["Storage"], "Contender"] | None  # None: it has nothing like it
    master_bytes: int = 0


class Contender(NamedTuple):
    init: Callable[[Any], Any]
    step: Step


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def ours(storage: Storage) -> Contender:
    dtypes = {"mu_dtype": storage.moments, "nu_dtype": storage.moments}
    tx = nadam(1e-3, **dtypes, **storage.arguments)
    return Contender(tx.init, tx.apply)


def optax_in_these_dtypes(storage: Storage) -> Contender:
    """Its state is cast to the dtype of the moments, which optax offers for the first alone."""
    tx = optax.nadam(1e-3)

    def init(params: Any) -> Any:
        return _with_moments_in(storage.moments, tx.init(params))

    def step(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), _with_moments_in(storage.moments, state)

    return Contender(init, step)


def optax_with_full_master(storage: Storage) -> Contender:
    """The optimizer's own parameters in float32, and a copy of them in the dtype of ours."""
    narrow = optax_in_these_dtypes(storage)

    def init(params: Any) -> Any:
        master = _cast(params, "float32")
        return narrow.init(master), master

    def step(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        del params
        inner, master = state
        master, inner = narrow.step(grads, inner, master)
        return _cast(master, storage.params), (inner, master)

    return Contender(init, step)


def _with_moments_in(dtype: str, state: Any) -> Any:
    def cast(x: Any) -> Any:
        if not isinstance(x, optax.ScaleByAdamState):
            return x
        return x._replace(mu=_cast(x.mu, dtype), nu=_cast(x.nu, dtype))

    return jax.tree.map(cast, state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))


BF16, F32 = "bfloat16", "float32"
STORAGES = {
    "bf16, moments f32": Storage(BF16, BF16, F32, {}, optax_in_these_dtypes),
    "f32, gradients and moments bf16": Storage(F32, BF16, BF16, {}, optax_in_these_dtypes),
    "all bf16": Storage(BF16, BF16, BF16, {}, optax_in_these_dtypes),
    "all bf16, stochastic": Storage(
        BF16, BF16, BF16, {"rounding": "stochastic"}, optax_in_these_dtypes
    ),
    "all bf16, remainder, stochastic": Storage(
        BF16,
        BF16,
        BF16,
        {"rounding": "stochastic", "master": "remainder"},
        optax_with_full_master,
        master_bytes=2,
    ),
    "all bf16, correction, stochastic": Storage(
        BF16,
        BF16,
        BF16,
        {"rounding": "stochastic", "master": "correction"},
        optax_with_full_master,
        master_bytes=1,
    ),
    "f32, moments of 8 bits": Storage(F32, F32, BLOCKWISE, {}, None),
    "bf16, moments of 8 bits": Storage(BF16, BF16, BLOCKWISE, {}, None),
    "bf16, moments of 8 bits, stochastic": Storage(
        BF16, BF16, BLOCKWISE, {"rounding": "stochastic"}, None
    ),
    "all f16": Storage("float16", "float16", "float16", {}, optax_in_these_dtypes),
}
IN_FLOAT32 = Storage(F32, F32, F32, {}, optax_in_these_dtypes)


def bytes_moved(storage: Storage) -> tuple[int, int, int, int, int]:
    """The bytes of an element of each stream: parameters, gradients, moments, master.

    Scales are left out, of which 256 elements share four bytes.
    """
    size = {name: jnp.dtype(name).itemsize for name in ("float32", "bfloat16", "float16")}
    size[BLOCKWISE] = 1
    moment = size[storage.moments]
    return size[storage.params], size[storage.grads], moment, moment, storage.master_bytes


class Leaves:
    """Parameters and gradients in the dtypes of a storage."""

    def __init__(self, shapes: Shapes, storage: Storage) -> None:
        rng = np.random.default_rng(0)
        self.params, self.grads = (
            [jnp.asarray(rng.standard_normal(s, np.float32), dtype) for s in shapes]
            for dtype in (storage.params, storage.grads)
        )


def measure() -> Iterator[list[Record]]:
    """The records of each case, one section after the other."""
    for case in LISTS:
        shapes = CASES[case]()
        for heading, runner, steps_of in (
            ("compiled loop of steps", _loop, steps_in_loop),
            ("a call a step, donated", _calls, steps_in_calls),
        ):
            steps = steps_of(elements(shapes))
            for name, storage in STORAGES.items():
                turns = interleave(_contenders(shapes, storage, steps, runner), TURNS)
                yield records_of(
                    f"Narrow storage, {case}, {heading}",
                    f"{name}, {_total(storage)} bytes",
                    elements(shapes),
                    turns,
                    scale=MILLISECONDS / steps,
                )


def _total(storage: Storage) -> int:
    params, grads, mu, nu, master = bytes_moved(storage)
    return 2 * (params + mu + nu + master) + grads


def _contenders(
    shapes: Shapes, storage: Storage, steps: int, runner: Any
) -> dict[str, Callable[[], None]]:
    limit = _native_testing.MemoryLimit(
        elements(shapes), len(os.sched_getaffinity(0)), bytes_moved(storage)
    )
    optax_of_storage = {}
    if storage.optax is not None:
        theirs = storage.optax(storage)
        optax_of_storage["optax"] = runner(theirs, Leaves(shapes, storage), steps)
    return {
        OURS: runner(ours(storage), Leaves(shapes, storage), steps),
        FLOAT32: runner(ours(IN_FLOAT32), Leaves(shapes, IN_FLOAT32), steps),
        **optax_of_storage,
        LIMIT: lambda: limit.run(steps),
    }


def _loop(contender: Contender, leaves: Leaves, steps: int) -> Callable[[], None]:
    compiled = jax.jit(loop_of_steps(contender.step, steps), donate_argnums=(0, 1))
    return carrying(compiled, _start(contender, leaves), [(leaves.grads,)])


def _calls(contender: Contender, leaves: Leaves, steps: int) -> Callable[[], None]:
    compiled = jax.jit(one_step(contender), donate_argnums=(0, 1))
    return carrying(compiled, _start(contender, leaves), [(leaves.grads,)] * steps)


def _start(contender: Contender, leaves: Leaves) -> tuple[Any, Any]:
    # Copies: an optimizer's own parameters may be those that are given.
    params = jax.tree.map(jnp.copy, leaves.params)
    return params, jax.tree.map(jnp.copy, contender.init(leaves.params))


CASES_MEASURED = len(LISTS) * 2 * len(STORAGES)
