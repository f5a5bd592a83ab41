"""``value_and_row_grad``: gradients of which those of tables are those of the rows looked up."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from nadam_xla.jax.checks import PyTree, check_inexact, check_real
from nadam_xla.jax.decay_mask import booleans
from nadam_xla.jax.lookups import with_lookups
from nadam_xla.jax.rows import RowGradient
from nadam_xla.jax.tracing import as_array, trace


def value_and_row_grad(
    fun: Callable[..., Any],
    tables: PyTree | Callable[[PyTree], PyTree],
    *,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, PyTree]]:
    """``jax.value_and_grad`` that gives :class:`RowGradient` for tables whose rows are looked up.

    ::

        grad_fn = value_and_row_grad(loss_fn, tables={"embedding": True, "dense": False})
        loss, grads = grad_fn(params, batch)

    The model stays as it is: ``fun`` is traced, as ``jax.jit`` does, and where it looks rows up in
    a table (``table[ids]``, ``jnp.take(table, ids, axis=0)``, ``flax.linen.Embed``), the gradient
    of those rows is taken instead of the table's. Nothing of a table's size is made. A table that
    is converted before rows are looked up (``Embed(dtype=...)``) is not: the rows are.

    It goes inside ``jax.jit``, and with ``vmap`` and meshes. A table may be used for nothing but
    lookups, outside of loops, branches and checkpoints.

    Args:
        fun: a function of a pytree of floating-point arrays and whatever else, that returns a real
            scalar.
        tables: which leaves of that pytree are tables: a tree of booleans with its structure or a
            prefix of it, or a function that makes one from the pytree.
        has_aux: whether ``fun`` returns a pair, of the scalar and something else.

    Returns:
        A function with the arguments of ``fun``. It returns what ``fun`` does, and the gradients
        with respect to the first argument: a tree like that, with a :class:`RowGradient` in the
        place of each table. Its rows stand in the order of the program; one that is looked up twice
        is there twice, and an index that the lookup fills or drops is outside of the table.

    Raises:
        ValueError: a table is used otherwise; the message names the leaf by its path. Or the tree
            of booleans does not fit.
        TypeError: a leaf is not of a floating dtype, or no boolean where it must be one; or
            ``fun`` returns no real scalar.
    """

    @wraps(fun, updated=())
    def value_and_rows(params: PyTree, *args: Any, **kwargs: Any) -> tuple[Any, PyTree]:
        check_inexact("params", params)
        params = jax.tree.map(jnp.asarray, params)
        leaves: list[Any]
        treedef: Any
        leaves, treedef = jax.tree.flatten(params)
        chosen = booleans("tables", tables, params)
        paths = [
            jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ]
        names = {i: f"params{path}" for i, path in enumerate(paths) if bool(chosen[i])}
        check_real("params", [leaves[i] for i in names])
        traced = trace(fun, (params, *args), kwargs)
        program, lookups = with_lookups(traced.program, names)
        results_of_fun = len(traced.program.out_avals)

        def of_dense(dense: dict[int, jax.Array], probes: list[jax.Array]) -> Any:
            arrays = [dense.get(i, x) for i, x in enumerate(traced.arrays)]
            results = jaxpr_as_fun(program)(*arrays, *probes)
            own, indices = results[:results_of_fun], results[results_of_fun:]
            result = traced.returned(list(map(as_array, own, traced.program.out_avals)))
            value, aux = result if has_aux else (result, None)
            return value, (aux, indices)

        dense = {i: x for i, x in enumerate(leaves) if i not in names}
        probes = [jnp.zeros(lookup.rows.shape, lookup.rows.dtype) for lookup in lookups]
        differentiated = jax.value_and_grad(of_dense, argnums=(0, 1), has_aux=True)
        (value, (aux, indices)), (grads, cotangents) = differentiated(dense, probes)
        of_lookups = [
            (lookup.table, lookup.gradient(*found))
            for lookup, *found in zip(lookups, indices, cotangents, strict=True)
        ]
        for i in names:
            own = [rows for table, rows in of_lookups if table == i]
            grads[i] = _together(own, leaves[i])
        result = (value, aux) if has_aux else value
        return result, treedef.unflatten([grads[i] for i in range(len(leaves))])

    return value_and_rows


def _together(gradients: list[RowGradient], table: jax.Array) -> RowGradient:
    """The gradient of a table of those of its lookups."""
    if len(gradients) == 1:
        return gradients[0]
    if not gradients:
        return RowGradient(jnp.zeros(0, jnp.int32), jnp.zeros((0, *table.shape[1:]), table.dtype))
    indices = [rows.indices for rows in gradients]
    values = [rows.values for rows in gradients]
    return RowGradient(jnp.concatenate(indices), jnp.concatenate(values))
