"""The update over pytrees: checks, widening of narrow floats, and the cut into calls."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nadam_xla.calls import by_compute_dtype
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import lowering
from nadam_xla.jax.checks import PyTree, check_alike
from nadam_xla.jax.explicit_axes import stack, whole
from nadam_xla.jax.primitive import bind

lowering.install()


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
        ValueError: the trees differ in structure or shapes, or in the memory that holds a leaf; or
            the coefficients have a wrong shape.
        TypeError: a leaf is not of a floating dtype, or the trees cut it over explicit axes of the
            mesh in ways that contradict each other.
        Each message names the leaf by its path.
    """
    if returns not in ("params", "change"):
        raise ValueError(f"returns is {returns!r}; it must be 'params' or 'change'")
    check_alike({"params": params, "grads": grads, "mu": mu, "nu": nu})
    return update_trees(coefficients, params, grads, mu, nu, returns=returns)


def update_trees(
    coefficients: Coefficients | ArrayLike,
    params: PyTree,
    grads: PyTree,
    mu: PyTree,
    nu: PyTree,
    *,
    returns: Literal["params", "change"],
) -> tuple[PyTree, PyTree, PyTree]:
    """:func:`nadam_update` for trees that the caller has checked."""
    leaves = _leaves(params, grads, mu, nu)
    results: list[Any] = [None] * len(leaves)
    dtypes = [str(leaf.params.dtype) for leaf in leaves]
    for dtype, indices in by_compute_dtype(dtypes).items():
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
    treedef: Any = jax.tree.structure(params)
    first, second, third = (treedef.unflatten([r[i] for r in results]) for i in range(3))
    return first, second, third


def _leaves(*trees: PyTree) -> list[_Leaf]:
    columns = ([jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in trees)
    return [_Leaf(*column) for column in zip(*columns, strict=True)]


def _table(
    coefficients: Coefficients | ArrayLike, dtype: str, indices: list[int], leaves: int
) -> jax.Array:
    """The primitive's table, [1, 1 or the number of indices, K], for the leaves of one call."""
    if isinstance(coefficients, Coefficients):
        rows = stack([jnp.asarray(c, dtype) for c in coefficients])
    else:
        rows = jnp.asarray(coefficients, dtype)
    rows = whole(rows)
    width = len(Coefficients._fields)
    if rows.shape == (width,):
        return rows[None, None]
    if rows.shape == (leaves, width):
        return rows[None, jnp.asarray(indices)]
    raise ValueError(
        f"coefficients has the shape {rows.shape}; it must be ({width},) or ({leaves}, {width}),"
        " a row for each leaf"
    )
