"""What a step makes of a table whose gradient is one of rows."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nadam_xla.calls import compute_dtype
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.checks import PyTree
from nadam_xla.jax.leaves import Leaf, LeafKind
from nadam_xla.jax.primitive import bind
from nadam_xla.jax.rows import (
    RowGradient,
    is_inside,
    is_rows,
    rows_of,
    structure_of,
    summed,
    with_rows,
)
from nadam_xla.jax.rows_checks import check_rows_of
from nadam_xla.jax.rows_primitive import bind_rows
from nadam_xla.jax.stored_results import params_of_masters


def update_table(
    coefficients: jax.Array, indices: jax.Array, leaf: Leaf, kind: LeafKind
) -> dict[str, Any]:
    """The new arrays of a table, by their streams; ``first`` is what its kind's first result is.

    Args:
        coefficients: ``[1, 1, K]``.
        indices: of the rows.
        leaf: the table, with the gradients of the rows.
        kind: of the leaf.
    """
    rows = RowGradient(indices, leaf.array("grads"))
    if kind.streams.returns_change:
        return _changed(coefficients, rows, leaf, kind)
    streams = kind.streams._replace(has_average=False)
    tables = [leaf.array(name) for name in streams.operands if name != "grads"]
    results = bind_rows(coefficients, rows, tables, streams)
    new: dict[str, Any] = dict(zip(streams.overwritten, results, strict=True))
    if kind.streams.has_average:
        full = new["params"]
        if "master" in new:
            (full,) = params_of_masters([full], [new["master"]], kind.dtype)
        new["average"] = _averaged(coefficients, leaf.array("average"), full)
    return {"first": new["params"], **new}


def _changed(
    coefficients: jax.Array, rows: RowGradient, leaf: Leaf, kind: LeafKind
) -> dict[str, Any]:
    """The change of the rows, computed of them alone, and the new states."""
    height = leaf.array("mu").shape[0]
    touched = summed(rows, height, kind.dtype)
    streams = kind.streams
    given = [
        touched.values if name == "grads" else rows_of(leaf.array(name), touched.indices)
        for name in streams.operands
    ]
    results = bind(coefficients, *given, streams=streams)
    changed, *states = results
    tables = {name: leaf.array(name) for name in streams.states}
    if streams.has_average:
        full = leaf.array("params")
        if streams.has_master:
            (full,) = params_of_masters([full], [leaf.array("master")], kind.dtype)
        tables["average"] = _averaged(coefficients, tables["average"], full)
    pairs = zip(tables.items(), states, strict=True)
    new = {name: with_rows(table, touched.indices, state) for (name, table), state in pairs}
    first = RowGradient(touched.indices, _of_rows_alone(touched.indices, changed, height))
    return {"first": first, **new}


def _of_rows_alone(indices: jax.Array, values: jax.Array, height: int) -> jax.Array:
    """The values, and minus zero, which changes nothing, where there is no row."""
    inside = is_inside(indices, height).reshape(-1, *(1,) * (values.ndim - 1))
    return jnp.where(inside, values, -0.0)


def _averaged(coefficients: jax.Array, average: jax.Array, params: jax.Array) -> jax.Array:
    """The average of a whole table: rows that are not touched come nearer to what they are."""
    row = Coefficients(*coefficients[0, 0])
    decay, weight = row.average_decay, row.one_minus_average_decay
    new = decay * average + weight * params.astype(coefficients.dtype)
    return jnp.where(row.skip != 0, average, new.astype(average.dtype))


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """``optax.apply_updates`` for updates of which some may be those of rows.

    Args:
        params: a pytree of arrays, or None in the place of one.
        updates: what ``update`` returned: a tree like the parameters, with a :class:`RowGradient`
            in the place of the change of each table of which rows were touched.

    Returns:
        The parameters plus the updates, in the dtypes of the parameters. To a table those rows are
        added that are in it.

    Raises:
        ValueError: the trees differ in structure, or the rows do not fit their table.
        TypeError: the indices of rows are no whole numbers any more, as behind an optax
            transformation that multiplies all leaves.
    """
    treedef = structure_of(updates)
    changes, tables = treedef.flatten_up_to(updates), treedef.flatten_up_to(params)
    paths = jax.tree_util.tree_leaves_with_path(updates, is_leaf=is_rows)
    for (path, change), table in zip(paths, tables, strict=True):
        if is_rows(change):
            at = jax.tree_util.keystr(path)
            check_rows_of(f"updates{at}", change, f"params{at}", table)
    dense = [None if is_rows(change) else change for change in changes]
    kept = [None if change is None else table for change, table in zip(dense, tables, strict=True)]
    added = optax.apply_updates(kept, dense)
    return treedef.unflatten(
        [
            _with_added(jnp.asarray(table), change) if is_rows(change) else new
            for table, change, new in zip(tables, changes, added, strict=True)
        ]
    )


def _with_added(table: jax.Array, change: RowGradient) -> jax.Array:
    dtype = jnp.promote_types(compute_dtype(str(table.dtype)), change.values.dtype)
    touched = summed(change, table.shape[0], dtype)
    new = rows_of(table, touched.indices) + touched.values
    return with_rows(table, touched.indices, new.astype(table.dtype))
