"""How the update of an entry reaches XLA: calls that update it where it lies, or plain slices."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from nadam_xla import targets
from nadam_xla.jax.availability import has_kernel, platform_of_calls
from nadam_xla.jax.dtypes import stored_dtype
from nadam_xla.jax.early_calls import (
    bytes_of,
    converted,
    functions_of,
    rows_in_order,
    widened,
)
from nadam_xla.jax.entry import (
    STREAMS,
    entry_of,
    nadam_update_entry_p,
    stacks_of,
    update_entry,
    with_entry,
)
from nadam_xla.jax.lowering import lower_call
from nadam_xla.jax.partitioned_lowering import (
    can_partition_call,
    devices_during_lowering,
    is_partitioned,
    lower_partitioned,
)
from nadam_xla.jax.primitive import Call
from nadam_xla.jax.program_order import add_operations
from nadam_xla.platforms import CUDA
from nadam_xla.program_order import PlannedCall, ProgramOrder, plan
from nadam_xla.streams import of_leaves

_layout_of_its_own_p = Primitive("nadam_xla_layout_of_its_own")
_layout_of_its_own_p.def_abstract_eval(lambda x: x)


def install() -> None:
    """Registers the primitive's lowering with JAX."""
    devices_during_lowering().add(nadam_update_entry_p)
    mlir.register_lowering(nadam_update_entry_p, _lower, cacheable=False)
    mlir.register_lowering(_layout_of_its_own_p, _lower_layout_of_its_own)


def _lower_layout_of_its_own(ctx: Any, x: Any) -> Any:
    """Shardy carries no layout across.

    The stack of parameters would else be sharded as the moments are, in the whole loop. With ZeRO-1
    it would be gathered in every turn, and once more behind the loop.
    """
    shardy = jax.config.jax_use_shardy_partitioner  # type: ignore[attr-defined]
    if not shardy or not is_partitioned(ctx.module_context.axis_context):
        return [x]
    i32 = mlir.ir.IntegerType.get_signless(32)
    none = mlir.ir.IntegerAttr.get(i32, 0)
    barrier = mlir.ir.Operation.create(
        "sdy.propagation_barrier",
        results=[x.type],
        operands=[x],
        attributes={"allowed_direction": none},
    )
    return barrier.results


def _lower(ctx: Any, index: Any, table: Any, *operands: Any, leaves: int) -> Any:
    """Calls on the stacks or on slices of them; where there is no kernel, plain arithmetic."""
    platforms = ctx.platforms or ctx.module_context.platforms
    partitioned = is_partitioned(ctx.module_context.axis_context)
    has_kernels = all(has_kernel(platform, ctx) for platform in platforms)
    if not has_kernels or (partitioned and not can_partition_call(ctx, names_axes=False)):
        plain = partial(update_entry, leaves=leaves, apart=_layout_of_its_own_p.bind)
        return mlir.lower_fun(plain, multiple_results=True)(ctx, index, table, *operands)
    calls = _planned(ctx, operands, leaves, platform_of_calls(platforms))
    if partitioned and platform_of_calls(platforms) == CUDA:
        # XLA for GPUs copies no stack for a slice, and to wait would only hold more memory.
        calls = [call._replace(awaited=None) for call in calls]
    is_known = all(x.dtype == stored_dtype(x.dtype) for x in ctx.avals_out)
    if partitioned:
        lower: Callable[..., Any] = partial(_lower_slices, lower_partitioned)
    elif is_known:
        lower = _lower_in_place
    else:
        lower = partial(_lower_slices, lower_call)
    return _lower_in_calls(ctx, lower, index, table, *operands, calls=calls, leaves=leaves)


def _planned(ctx: Any, operands: Sequence[Any], leaves: int, platform: str) -> list[PlannedCall]:
    """As many calls as the order of the gradients in the loop's body makes worth it.

    Nothing in the body but the gradients comes later, and so any value that is made of all that
    reads the entry will do to be awaited: the cotangent that the body hands on.
    """
    own = leaves * len(STREAMS.operands)
    given = STREAMS.by_name(operands[:own])
    stacks = stacks_of(given)
    order = ProgramOrder(stacks)
    add_operations(order, mlir.ir.InsertionPoint.current.block, functions_of(ctx))
    avals = ctx.avals_in[2:]
    sizes = [bytes_of(x) for x in STREAMS.by_name(avals[:own])["grads"]]
    values = [*given["grads"], *operands[own:]]
    return plan(order, values, [i % leaves for i in range(len(stacks))], sizes, platform)


