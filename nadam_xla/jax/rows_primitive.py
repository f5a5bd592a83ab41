"""The update of the rows of one table that a step touches, as a primitive.

``nadam_update_rows_p`` binds the table of coefficients, ``[batch, 1, K]``, the indices of the rows,
and one array for each of the streams: ``params``, ``grads``, ``mu``, ``nu``, and ``master`` where
there are master weights. ``grads`` has a row for each index, all others are tables of one shape.
Where ``batch`` is not 1, all lead with an axis of that size. It returns the tables ``params``,
``mu``, ``nu`` and ``master``, in which the rows that occur among the indices are updated, each with
the sum of its gradients. An index outside of the table is left out, and so is a negative one.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.defining import define
from nadam_xla.jax.explicit_axes import entries_of, fold_batches, reshard, shard_alike
from nadam_xla.jax.manual_axes import vary_alike
from nadam_xla.jax.primitive import batched_at, reference_rule
from nadam_xla.jax.random_bits import random_bits_of_rows
from nadam_xla.jax.rows import RowGradient, rows_of, summed, with_rows
from nadam_xla.jax.stored_results import BitsOf, key_of, zeros_of_leaf
from nadam_xla.streams import Streams

INDEX_DTYPES = ("int32", "int64")


def bind_rows(
    coefficients: jax.Array, rows: RowGradient, tables: Sequence[jax.Array], streams: Streams
) -> list[jax.Array]:
    """The primitive, applied.

    Inside ``shard_map`` the results vary over the mesh axes over which any of the operands does.

    Args:
        coefficients: ``[1, 1, K]``.
        rows: the gradient.
        tables: of each stream but the gradients.
        streams: which they are.
    """
    first, *states = tables
    leaves = vary_alike([rows.indices, first, rows.values, *states], coefficients)
    return _bind([coefficients, *leaves], streams)


def _bind(operands: Sequence[jax.Array], streams: Streams) -> list[jax.Array]:
    """The primitive on operands that explicit axes of the mesh shard alike.

    The tables are, as stock's arithmetic would have them; the gradients have their columns, and all
    else is whole, but for a batch.
    """
    coefficients, indices, first, grads, *states = operands
    batch = indices.ndim - 1
    tables = shard_alike([first, *states])
    entries = entries_of(jax.typeof(tables[0]))
    lead, columns = entries[:batch], entries[batch + 1 :]
    wanted = [(*(lead or (None,)), None, None), (*lead, None), (*lead, None, *columns)]
    coefficients, indices, grads = reshard([coefficients, indices, grads], wanted)
    results: list[jax.Array] = nadam_update_rows_p.bind(
        coefficients, indices, tables[0], grads, *tables[1:], streams=streams
    )
    return results


def reference_of_rows(
    coefficients: jax.Array, indices: jax.Array, *leaves: jax.Array, streams: Streams
) -> list[jax.Array]:
    """The primitive's meaning: rows are taken out of the tables, updated, and put back."""
    return _reference(coefficients, indices, leaves, streams, draws=True)


def _without_draws(
    coefficients: jax.Array, indices: jax.Array, *leaves: jax.Array, streams: Streams
) -> list[jax.Array]:
    """The same, rounded by numbers that cost nothing: no derivative depends on them."""
    return _reference(coefficients, indices, leaves, streams, draws=False)


def _reference(
    coefficients: jax.Array,
    indices: jax.Array,
    leaves: Sequence[jax.Array],
    streams: Streams,
    *,
    draws: bool,
) -> list[jax.Array]:
    of_table = partial(_reference_of_table, streams=streams, draws=draws)
    if coefficients.shape[0] == 1:
        return of_table(coefficients, indices, *leaves)
    return jax.vmap(of_table)(coefficients[:, None], indices, *leaves)


