"""The update over pytrees: checks, and one primitive for the leaves of each compute dtype."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nadam_xla.calls import compute_dtype
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import lowering
from nadam_xla.jax.checks import PyTree, check_alike, check_complex
from nadam_xla.jax.dtypes import is_complex
from nadam_xla.jax.explicit_axes import stack, unsharded
from nadam_xla.jax.primitive import bind, reference
from nadam_xla.streams import Streams

lowering.install()


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
        params: a pytree of floating-point or complex arrays of any shape. float32 and float64 are
            computed as they are; narrower ones are widened to float32 and rounded back. Complex
            ones are updated by XLA's own operations, with the squared magnitude of the gradient in
            the place of its square and ``clip_value`` for each part.
        grads: the gradients, a pytree of the same structure and shapes, of any floating dtype, or
            complex where the first moments are.
        mu: the first moments, a pytree of the same structure and shapes, of any floating dtype, or
            complex where the parameters are.
        nu: the second moments, a pytree of the same structure and shapes, of any floating dtype;
            real and not negative.
        returns: ``"params"``: the first result holds the new parameters; ``"change"``: it holds
            what must be added to the old ones, which is what optax calls updates.

    Returns:
        The new parameters (or their change), first moments and second moments. Each has the
        structure, shapes and dtypes of what was given, and the change those of the parameters.

    Raises:
        ValueError: the trees differ in structure or shapes, or in the memory that holds a leaf; or
            the coefficients have a wrong shape.
        TypeError: a leaf is not of a floating or complex dtype, or complex where it must be real;
            or the trees shard it over explicit axes of the mesh in ways that contradict each other.

    Each message names the leaf by its path.
    """
    if returns not in ("params", "change"):
        raise ValueError(f"returns is {returns!r}; it must be 'params' or 'change'")
    check_alike({"params": params, "grads": grads, "mu": mu, "nu": nu})
    check_complex(mu, nu, {"params": params, "grads": grads})
    return update_trees(coefficients, params, grads, mu, nu, returns=returns)


def update_trees(
    coefficients: Coefficients | ArrayLike,
    params: PyTree | None,
    grads: PyTree,
    mu: PyTree,
    nu: PyTree,
    *,
    returns: Literal["params", "change"],
) -> tuple[PyTree, PyTree, PyTree]:
    """:func:`nadam_update` for trees that the caller has checked.

    Without parameters ``returns`` must be ``"change"``: each leaf of it has the dtype to which
    those of the others promote. Nothing decays then, and the table says so: given parameters later,
    it does the same to them.
    """
    if params is None and isinstance(coefficients, Coefficients):
        coefficients = coefficients._replace(decay=0.0, l2=0.0)
    streams = Streams(has_params=params is not None, returns_change=returns == "change")
    trees = (params, grads, mu, nu) if streams.has_params else (grads, mu, nu)
    arrays = [[jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in trees]
    leaves = list(zip(*arrays, strict=True))
    results: list[Any] = [None] * len(leaves)
    dtypes = [_dtype_of_first(leaf, streams) for leaf in leaves]
    for (dtype, complex_ones), indices in _kinds(leaves, dtypes).items():
        table = _table(coefficients, dtype, indices, len(leaves))
        operands = [group[i] for group in arrays for i in indices]
        updated = (reference if complex_ones else bind)(table, *operands, streams=streams)
        groups = (updated[i :: len(indices)] for i in range(len(indices)))
        for i, (first, *moments) in zip(indices, groups, strict=True):
            results[i] = (first.astype(dtypes[i]), *moments)
    treedef: Any = jax.tree.structure(grads)
    first, second, third = (treedef.unflatten([r[i] for r in results]) for i in range(3))
    return first, second, third


def update_leaves(
    row: Coefficients,
    dtype: str,
    params: Sequence[jax.Array],
    grads: Sequence[jax.Array],
    mu: Sequence[jax.Array],
    nu: Sequence[jax.Array],
) -> tuple[Sequence[jax.Array], ...]:
    """:func:`nadam_update` of real leaves of one compute dtype that the caller has checked."""
    n = len(params)
    table = _table(row, dtype, range(n), n)
    updated = bind(table, *params, *grads, *mu, *nu, streams=Streams())
    return updated[:n], updated[n : 2 * n], updated[2 * n :]


def _dtype_of_first(leaf: tuple[jax.Array, ...], streams: Streams) -> Any:
    """The dtype of a leaf's first result, which does not heed those that are weak."""
    return leaf[0].dtype if streams.has_params else jnp.result_type(*leaf)


def _kinds(
    leaves: Sequence[tuple[jax.Array, ...]], dtypes: Sequence[Any]
) -> dict[tuple[str, bool], list[int]]:
    """The leaves by the dtype that they are updated in, and by whether they are complex."""
    kinds: dict[tuple[str, bool], list[int]] = {}
    for i, (leaf, dtype) in enumerate(zip(leaves, dtypes, strict=True)):
        kind = compute_dtype(str(dtype)), any(map(is_complex, leaf))
        kinds.setdefault(kind, []).append(i)
    return kinds


def _table(
    coefficients: Coefficients | ArrayLike, dtype: str, indices: Sequence[int], leaves: int
) -> jax.Array:
    """The primitive's table, [1, 1 or the number of indices, K], for the leaves of one call."""
    if isinstance(coefficients, Coefficients):
        rows = stack([jnp.asarray(c, dtype) for c in coefficients])
    else:
        rows = jnp.asarray(coefficients, dtype)
    rows = unsharded(rows)
    width = len(Coefficients._fields)
    if rows.shape == (width,):
        return rows[None, None]
    if rows.shape == (leaves, width):
        return rows[None, jnp.asarray(indices)]
    raise ValueError(
        f"coefficients has the shape {rows.shape}; it must be ({width},) or ({leaves}, {width}),"
        " a row for each leaf"
    )
