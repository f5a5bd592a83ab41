"""How one update is spread over the devices of a mesh: each updates the shard that it holds.

XLA cannot look into a custom call, so it would gather every leaf for it. The update is element by
element: the dimensions of a leaf may be sharded in any way, if only all operands and results of
that leaf are sharded alike. This module tells the partitioner so.

Scales of moments in codes are sharded as the codes are. Blocks lie along the last axis: where a
device would hold a part of one, that axis is gathered.

Where rounding is stochastic, each device adds to the key of a leaf's random numbers which shard of
it is updated there: replicas then round alike, and shards do not repeat one another's numbers.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import (
    ArrayMapping,
    CompoundFactor,
    SdyShardingRule,
    custom_partitioning,
)
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import NamedSharding

from nadam_xla import targets
from nadam_xla.blockwise import BLOCK, SCALES
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.primitive import Call, update_call_p
from nadam_xla.jax.specs import axes_in, axes_of, spec

Shaped: TypeAlias = jax.ShapeDtypeStruct


def _update(call: Call, *operands: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(update_call_p.bind(*operands, call=call))


def _partition(
    call: Call,
    mesh: Any,
    operands: Sequence[Shaped],
    results: Sequence[Shaped],
) -> tuple[Any, Any, Any, Any]:
    """The update of one shard, and the shardings that the partitioner must bring about."""
    del results
    table, *leaves = operands
    n, groups = call.streams.leaves(len(leaves)), len(call.streams.operands)
    # The lowering has made the operands of a leaf alike.
    layouts = [leaf.sharding for leaf in leaves[:n]]
    if call.streams.has_scales:
        pairs = zip(layouts, leaves, strict=False)
        layouts = [_with_whole_blocks(mesh, layout, leaf.shape) for layout, leaf in pairs]
    has_batch = table.shape[0] != 1
    if has_batch:
        table_layout, layouts = _with_one_batch_axis(mesh, layouts)
    else:
        table_layout = table.sharding if mesh.empty else NamedSharding(mesh, spec())

    def update_shard(table: jax.Array, *shards: jax.Array) -> tuple[jax.Array, ...]:
        if not call.streams.is_drawn:
            return _update(call, table, *shards)
        # An entry of a batch has the numbers that it would have alone.
        axes = [axes_of(layout.spec[has_batch:]) for layout in layouts]
        with as_one_device():
            rows = with_shards(table[:, call.first_row : call.first_row + n], axes)
        return _update(call._replace(first_row=0), rows, *shards)

    return (
        mesh,
        update_shard,
        (*layouts,) * len(call.streams.overwritten),
        (table_layout, *layouts * groups, *(x.sharding for x in call.streams.awaited(leaves))),
    )


def _with_whole_blocks(mesh: Any, layout: Any, shape: tuple[int, ...]) -> Any:
    """The layout, of whose last axis each device holds whole blocks.

    Codes are drawn, so that without a mesh, whose axes would have no names, there is no call.
    """
    *leading, last = layout.spec
    parts = prod(mesh.shape[axis] for axis in axes_in(last))
    if shape[-1] % (BLOCK * parts) == 0:
        return layout
    return NamedSharding(mesh, spec(*leading, None))


def as_one_device() -> AbstractContextManager[Any]:
    """Where what one device does is traced: what is made there is on no mesh.

    JAX 0.8 and 0.12 put it on the explicit axes of the whole program, and say so to XLA, which
    knows of no sharding any more.
    """
    mesh: AbstractContextManager[Any] = jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((), ())
    )
    return mesh


def with_shards(rows: jax.Array, axes: Sequence[Sequence[str]]) -> jax.Array:
    """The rows of the leaves, with the number of the shard of each that this device holds.

    Args:
        rows: one for each leaf.
        axes: of each leaf, those of the mesh over which it is sharded.
    """
    numbers = [jax.lax.axis_index(tuple(names)) if names else jnp.int32(0) for names in axes]
    of_leaves = jnp.stack(numbers).astype(rows.dtype)[:, None]
    is_shard = np.arange(rows.shape[-1]) == Coefficients._fields.index("shard")
    return jnp.where(is_shard, of_leaves, rows)


def _with_one_batch_axis(mesh: Any, layouts: Sequence[NamedSharding]) -> tuple[Any, list[Any]]:
    """The layouts, all with one first dimension, and that of a table with such a batch.

    The sharding rule has made them so already, unless the caller forced leaves apart.
    """
    batch = next((layout.spec[0] for layout in layouts if layout.spec[0] is not None), None)
    taken = set(axes_in(batch))
    alike = []
    for layout in layouts:
        rest = (None if taken & set(axes_in(axes)) else axes for axes in layout.spec[1:])
        alike.append(NamedSharding(mesh, spec(batch, *rest)))
    return NamedSharding(mesh, spec(batch, None, None)), alike


def _sharding_rule(
    call: Call,
    mesh: Any,
    operands: Sequence[Any],
    results: Sequence[Any],
) -> SdyShardingRule:
    """Each dimension of a leaf is one factor, in all its operands and results.

    But for the last one of leaves with scales, which is blocks and what is within them. Codes and
    scales tell each other how that is sharded where any sharding over the mesh has whole blocks on
    each device. Elsewhere Shardy would cut an axis of the mesh in two, which JAX cannot read.
    """
    del results
    table, *leaves = (operand.shape for operand in operands)
    n = call.streams.leaves(len(leaves))
    has_batch = table[0] != 1

    def factors(leaf: int, rank: int) -> list[Any]:
        names = [f"leaf{leaf}dim{d}" for d in range(rank)]
        return ["batch", *names[1:]] if has_batch else names

    sizes: dict[str, Any] = {}
    of_leaves = [factors(i, len(shape)) for i, shape in enumerate(leaves[:n])]
    of_scales = [list(names) for names in of_leaves]
    if call.streams.has_scales:
        for i, shape in enumerate(leaves[:n]):
            of_scales[i][-1] = f"leaf{i}blocks"
            if shape[-1] % (BLOCK * mesh.size) == 0:
                of_leaves[i][-1] = CompoundFactor(f"leaf{i}blocks", "within")
                sizes["within"] = BLOCK

    def mappings(streams: Sequence[str]) -> list[ArrayMapping]:
        is_scales = (name in SCALES.values() for name in streams)
        groups = (of_scales if of_blocks else of_leaves for of_blocks in is_scales)
        return [mapping(*names) for group in groups for names in group]

    awaited = call.streams.awaited(leaves)
    free = (mapping(*(f"awaited{d}" for d in range(len(shape)))) for shape in awaited)
    return SdyShardingRule(
        (mapping("batch", "row", "coefficient"), *mappings(call.streams.operands), *free),
        tuple(mappings(call.streams.overwritten)),
        **sizes,
    )


def mapping(*factors: str | CompoundFactor) -> ArrayMapping:
    """Of the dimensions of one operand or result, which factor each is, for a sharding rule."""
    return ArrayMapping(*factors)


_update_partitioned = custom_partitioning(_update, static_argnums=(0,))
_update_partitioned.def_partition(partition=_partition, sharding_rule=_sharding_rule)


def update_partitioned(*operands: jax.Array, call: Call) -> tuple[jax.Array, ...]:
    """The results of one call, each device computing those of the shards that it holds.

    Args:
        operands: those of the call.
        call: what is static in it.
    """
    with shown_in_program(targets.UPDATE, call.streams.attributes(call.first_row)):
        results: tuple[jax.Array, ...] = _update_partitioned(call, *operands)
    return results


SHOWN_TARGET = "nadam_xla_target"


def shown_in_program(target: str, attributes: Mapping[str, Any]) -> Any:
    """A context in which the program shows what is static in a call, until it is partitioned.

    It must: JAX's persistent compilation cache tells programs apart by their text.

    Args:
        target: of the call.
        attributes: of the call.
    """
    shown = {f"nadam_xla_{name}": str(value).lower() for name, value in attributes.items()}
    return set_xla_metadata(**{SHOWN_TARGET: target}, **shown)
