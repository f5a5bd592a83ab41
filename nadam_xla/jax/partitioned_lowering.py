"""How one call reaches XLA on a mesh: by Shardy, each device updating what it holds."""

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
    module = ctx.module_context
    groups = [_FIRST_SHARDING_GROUP + module.new_channel() for _ in range(n)]
    alike = list(leaves)
    # Scales are of another shape, and take the sharding of their codes from the rule of the call.
    places = call.streams.by_name(range(len(leaves)))
    # Where the moments and the parameters contradict each other, the first one here has its way.
    order = [name for name in ("mu", "nu", "average", "params", "grads") if name in places]
    for i in (i for name in order for i in places[name]):
        barrier = mlir.ir.Operation.create(
            "stablehlo.optimization_barrier", results=[leaves[i].type], operands=[leaves[i]]
        )
        alike[i] = barrier.results[0]
        _join_sharding_group(alike[i], groups[i % n])
    update = partial(update_partitioned, call=call)
    first = len(module.keepalives)
    results = mlir.lower_fun(update, multiple_results=True)(ctx, table, *alike)
    module.keepalives[first:] = [_NeededToCompile(*module.keepalives[first:])]
    for i, result in enumerate(results):
        if call.streams.overwritten[i // n] not in SCALES.values():
            _join_sharding_group(result, groups[i % n])
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


def _join_sharding_group(value: Any, group: int) -> None:
    """Puts the value into a group, all of whose values are sharded alike."""
    number = mlir.i64_attr(group)
    mlir.ir.Operation.create(
        "sdy.sharding_group", operands=[value], attributes={"group_id": number}
    )


def can_partition_call(ctx: Any, *, batch: int, is_drawn: bool = False) -> bool:
    """Whether ``update_partitioned`` will do; XLA can always partition plain StableHLO.

    A batch of rows is matched to the leaves by the names of mesh axes, and so are the numbers of
    shards. They are lost where ``shard_map`` is manual over some axes only, and where there is no
    mesh.
    """
    has_mesh = getattr(ctx.module_context.axis_context, "abstract_mesh", None) is not None
    needs_mesh = batch != 1 or is_drawn
    return why_no_partitioning(exported=is_exported(ctx)) is None and (has_mesh or not needs_mesh)


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