def _reference_of_table(
    coefficients: jax.Array,
    indices: jax.Array,
    *leaves: jax.Array,
    streams: Streams,
    draws: bool,
) -> list[jax.Array]:
    given = {name: leaf for name, (leaf,) in streams.by_name(leaves).items()}
    tables = [given[name] for name in streams.overwritten]
    table = given["params"]
    if not table.size or not indices.size:
        return tables
    touched = summed(RowGradient(indices, given["grads"]), table.shape[0], coefficients.dtype)
    taken = [
        touched.values if name == "grads" else rows_of(given[name], touched.indices)
        for name in streams.operands
    ]
    bits_of = _bits_of(touched.indices) if draws else zeros_of_leaf
    updated = reference_rule(coefficients, coefficients.dtype, taken, streams, bits_of)
    pairs = zip(tables, updated, strict=True)
    return [with_rows(old, touched.indices, new) for old, new in pairs]


def _bits_of(indices: jax.Array) -> BitsOf:
    """The random numbers that these rows of a table have when all of it is updated."""

    def bits_of(row: Coefficients, like: jax.Array, draw: int) -> jax.Array:
        columns = prod(like.shape[1:])
        return random_bits_of_rows(key_of(row), indices, columns, draw).reshape(like.shape)

    return bits_of


def _abstract_eval(coefficients: Any, indices: Any, *leaves: Any, streams: Streams) -> list[Any]:
    if (
        streams.has_scales
        or streams.has_average
        or streams.returns_change
        or not streams.has_params
    ):
        raise TypeError(f"nadam_update_rows got the streams {', '.join(streams.operands)}")
    if len(leaves) != len(streams.operands):
        raise TypeError(
            f"nadam_update_rows got {len(leaves)} arrays; it takes one of each of"
            f" {', '.join(streams.operands)}"
        )
    batch, rows, width = coefficients.shape
    if width != len(Coefficients._fields) or rows != 1:
        raise TypeError(
            f"nadam_update_rows got a table of coefficients of the shape {coefficients.shape}; it"
            f" has one row, of {len(Coefficients._fields)}"
        )
    lead = () if batch == 1 else (batch,)
    if indices.shape[:-1] != lead or str(indices.dtype) not in INDEX_DTYPES:
        raise TypeError(
            f"nadam_update_rows got the indices {indices.str_short()}; they must be int32 or int64,"
            f" of the shape {(*lead, 'touched')}"
        )
    given = {name: leaf for name, (leaf,) in streams.by_name(leaves).items()}
    like = given["params"]
    for name, leaf in given.items():
        columns = like.shape[len(lead) + 1 :]
        shape = (*indices.shape, *columns) if name == "grads" else like.shape
        has_dtype = name == "master" or jnp.issubdtype(leaf.dtype, jnp.floating)
        if leaf.shape != shape or leaf.ndim < len(lead) + 1 or not has_dtype:
            raise TypeError(
                f"nadam_update_rows got {leaf.str_short()} as {name}; it must be of the shape"
                f" {shape}, with an axis of rows, and of a floating dtype"
            )
    return [given[name].update(weak_type=False) for name in streams.overwritten]


def _batch(
    operands: Sequence[Any], axes: Sequence[int | None], *, streams: Streams
) -> tuple[list[jax.Array], list[int]]:
    """One call whatever is batched: every entry has its own tables, and its own row."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    moved = [batched_at(0, x, axis, size) for x, axis in zip(operands, axes, strict=True)]
    coefficients, *others = moved
    if coefficients.shape[1] != 1:
        folded, unfold = fold_batches(moved)
        return [unfold(x) for x in _bind(folded, streams)], [0] * len(streams.overwritten)
    if size == 1:  # which is no batch to the primitive
        results = _bind([x[0] for x in moved], streams)
        return [x[None] for x in results], [0] * len(results)
    results = _bind([coefficients[:, 0], *others], streams)
    return results, [0] * len(results)


nadam_update_rows_p = define(
    "nadam_xla_update_rows",
    abstract_eval=_abstract_eval,
    reference=reference_of_rows,
    batch=_batch,
    derivative=_without_draws,
)


def _abstract_eval_of_call(_: Any, __: Any, *leaves: Any, streams: Streams) -> list[Any]:
    given = streams.by_name(leaves)
    return [x.update(weak_type=False) for name in streams.overwritten for x in given[name]]


update_rows_call_p = Primitive("nadam_xla_update_rows_call")
"""The custom call, on one device. It never meets a transformation."""
update_rows_call_p.multiple_results = True
update_rows_call_p.def_abstract_eval(_abstract_eval_of_call)
