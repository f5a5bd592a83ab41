"""The gradient of a table of which a step touches some rows: what it is, and its sum by rows."""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.export
import jax.numpy as jnp

from nadam_xla.calls import compute_dtype
from nadam_xla.jax.explicit_axes import by_partitioner, entries_of

PyTree: TypeAlias = Any


@dataclass(frozen=True, eq=False)
class RowGradient:
    """The gradient of a table, of those of its rows that a step touches: embeddings looked up.

    It stands in the place of a leaf among the gradients. The row at ``indices[i]`` has the gradient
    ``values[i]``, and that of an index which occurs more than once is the sum of them; all other
    rows have none. An index that is not a row's, negative ones among them, is left out.

    Attributes:
        indices: ``[touched]``, int32 or int64, in any order.
        values: ``[touched, *columns]``, of any floating dtype; summed in float32, or in float64
            where the table is computed in it.
    """

    indices: jax.Array
    values: jax.Array


# The values come first: optax.inject_hyperparams gives all numbers the dtype of the first leaf.
jax.tree_util.register_dataclass(RowGradient, data_fields=["values", "indices"], meta_fields=[])
# Exported programs have the name, and the order of the fields: they stay.
jax.export.register_pytree_node_serialization(
    RowGradient,
    serialized_name="nadam_xla.jax.RowGradient",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: (),
)


def is_rows(node: object) -> bool:
    """Whether a node of a pytree of gradients is a :class:`RowGradient`."""
    return isinstance(node, RowGradient)


def is_bcoo(node: object) -> bool:
    """Whether it is a sparse array of JAX's, which nobody has who has not imported them."""
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and isinstance(node, sparse.BCOO)


def is_sparse(node: object) -> bool:
    """Whether it is a gradient that is no array."""
    return is_rows(node) or is_bcoo(node)


def structure_of(grads: PyTree) -> Any:
    """The structure of the parameters that these are the gradients of."""
    return jax.tree.structure(grads, is_leaf=is_sparse)


def with_tables(grads: PyTree, tables: PyTree) -> PyTree:
    """The gradients with another array in the place of each that is no array.

    Args:
        grads: the gradients.
        tables: a tree with arrays for them. Where its structure is another, no array is of any use.
    """
    treedef = structure_of(grads)
    leaves = treedef.flatten_up_to(grads)
    arrays = jax.tree.leaves(tables) if treedef == jax.tree.structure(tables) else leaves
    pairs = zip(leaves, arrays, strict=True)
    values = (table if is_sparse(leaf) else leaf for leaf, table in pairs)
    return treedef.unflatten(values)


def summed(rows: RowGradient, height: int, dtype: Any) -> RowGradient:
    """The same gradient, in which every row occurs once.

    Rows that occur more than once are summed in the order in which they do.

    Args:
        rows: with indices that can count as far as ``height``.
        height: of the table.
        dtype: in which they are summed.

    Returns:
        Indices that ascend, and as many rows as before: behind those that are touched some of zeros
        with the index ``height``.
    """
    indices, values = rows.indices, rows.values
    if not indices.shape[0]:
        return RowGradient(indices, values.astype(dtype))
    wanted = [(None,), (None, *entries_of(jax.typeof(values))[1:])]
    once = by_partitioner(partial(_summed, height, dtype), [indices, values], wanted)
    return RowGradient(*once)


def _summed(height: int, dtype: Any, indices: jax.Array, values: jax.Array) -> list[jax.Array]:
    keys = jnp.where(is_inside(indices, height), indices, height)
    order = jnp.argsort(keys, stable=True)
    keys = keys[order]
    inside = keys < height
    shape = (-1, *(1,) * (values.ndim - 1))
    in_order = jnp.where(inside.reshape(shape), values[order].astype(dtype), 0)
    begins = jnp.concatenate([jnp.zeros(1, jnp.bool_), keys[1:] != keys[:-1]])
    places = jnp.cumsum(begins, dtype=jnp.int32)
    sums = jnp.zeros_like(in_order).at[places].add(in_order, indices_are_sorted=True)
    once = jnp.full_like(keys, height).at[places].min(keys, indices_are_sorted=True)
    return [once, sums]


def with_summed_rows(grads: PyTree, tables: PyTree) -> PyTree:
    """The gradients with the sum by rows in the place of each :class:`RowGradient`: an array.

    Args:
        grads: the gradients.
        tables: a tree of their structure.
    """

    def sum_of(grad: Any, table: Any) -> Any:
        if not is_rows(grad):
            return grad
        dtype = compute_dtype(str(table.dtype))
        return summed(grad, table.shape[0], dtype).values

    return jax.tree.map(sum_of, grads, tables, is_leaf=is_rows)


def is_inside(indices: jax.Array, height: int) -> jax.Array:
    """Whether each is the index of a row."""
    return (indices >= 0) & (indices < height)


def rows_of(table: jax.Array, indices: jax.Array) -> jax.Array:
    """These rows of the table, and zeros for one that it has not.

    Args:
        table: the table.
        indices: as :func:`summed` returns them.
    """
    if not table.shape[0]:  # of which JAX takes no rows at all
        return jnp.zeros((*indices.shape, *table.shape[1:]), table.dtype)

    def taken(table: jax.Array, indices: jax.Array) -> list[jax.Array]:
        return [table.at[indices].get(mode="fill", fill_value=0, indices_are_sorted=True)]

    wanted = (None, *entries_of(jax.typeof(table))[1:])
    return by_partitioner(taken, [table, indices], [wanted])[0]


def with_rows(table: jax.Array, indices: jax.Array, rows: jax.Array) -> jax.Array:
    """The table with these rows, without those that it has not.

    Args:
        table: the table.
        indices: as :func:`summed` returns them.
        rows: of the table's dtype.
    """
    if not table.shape[0]:
        return table

    def put(table: jax.Array, indices: jax.Array, rows: jax.Array) -> list[jax.Array]:
        return [table.at[indices].set(rows, mode="drop", indices_are_sorted=True)]

    wanted = entries_of(jax.typeof(table))
    return by_partitioner(put, [table, indices, rows], [wanted])[0]
