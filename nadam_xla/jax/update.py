"""The update over pytrees: checks, widening of narrow floats, and the cut into calls."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nadam_xla.calls import calls
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import lowering
from nadam_xla.jax.primitive import bind

lowering.install()

PyTree: TypeAlias = Any


class _Leaf(NamedTuple):
    params: jax.Array
    grads: jax.Array
    mu: jax.Array
    nu: jax.Array


def nadam_update(
    coefficients: Coefficients | ArrayLike,
    params: PyTree,
    grads: PyTree,
    mu: PyTree,
    nu: PyTree,
    *,
    returns: Literal["params", "change"] = "params",
) -> tuple[PyTree, PyTree, PyTree]:
    """One fused Nadam step: the rule of :class:`nadam_xla.coefficients.Coefficients`.

    Inside ``jax.jit`` the results take the memory of their inputs where the caller donated them (or
    no longer needs them), and nothing is copied.

    Args:
        coefficients: a ``Coefficients`` of scalars, any of which may also be a vector with an entry
            for each of the n leaves, in the order of ``jax.tree.leaves(params)``; or an array of
            the shape ``[K]``, one row for all leaves, or ``[n, K]``, a row for each. ``vmap`` adds
            batch axes.
        params: a pytree of floating-point arrays of any shape. float32 and float64 are computed as
            they are; narrower ones are widened to float32 and rounded back.
        grads: the gradients, a pytree of the same structure and shapes, of any floating dtype.
        mu: the first moments, likewise.
        nu: the second moments, likewise.
        returns: ``"params"``: the first result holds the new parameters; ``"change"``: it holds
            what must be added to the old ones, which is what optax calls updates.

    Returns:
        The new parameters (or their change), first moments and second moments: each with the
        structure, shapes and dtypes of what was given (the change with those of the parameters).

    Raises:
        ValueError: the trees differ in structure or shapes, or the coefficients have a wrong shape.
        TypeError: a leaf is not of a floating dtype.
        Each message names the leaf by its path.
    """
    if returns not in ("params", "change"):
        raise ValueError(f"returns is {returns!r}; it must be 'params' or 'change'")
    leaves, treedef = _checked_leaves(params, grads, mu, nu)
    results: list[Any] = [None] * len(leaves)
    for dtype, indices in calls([str(leaf.params.dtype) for leaf in leaves]):
        table = _table(coefficients, dtype, indices, len(leaves))
        call = [leaves[i] for i in indices]
        wide = [x.astype(dtype) for group in zip(*call, strict=True) for x in group]
        updated = bind(table, *wide, returns_change=returns == "change")
        groups = (updated[i * len(call) : (i + 1) * len(call)] for i in range(3))
        for i, leaf, p, m, v in zip(indices, call, *groups, strict=True):
            results[i] = (
                p.astype(leaf.params.dtype),
                m.astype(leaf.mu.dtype),
                v.astype(leaf.nu.dtype),
            )
    first, second, third = (treedef.unflatten([r[i] for r in results]) for i in range(3))
    return first, second, third


def check_floating(name: str, tree: PyTree) -> None:
    """Raises ``TypeError`` for the first leaf of the tree that is not of a floating dtype."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} has the dtype {dtype}; Nadam updates floating-"
                "point leaves only (freeze others, for instance with optax.masked)"
            )


def _checked_leaves(
    params: PyTree, grads: PyTree, mu: PyTree, nu: PyTree
) -> tuple[list[_Leaf], jax.tree_util.PyTreeDef]:
    trees = {"params": params, "grads": grads, "mu": mu, "nu": nu}
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    columns = []
    for name, tree in trees.items():
        _check_structure(name, tree, treedef)
        check_floating(name, tree)
        columns.append([jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)])
    leaves = [_Leaf(*column) for column in zip(*columns, strict=True)]
    for (path, _), leaf in zip(with_paths, leaves, strict=True):
        for name, x in leaf._asdict().items():
            if x.shape != leaf.params.shape:
                at = jax.tree_util.keystr(path)
                raise ValueError(
                    f"{name}{at} has the shape {x.shape}; it must be {leaf.params.shape}, like"
                    f" params{at}"
                )
    return leaves, treedef


def _check_structure(name: str, tree: PyTree, treedef: jax.tree_util.PyTreeDef) -> None:
    structure = jax.tree.structure(tree)
    if structure != treedef:
        raise ValueError(
            f"{name} has the tree structure {structure}; it must be that of params, {treedef}"
        )


def _table(
    coefficients: Coefficients | ArrayLike, dtype: str, indices: list[int], leaves: int
) -> jax.Array:
    """The primitive's table, [1, 1 or the number of indices, K], for the leaves of one call."""
    if isinstance(coefficients, Coefficients):
        columns = (jnp.asarray(c, dtype) for c in coefficients)
        rows = jnp.stack(jnp.broadcast_arrays(*columns), axis=-1)
    else:
        rows = jnp.asarray(coefficients, dtype)
    width = len(Coefficients._fields)
    if rows.shape == (width,):
        return rows[None, None]
    if rows.shape == (leaves, width):
        return rows[None, jnp.asarray(indices)]
    raise ValueError(
        f"coefficients has the shape {rows.shape}; it must be ({width},) or ({leaves}, {width}),"
        " a row for each leaf"
    )