def _lower_in_calls(
    ctx: Any,
    lower: Callable[..., Sequence[Any]],
    index: Any,
    table: Any,
    *operands: Any,
    calls: Sequence[PlannedCall],
    leaves: int,
) -> list[Any]:
    """The results of these calls, each of which ``lower`` makes."""
    n, own = leaves, leaves * len(STREAMS.operands)
    index_aval, table_aval, *avals = ctx.avals_in
    may_be_awaited = [*range(n, 2 * n), *range(own, len(operands))]
    has_rows = table_aval.shape[1] != 1
    if has_rows:
        in_order = [leaf for call in calls for leaf in call.leaves]
        table = rows_in_order(ctx, table_aval, table, in_order)
    results: list[Any] = [None] * len(ctx.avals_out)
    first_row = 0
    for call in calls:
        places = of_leaves(len(STREAMS.operands), call.leaves, n)
        awaited = [] if call.awaited is None else [may_be_awaited[call.awaited]]
        made = of_leaves(len(STREAMS.overwritten), call.leaves, n)
        context = ctx.replace(
            avals_in=[index_aval, table_aval, *(avals[i] for i in (*places, *awaited))],
            avals_out=[ctx.avals_out[i] for i in made],
        )
        row = first_row if has_rows else 0
        arguments = (index, table, *(operands[i] for i in (*places, *awaited)))
        for i, result in zip(made, lower(context, *arguments, first_row=row), strict=True):
            results[i] = result
        first_row += len(call.leaves)
    return results


def _lower_in_place(ctx: Any, index: Any, table: Any, *operands: Any, first_row: int) -> Any:
    """One call on the stacks themselves."""
    index_aval, table_aval, *avals = ctx.avals_in
    n = STREAMS.leaves(len(operands))
    own = n * len(STREAMS.operands)
    wide = [x.update(dtype=stored_dtype(x.dtype)) for x in avals[:own]]
    given = [converted(*of) for of in zip(operands[:own], avals[:own], wide, strict=True)]
    lower = jax.ffi.ffi_lowering(
        targets.UPDATE_ENTRY, operand_output_aliases=STREAMS.aliases(n, first=2)
    )
    context = ctx.replace(avals_in=[index_aval, table_aval, *wide, *avals[own:]])
    return lower(context, index, table, *given, *operands[own:], first_row=np.int64(first_row))


def _lower_slices(
    lower: Callable[..., Any], ctx: Any, index: Any, table: Any, *operands: Any, first_row: int
) -> Any:
    """One call on the entry that is taken out and put back.

    On a mesh parameters may be whole where their moments are sharded, and a call has all arrays of
    a leaf sharded alike.
    """
    index_aval, table_aval, *avals = ctx.avals_in
    n = STREAMS.leaves(len(operands))
    own = n * len(STREAMS.operands)
    given, types = STREAMS.by_name(operands), STREAMS.by_name(avals)
    stacks = stacks_of(given)
    of_stacks = stacks_of(types)
    of_entries = [x.update(shape=x.shape[1:], sharding=None) for x in of_stacks]
    take = mlir.lower_fun(partial(_entries, leaves=n), multiple_results=True)
    entries = take(
        ctx.replace(avals_in=[index_aval, *of_stacks], avals_out=of_entries), index, *stacks
    )
    call = Call(STREAMS, tuple(STREAMS.aliases(n)), first_row)
    in_order = [*entries[:n], *given["grads"], *entries[n:], *operands[own:]]
    types_in_order = [*of_entries[:n], *types["grads"], *of_entries[n:], *avals[own:]]
    context = ctx.replace(avals_in=[table_aval, *types_in_order], avals_out=of_entries)
    updated = widened(lower, context, table, *in_order, call=call)
    put_back = mlir.lower_fun(partial(_with_entries, leaves=n), multiple_results=True)
    return put_back(
        ctx.replace(avals_in=[index_aval, *of_stacks, *of_entries], avals_out=of_stacks),
        index,
        *stacks,
        *updated,
    )


def _entries(index: jax.Array, *stacks: jax.Array, leaves: int) -> list[jax.Array]:
    entries = [entry_of(stack, index) for stack in stacks]
    return [*map(_layout_of_its_own_p.bind, entries[:leaves]), *entries[leaves:]]


def _with_entries(index: jax.Array, *operands: jax.Array, leaves: int) -> list[jax.Array]:
    stacks, entries = operands[: 3 * leaves], list(operands[3 * leaves :])
    entries[:leaves] = map(_layout_of_its_own_p.bind, entries[:leaves])
    return [with_entry(stack, entry, index) for stack, entry in zip(stacks, entries, strict=True)]
