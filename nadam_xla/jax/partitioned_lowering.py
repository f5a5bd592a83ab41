"""How one call reaches XLA on a mesh: by Shardy, each device updating what it holds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.interpreters import mlir
from jax.interpreters.mlir import ShardingContext, SPMDAxisContext

from nadam_xla.blockwise import SCALES
from nadam_xla.jax.availability import is_exported, why_no_partitioning
from nadam_xla.jax.partitioning import update_partitioned
from nadam_xla.jax.primitive import Call

# Groups are numbered per program; this is beyond those that jax.experimental.shard_alike gives out.
_FIRST_SHARDING_GROUP = 1 << 40


def is_partitioned(axes: Any) -> bool:
    """Whether the partitioner spreads what is lowered in this axis context over several devices."""
    if isinstance(axes, SPMDAxisContext):
        return set(axes.manual_axes) != set(axes.mesh.axis_names)
    return isinstance(axes, ShardingContext) and axes.num_devices > 1


def lower_partitioned(ctx: Any, table: Any, *leaves: Any, call: Call) -> Any:
    """One call on each device, each leaf sharded as stock's arithmetic would be.

    Through stock's arithmetic the partitioner carries the sharding of any of a leaf's arrays to all
    others, before it looks at matrix products. It looks at a call after those. Where the leaves of
    a call are sharded over the same mesh axes in unlike ways, it carries nothing through the call.

    So each leaf's arrays are put into a sharding group, which the partitioner shards alike. The
    group has what stands behind a barrier, not the arrays themselves: these may be held otherwise,
    as the whole parameters of ZeRO-1 are.
    """
    n = call.streams.leaves(len(leaves))
    groups = [new_sharding_group(ctx) for _ in range(n)]
    alike = list(leaves)
    # Scales are of another shape, and take the sharding of their codes from the rule of the call.
    places = call.streams.by_name(range(len(leaves)))
    # Where the moments and the parameters contradict each other, the first one here has its way.
    order = [name for name in ("mu", "nu", "average", "params", "grads") if name in places]
    for i in (i for name in order for i in places[name]):
        alike[i] = behind_barrier(leaves[i], groups[i % n])
    results = lower_partitioned_function(partial(update_partitioned, call=call), ctx, table, *alike)
    for i, result in enumerate(results):
        if call.streams.overwritten[i // n] not in SCALES.values():
            join_sharding_group(result, groups[i % n])
    return results


def lower_partitioned_function(function: Callable[..., Any], ctx: Any, *operands: Any) -> Any:
    """The results of a function that Python partitions, on values of MLIR."""
    module = ctx.module_context
    first = len(module.keepalives)
    results = mlir.lower_fun(function, multiple_results=True)(ctx, *operands)
    module.keepalives[first:] = [_NeededToCompile(*module.keepalives[first:])]
    return results


class _NeededToCompile:
    """Keeps alive what the partitioner asks, and is empty once pickled.

    JAX hangs it on the executable for good, and ``jax.experimental.serialize_executable`` pickles
    all that hangs there: local functions, which it cannot.
    """

    def __init__(self, *objects: object) -> None:
        self._objects = objects

    def __reduce__(self) -> tuple[type["_NeededToCompile"], tuple[()]]:
        return _NeededToCompile, ()


def new_sharding_group(ctx: Any) -> int:
    """The number of a group of values that the program has not yet."""
    number: int = ctx.module_context.new_channel()
    return _FIRST_SHARDING_GROUP + number


def behind_barrier(value: Any, group: int) -> Any:
    """The value behind a barrier, where it is one of the group and has not been before."""
    barrier = mlir.ir.Operation.create(
        "stablehlo.optimization_barrier", results=[value.type], operands=[value]
    )
    join_sharding_group(barrier.results[0], group)
    return barrier.results[0]


def join_sharding_group(value: Any, group: int) -> None:
    """Puts the value into a group, all of whose values are sharded alike."""
    number = mlir.i64_attr(group)
    mlir.ir.Operation.create(
        "sdy.sharding_group", operands=[value], attributes={"group_id": number}
    )


def can_partition_call(ctx: Any, *, names_axes: bool) -> bool:
    """Whether a partitioned call will do; XLA can always partition plain StableHLO.

    Axes of a mesh have no names where ``shard_map`` is manual over some of them only, and where
    there is no mesh.

    Args:
        ctx: the context of the lowering.
        names_axes: whether the call needs them: to match a batch of rows to the leaves, or to tell
            which shard a device has.
    """
    has_mesh = getattr(ctx.module_context.axis_context, "abstract_mesh", None) is not None
    reason = why_no_partitioning(exported=is_exported(ctx))
    return reason is None and (has_mesh or not names_axes)


def devices_during_lowering() -> set[Any]:
    """JAX's registry of the primitives whose lowering must know the devices of the mesh.

    ``custom_partitioning`` needs them. JAX enters its own primitive here and offers no public way
    for one that becomes it only when it is lowered.

    Raises:
        ImportError: this JAX keeps no such registry.
    """
    try:
        from jax._src.dispatch import prim_requires_devices_during_lowering as registry  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            f"nadam_xla cannot be partitioned by JAX {jax.__version__}: it is tested with 0.8.2 to"
            " 0.12, which list in jax._src.dispatch the primitives that need devices when lowered"
        ) from error
    return registry
