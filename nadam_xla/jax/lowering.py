"""How the primitive reaches XLA: a custom call where there is a kernel, else plain StableHLO."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.interpreters import mlir

from nadam_xla import targets
from nadam_xla.calls import in_order_of_birth
from nadam_xla.jax.availability import has_kernel, platform_of_calls
from nadam_xla.jax.donation import overwritable
from nadam_xla.jax.dtypes import as_stored
from nadam_xla.jax.early_calls import lower_in_calls
from nadam_xla.jax.partitioned_lowering import (
    can_partition_call,
    devices_during_lowering,
    is_partitioned,
    lower_partitioned,
)
from nadam_xla.jax.primitive import (
    Call,
    dtypes_of_results,
    nadam_update_p,
    reference,
    reference_of_row,
    update_call_p,
)
from nadam_xla.jax.registration import register_handlers
from nadam_xla.jax.table_columns import columns_of, constant_of
from nadam_xla.platforms import NAMES
from nadam_xla.streams import Streams, of_leaves


def install() -> None:
    """Registers the handlers with JAX's XLA, and the primitive's lowerings.

    Raises:
        ImportError: jaxlib's FFI is older than the one that the kernels were built for.
    """
    register_handlers()
    devices_during_lowering().add(nadam_update_p)
    # Not cached: JAX would lower it into a function of its own, in which no operand tells whether
    # the caller donated it. One rule for all platforms: JAX 0.10 to 0.12 fails on a program for
    # several platforms where a primitive has several rules that are not cached.
    mlir.register_lowering(nadam_update_p, _lower, cacheable=False)
    for platform in NAMES:
        mlir.register_lowering(update_call_p, lower_call, platform=platform)


def _lower(ctx: Any, *operands: Any, streams: Streams) -> Any:
    """The primitive as users bind it: one call, or one on each device of a mesh."""
    platforms = ctx.platforms or ctx.module_context.platforms
    with_kernel = [has_kernel(platform, ctx) for platform in platforms]
    partitioned = is_partitioned(ctx.module_context.axis_context)
    if any(with_kernel) and not all(with_kernel) and not partitioned:
        return _lower_to_choice(ctx, *operands, streams=streams)
    batch = ctx.avals_in[0].shape[0]
    names_axes = batch != 1 or streams.is_drawn
    if not all(with_kernel) or (partitioned and not can_partition_call(ctx, names_axes=names_axes)):
        return _lower_row_to_stablehlo(ctx, *operands, streams=streams)
    lower = lower_partitioned if partitioned else lower_call
    whole = Call(streams, overwritable(ctx, operands, streams), first_row=0)
    platform = platform_of_calls(platforms)
    return lower_in_calls(lower, ctx, *operands, whole=whole, platform=platform)


def lower_call(ctx: Any, *operands: Any, call: Call) -> Any:
    """One call, on this device."""
    _, *leaves = operands
    aliases = {
        operand: result
        for operand, result in call.streams.aliases(call.streams.leaves(len(leaves))).items()
        if operand in call.aliased
    }
    lower = jax.ffi.ffi_lowering(targets.UPDATE, operand_output_aliases=aliases)
    return lower(ctx, *operands, **_attributes(call.streams, call.first_row))


def _attributes(streams: Streams, first_row: int) -> dict[str, Any]:
    """Those of the call, in the types of numpy by which JAX tells how it encodes them."""
    return {
        name: np.bool_(value) if isinstance(value, bool) else np.int64(value)
        for name, value in streams.attributes(first_row).items()
    }


def _by_platform(*operands: jax.Array, streams: Streams) -> Any:
    """Both ways, in an exported program that chooses where it is run."""
    calls = {platform: partial(_in_full_calls, platform, streams=streams) for platform in NAMES}
    default = partial(reference, streams=streams)
    return jax.lax.platform_dependent(*operands, default=default, **calls)


def _in_full_calls(
    platform: str, table: jax.Array, *leaves: jax.Array, streams: Streams
) -> list[jax.Array]:
    """The update in calls of leaves whose gradients are all there."""
    n = streams.leaves(len(leaves))
    dtypes = dtypes_of_results(leaves, streams)
    results: list[Any] = [None] * len(dtypes)
    unknown = [-1] * n
    for call in in_order_of_birth(unknown, unknown, platform):
        own = of_leaves(len(streams.operands), call, n)
        operands = [as_stored(leaves[i]) for i in own]
        made = of_leaves(len(streams.overwritten), call, n)
        stored = dtypes_of_results(operands, streams)
        given = streams.by_name(leaves)
        like = [x for name in streams.overwritten for x in given[name]]
        types = [
            jax.typeof(like[i]).update(dtype=dtype, weak_type=False)
            for i, dtype in zip(made, stored, strict=True)
        ]
        aliases = {
            operand: result
            for operand, result in streams.aliases(len(call)).items()
            if operands[operand - 1].dtype == types[result].dtype
        }
        update = jax.ffi.ffi_call(targets.UPDATE, types, input_output_aliases=aliases)
        attributes = _attributes(streams, call[0])
        for i, result in zip(made, update(table, *operands, **attributes), strict=True):
            results[i] = result.astype(dtypes[i])
    return results


_lower_to_choice = mlir.lower_fun(_by_platform, multiple_results=True)
_lower_to_stablehlo = mlir.lower_fun(reference, multiple_results=True)


def _lower_row_to_stablehlo(ctx: Any, table: Any, *leaves: Any, streams: Streams) -> Any:
    """As few operations as the coefficients that are known leave over."""
    columns = columns_of(table)
    if columns is None:
        return _lower_to_stablehlo(ctx, table, *leaves, streams=streams)
    table_aval, *avals = ctx.avals_in
    known = [constant_of(column) for column in columns]
    given = [column for column, number in zip(columns, known, strict=True) if number is None]
    scalars = [table_aval.update(shape=())] * len(given)
    function = partial(reference_of_row, known=known, dtype=table_aval.dtype, streams=streams)
    lower = mlir.lower_fun(function, multiple_results=True)
    return lower(ctx.replace(avals_in=[*scalars, *avals]), *given, *leaves)
