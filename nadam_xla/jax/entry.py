"""The update of one entry of stacks, where it lies: of one layer of those that a loop runs over.

``nadam_update_entry_p`` takes the entry's number, an int32 scalar, the table of coefficients,
``[1, rows, K]``, and the leaves' arrays in the order of their streams, of which the gradients are
those of the entry and all others stacks of entries along the first axis; behind them any values
that the update may wait for, and does not read. It returns the stacks of parameters, ``mu`` and
``nu``, in which that entry is updated. Its parameter ``leaves`` is the number of leaves.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from nadam_xla.jax.defining import define
from nadam_xla.jax.primitive import bind
from nadam_xla.streams import Streams

T = TypeVar("T")

STREAMS = Streams(has_params=True, returns_change=False)


def update_entry(
    index: jax.Array,
    table: jax.Array,
    *operands: jax.Array,
    leaves: int,
    apart: Callable[[jax.Array], jax.Array] = lambda param: param,
) -> list[jax.Array]:
    """The primitive's meaning: the entry taken out, updated, and put back.

    Args:
        index: the entry's number, an int32 scalar.
        table: ``[1, rows, K]``.
        *operands: the stacks and the entry's gradients, in the order of their streams.
        leaves: how many there are.
        apart: what an entry of the parameters goes through on its way out of its stack and back.
    """
    given = STREAMS.by_name(operands[: leaves * len(STREAMS.operands)])
    stacks = stacks_of(given)
    entries = {
        name: group if name == "grads" else [entry_of(stack, index) for stack in group]
        for name, group in given.items()
    }
    entries["params"] = [apart(param) for param in entries["params"]]
    flat = [x for name in STREAMS.operands for x in entries[name]]
    # Without the barrier XLA for TPUs computes a moment once more where it puts it back, of a stack
    # that it then copies in every turn.
    updated: list[jax.Array] = jax.lax.optimization_barrier(bind(table, *flat, streams=STREAMS))
    updated[:leaves] = [apart(param) for param in updated[:leaves]]
    return [with_entry(stack, new, index) for stack, new in zip(stacks, updated, strict=True)]


def stacks_of(given: Mapping[str, Sequence[T]]) -> list[T]:
    """What there is for each stack, in the order of the results.

    Args:
        given: what there is for each array, by its stream.
    """
    return [of_stack for name in STREAMS.overwritten for of_stack in given[name]]


def bind_entry(
    index: jax.Array, table: jax.Array, *operands: jax.Array, leaves: int
) -> list[jax.Array]:
    """The primitive, applied."""
    results: list[jax.Array] = nadam_update_entry_p.bind(index, table, *operands, leaves=leaves)
    return results


def entry_of(stack: jax.Array, index: jax.Array) -> jax.Array:
    """The entry of a stack."""
    entry: jax.Array = jax.lax.dynamic_index_in_dim(stack, index, 0, keepdims=False)
    return entry


def with_entry(stack: jax.Array, entry: jax.Array, index: jax.Array) -> jax.Array:
    """The stack with another entry."""
    new: jax.Array = jax.lax.dynamic_update_index_in_dim(stack, entry, index, 0)
    return new


def _abstract_eval(index: Any, table: Any, *operands: Any, leaves: int) -> list[Any]:
    del table
    if index.shape or index.dtype != jnp.int32:
        raise TypeError(f"the index is {index.str_short()}; it must be int32[]")
    given = STREAMS.by_name(operands[: leaves * len(STREAMS.operands)])
    stacks = stacks_of(given)
    for i, stack in enumerate(stacks):
        grad = given["grads"][i % leaves]
        if stack.shape[1:] != grad.shape or not stack.shape:
            raise TypeError(
                f"a stack is {stack.str_short()}, and the gradient of one of its entries"
                f" {grad.str_short()}"
            )
    return [stack.update(weak_type=False) for stack in stacks]


def _batch(
    operands: Sequence[Any], axes: Sequence[int | None], *, leaves: int
) -> tuple[list[jax.Array], list[int]]:
    mapped = jax.vmap(partial(update_entry, leaves=leaves), in_axes=tuple(axes))
    results = mapped(*operands)
    return results, [0] * len(results)


nadam_update_entry_p = define(
    "nadam_xla_update_entry", abstract_eval=_abstract_eval, reference=update_entry, batch=_batch
)
