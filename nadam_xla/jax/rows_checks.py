"""Gradients of tables' rows that do not fit are refused while JAX traces, each by its path."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from nadam_xla.jax.blockwise import is_blockwise
from nadam_xla.jax.checks import PyTree, describe
from nadam_xla.jax.dtypes import is_complex
from nadam_xla.jax.rows import RowGradient, is_bcoo, is_sparse
from nadam_xla.jax.rows_primitive import INDEX_DTYPES
from nadam_xla.storage import BLOCKWISE


def with_row_gradients(grads: PyTree) -> PyTree:
    """The gradients with a :class:`RowGradient` of arrays in the place of each of another kind.

    Args:
        grads: a pytree in which there may be ``jax.experimental.sparse.BCOO`` arrays.

    Raises:
        TypeError: such an array is not one of rows.
    """

    def converted(path: Any, leaf: Any) -> Any:
        if not is_sparse(leaf):
            return leaf
        rows = _of_bcoo(f"grads{keystr(path)}", leaf) if is_bcoo(leaf) else leaf
        return RowGradient(*(jnp.asarray(x) if _is_array(x) else x for x in _fields(rows).values()))

    return jax.tree_util.tree_map_with_path(converted, grads, is_leaf=is_sparse)


def _fields(rows: RowGradient) -> dict[str, Any]:
    return {"indices": rows.indices, "values": rows.values}


def _is_array(x: Any) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape")


def _of_bcoo(name: str, array: Any) -> RowGradient:
    if array.n_sparse != 1 or array.n_batch:
        raise TypeError(
            f"{name} is a BCOO with n_batch={array.n_batch}, n_sparse={array.n_sparse} and"
            f" n_dense={array.n_dense}; it must be one of whole rows, with n_batch=0 and n_sparse=1"
        )
    return RowGradient(array.indices[:, 0], array.data)


def check_rows(grads: PyTree, tables: Mapping[str, PyTree]) -> None:
    """Checks that each :class:`RowGradient` can be one of its table.

    Args:
        grads: the gradients.
        tables: the trees that an update changes, by their names: the parameters where they are
            there, and the moments. They have the structure of the gradients.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: the indices are not int32 or int64, or cannot count the rows; the values are not
            of a floating dtype; or the table is complex, or a moment of it in codes of eight bits.
    """
    leaves = jax.tree_util.tree_leaves_with_path(grads, is_leaf=is_sparse)
    groups = [jax.tree.leaves(tree, is_leaf=is_blockwise) for tree in tables.values()]
    for (path, leaf), *arrays in zip(leaves, *groups, strict=True):
        if is_sparse(leaf):
            at = keystr(path)
            for name, array in zip(tables, arrays, strict=True):
                _check_table(f"{name}{at}", array)
            check_rows_of(f"grads{at}", leaf, f"{next(iter(tables))}{at}", arrays[0])


def _check_table(name: str, table: Any) -> None:
    if is_blockwise(table):
        raise TypeError(
            f'{name} is in codes of eight bits ("{BLOCKWISE}"), which are of blocks of a whole leaf'
            " and not of rows: a RowGradient needs moments of a floating dtype"
        )
    if is_complex(table):
        raise TypeError(f"{name} is {describe(table)}; a RowGradient is one of real parameters")


def check_rows_of(name: str, rows: RowGradient, table_name: str, table: Any) -> None:
    """Checks that a :class:`RowGradient` fits its table.

    Args:
        name: of the gradient.
        rows: the gradient.
        table_name: of the table.
        table: the table.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: the indices are not int32 or int64, or cannot count the rows; or the values are
            not of a floating dtype.
    """
    indices, values = rows.indices, rows.values
    for part, x in _fields(rows).items():
        if not _is_array(x):
            raise TypeError(f"{name}.{part} is {describe(x)}; it must be an array")
    if str(indices.dtype) not in INDEX_DTYPES:
        raise TypeError(
            f"{name}.indices is {describe(indices)}; it must be of {' or '.join(INDEX_DTYPES)}"
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{name}.values is {describe(values)}; it must be of a floating dtype")
    shape = jnp.shape(table)
    if not shape:
        raise ValueError(
            f"{table_name} has the shape (); a RowGradient, as {name} is, is one of a table, which"
            " has an axis of rows"
        )
    if indices.ndim != 1:
        raise ValueError(
            f"{name}.indices has the shape {indices.shape}; it must have one axis (flatten it, and"
            " the leading axes of the values)"
        )
    wanted = (*indices.shape, *shape[1:])
    if values.shape != wanted:
        raise ValueError(
            f"{name}.values has the shape {values.shape}; it must be {wanted}: a row of"
            f" {table_name}, which is {describe(table)}, for each index"
        )
    if shape[0] > np.iinfo(indices.dtype).max:
        raise TypeError(
            f"{name}.indices is {describe(indices)}, which cannot count the {shape[0]} rows of"
            f" {table_name}; it must be int64"
        )
