"""How the update of a table's rows reaches XLA: a custom call, or plain StableHLO."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from nadam_xla import targets
from nadam_xla.jax.availability import has_kernel
from nadam_xla.jax.dtypes import stored_dtype
from nadam_xla.jax.partitioned_lowering import (
    behind_barrier,
    can_partition_call,
    devices_during_lowering,
    is_partitioned,
    join_sharding_group,
    lower_partitioned_function,
    new_sharding_group,
)
from nadam_xla.jax.rows_partitioning import update_rows_partitioned
from nadam_xla.jax.rows_primitive import (
    nadam_update_rows_p,
    reference_of_rows,
    update_rows_call_p,
)
from nadam_xla.platforms import CPU, NAMES
from nadam_xla.streams import Streams
from nadam_xla.workspace import rows_workspace_bytes

_FIRST_TABLE = 2  # among the operands, behind the coefficients and the indices


def install() -> None:
    """Registers the primitive's lowerings with JAX."""
    devices_during_lowering().add(nadam_update_rows_p)
    mlir.register_lowering(nadam_update_rows_p, _lower, cacheable=False)
    for platform in NAMES:
        lower = mlir.lower_fun(partial(_call, platform), multiple_results=True)
        mlir.register_lowering(update_rows_call_p, lower, platform=platform)


def _lower(ctx: Any, *operands: Any, streams: Streams) -> Any:
    """One call, or one on each device of a mesh, or none where a table's dtype has no kernel."""
    platforms = ctx.platforms or ctx.module_context.platforms
    with_kernel = [has_kernel(platform, ctx) for platform in platforms]
    is_known = all(x.dtype == stored_dtype(x.dtype) for x in ctx.avals_out)
    partitioned = is_partitioned(ctx.module_context.axis_context)
    if not (any(with_kernel) and is_known):
        return _lower_to_stablehlo(ctx, *operands, streams=streams)
    if partitioned:
        if all(with_kernel) and can_partition_call(ctx, names_axes=True):
            return _lower_partitioned(ctx, *operands, streams=streams)
        return _lower_to_stablehlo(ctx, *operands, streams=streams)
    if len(platforms) > 1:
        return _lower_to_choice(ctx, *operands, streams=streams)
    lower = mlir.lower_fun(partial(_call, platforms[0]), multiple_results=True)
    return lower(ctx, *operands, streams=streams)


def _lower_partitioned(
    ctx: Any, coefficients: Any, indices: Any, *leaves: Any, streams: Streams
) -> Any:
    """One call on each device; all tables are sharded alike, as stock's arithmetic has them."""
    group = new_sharding_group(ctx)
    given = dict(zip(streams.operands, leaves, strict=True))
    # Where the moments and the parameters contradict each other, the first one here has its way.
    for name in ("mu", "nu", "params"):
        given[name] = behind_barrier(given[name], group)
    update = partial(update_rows_partitioned, streams=streams)
    results = lower_partitioned_function(update, ctx, coefficients, indices, *given.values())
    for result in results:
        join_sharding_group(result, group)
    return results


def _call(
    platform: str,
    coefficients: jax.Array,
    indices: jax.Array,
    *leaves: jax.Array,
    streams: Streams,
) -> list[jax.Array]:
    """The call of a platform, in the memory of the tables."""
    given = streams.by_name(leaves)
    grads = given["grads"][0]
    operands = [grads.astype(stored_dtype(x.dtype)) if x is grads else x for x in leaves]
    tables = [x for name in streams.overwritten for x in given[name]]
    types = [jax.typeof(x).update(weak_type=False) for x in tables]
    if platform == CPU:
        size = rows_workspace_bytes(indices.shape[-1])
        types.append(types[0].update(shape=(size,), dtype=jnp.dtype(jnp.uint8)))
    else:
        operands.append(_order_of(indices))
    update = jax.ffi.ffi_call(
        targets.UPDATE_ROWS,
        types,
        input_output_aliases=streams.aliases(1, first=_FIRST_TABLE),
    )
    results = update(coefficients, indices, *operands, **_attributes(streams))
    return list(results[: len(tables)])


def _order_of(indices: jax.Array) -> jax.Array:
    """The permutation under which they ascend, and equal ones stay in their order."""
    places = jax.lax.broadcasted_iota(jnp.int32, indices.shape, indices.ndim - 1)
    order: jax.Array
    _, order = jax.lax.sort((indices, places), is_stable=True, num_keys=1)
    return order


def _attributes(streams: Streams) -> dict[str, Any]:
    return {name: np.int64(value) for name, value in streams.attributes_of_rows().items()}


def _by_platform(*operands: jax.Array, streams: Streams) -> Any:
    """All ways, in an exported program that chooses where it is run."""
    calls = {platform: partial(_call, platform, streams=streams) for platform in NAMES}
    default = partial(reference_of_rows, streams=streams)
    return jax.lax.platform_dependent(*operands, default=default, **calls)


_lower_to_choice = mlir.lower_fun(_by_platform, multiple_results=True)
_lower_to_stablehlo = mlir.lower_fun(reference_of_rows, multiple_results=True)
