"""How the update of a table's rows is spread over a mesh: each device updates those that it holds.

The rows of the table may be sharded, and its columns, if only all tables are alike; the gradients'
columns are sharded as the tables' are, and every device has all their rows. It takes its own first
row from the indices, so that those of rows that others hold are outside of its part of the table.
No device tells another anything.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import SdyShardingRule, custom_partitioning
from jax.sharding import NamedSharding

from nadam_xla import targets
from nadam_xla.jax.partitioning import Shaped, as_one_device, mapping, shown_in_program, with_shards
from nadam_xla.jax.rows_primitive import update_rows_call_p
from nadam_xla.jax.specs import Entry, axes_in, axes_of, spec
from nadam_xla.streams import Streams


def _update(streams: Streams, *operands: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(update_rows_call_p.bind(*operands, streams=streams))


def _partition(
    streams: Streams, mesh: Any, operands: Sequence[Shaped], results: Sequence[Shaped]
) -> tuple[Any, Any, Any, Any]:
    """The update of one shard, and the shardings that the partitioner must bring about."""
    del results
    coefficients, _, like, *_ = operands
    has_batch = coefficients.shape[0] != 1
    entries = (*like.sharding.spec, *[None] * like.ndim)[: like.ndim]
    batch: list[Entry] = [entries[0]] if has_batch else []
    of_rows, *of_columns = entries[len(batch) :]
    lead = batch or [None]

    def layout(*entries: Entry) -> Any:
        return NamedSharding(mesh, spec(*entries))

    table = layout(*entries)
    layouts = [
        layout(*batch, None, *of_columns) if name == "grads" else table for name in streams.operands
    ]

    def update_shard(
        coefficients: jax.Array, indices: jax.Array, *shards: jax.Array
    ) -> tuple[jax.Array, ...]:
        with as_one_device():
            if streams.is_drawn:
                coefficients = with_shards(coefficients, [axes_of([of_rows, *of_columns])])
            names = axes_in(of_rows)
            if names:
                height = shards[0].shape[len(batch)]
                first = jax.lax.axis_index(names) * jnp.asarray(height, indices.dtype)
                indices = indices - first  # the least one, which wraps, is then behind the shard
        if has_batch and coefficients.shape[0] == 1:  # which is no batch to the call
            alone = _update(streams, coefficients, *(x[0] for x in (indices, *shards)))
            return tuple(x[None] for x in alone)
        return _update(streams, coefficients, indices, *shards)

    return (
        mesh,
        update_shard,
        (table,) * len(streams.overwritten),
        (layout(*lead, None, None), layout(*batch, None), *layouts),
    )


def _sharding_rule(
    streams: Streams, mesh: Any, operands: Sequence[Any], results: Sequence[Any]
) -> SdyShardingRule:
    """Each dimension of the table is one factor, in all tables; a column also in the gradients."""
    del mesh, results
    coefficients, _, like, *_ = operands
    batch = ["batch"] if coefficients.shape[0] != 1 else []
    columns = [f"column{i}" for i in range(len(like.shape) - len(batch) - 1)]
    table = mapping(*batch, "row", *columns)
    grads = mapping(*batch, "touched", *columns)
    return SdyShardingRule(
        (
            mapping("batch", "only", "coefficient"),
            mapping(*batch, "touched"),
            *(grads if name == "grads" else table for name in streams.operands),
        ),
        (table,) * len(streams.overwritten),
    )


_update_partitioned = custom_partitioning(_update, static_argnums=(0,))
_update_partitioned.def_partition(partition=_partition, sharding_rule=_sharding_rule)


def update_rows_partitioned(*operands: jax.Array, streams: Streams) -> tuple[jax.Array, ...]:
    """The results of one call, each device computing those of the shards that it holds.

    Args:
        operands: those of the primitive.
        streams: which tables they are.
    """
    with shown_in_program(targets.UPDATE_ROWS, streams.attributes()):
        results: tuple[jax.Array, ...] = _update_partitioned(streams, *operands)
    return results
