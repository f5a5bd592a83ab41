"""The update over pytrees: checks, and one primitive for the leaves of each compute dtype."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nadam_xla.blockwise import SCALES
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import lowering, rows_lowering
from nadam_xla.jax.averages import check_average
from nadam_xla.jax.blockwise import as_numbers, check_blockwise, is_blockwise
from nadam_xla.jax.checks import PyTree, check_alike, check_complex
from nadam_xla.jax.explicit_axes import stack, unsharded
from nadam_xla.jax.leaves import LeafKind, kind_of, kinds_of, leaf_of, moment_of
from nadam_xla.jax.masters import check_masters
from nadam_xla.jax.primitive import bind, reference
from nadam_xla.jax.rows import RowGradient, is_rows, structure_of, with_tables
from nadam_xla.jax.rows_checks import check_rows, with_row_gradients
from nadam_xla.jax.rows_primitive import bind_rows
from nadam_xla.jax.rows_update import update_table
from nadam_xla.kinds import Kind
from nadam_xla.storage import Rounding, check_rounding
from nadam_xla.streams import Streams

lowering.install()
rows_lowering.install()


def nadam_update(
    coefficients: Coefficients | ArrayLike,
    params: PyTree,
    grads: PyTree,
    mu: PyTree,
    nu: PyTree,
    *,
    average: PyTree | None = None,
    master: PyTree | None = None,
    rounding: Rounding = "nearest",
    returns: Literal["params", "change"] = "params",
) -> tuple[PyTree, ...]:
    """One fused Nadam step: the rule of :class:`nadam_xla.coefficients.Coefficients`.

    Inside ``jax.jit`` the results take the memory of their inputs where the caller donated them (or
    no longer needs them), and nothing is copied.

    Args:
        coefficients: a ``Coefficients`` of scalars, any of which may also be a vector with an entry
            for each of the n leaves, in the order of ``jax.tree.leaves(params)``; or an array of
            the shape ``[K]``, one row for all leaves, or ``[n, K]``, a row for each. ``vmap`` adds
            batch axes.
        params: a pytree of floating-point or complex arrays of any shape. float64 is computed as it
            is, all others in float32; each is read and written as it is stored. Complex ones are
            updated by XLA's own operations, with the squared magnitude of the gradient in the place
            of its square and ``clip_value`` for each part.
        grads: the gradients, a pytree of the same structure and shapes, of any floating dtype, or
            complex where the first moments are. In the place of a leaf there may be a
            :class:`RowGradient`, of a real parameter whose moments are no codes.
        mu: the first moments, a pytree of the same structure and shapes, of any floating dtype, or
            complex where the parameters are. In the place of a leaf there may be a
            :class:`Blockwise`: the moment in codes of eight bits. They are
            rounded by the random numbers of the coefficients' key, whatever ``rounding`` is.
        nu: the second moments, a pytree of the same structure and shapes, of any floating dtype;
            real and not negative. There may be codes as in ``mu``.
        average: None, or an average of the parameters, a pytree of the same structure and shapes,
            of any floating dtype, or complex where the parameters are. It takes the new parameters
            as they are computed, with the weights that the coefficients give, and is always rounded
            to the nearest.
        master: None, or the master weights: of bfloat16 and float16 parameters float32 arrays, or
            of bfloat16 ones uint16 (the bits that complete a float32) or uint8 (the first eight of
            them); None in the place of each parameter that has none.
        rounding: how what is narrower than float32 is rounded: ``"nearest"``; or ``"stochastic"``,
            by the random numbers of the coefficients' key
            (:func:`nadam_xla.coefficients.with_random_key`).
        returns: ``"params"``: the first result holds the new parameters; ``"change"``: it holds
            what must be added to the old ones, which is what optax calls updates: of a
            :class:`RowGradient` another one, with each row once.

    Returns:
        The new parameters (or their change), first moments and second moments, and the average and
        the master weights where they are given. Each has the structure, shapes and dtypes of what
        was given, and the change those of the parameters; but float32 where parameters have masters
        or are rounded stochastically, so that the parameters plus it are what the step has stored.

    Raises:
        ValueError: the trees differ in structure or shapes, or in the memory that holds a leaf; or
            the coefficients have a wrong shape; or scales do not fit their codes.
        TypeError: a leaf is not of a floating or complex dtype, or complex where it must be real;
            or the trees shard it over explicit axes of the mesh in ways that contradict each other;
            or a master is not one of its parameter; or codes are of another dtype, or those of a
            leaf that is computed in float64 or complex.

    Each message names the leaf by its path.
    """
    if returns not in ("params", "change"):
        raise ValueError(f"returns is {returns!r}; it must be 'params' or 'change'")
    check_rounding(rounding)
    moments = {"mu": as_numbers(mu), "nu": as_numbers(nu)}
    grads = with_row_gradients(grads)
    arrays = {"params": params, "grads": with_tables(grads, params)}
    check_alike({**arrays, **moments})
    check_complex(moments["mu"], moments["nu"], arrays)
    check_rows(grads, {"params": params, "mu": mu, "nu": nu})
    check_blockwise("mu", mu, params)
    check_blockwise("nu", nu, params)
    if average is not None:
        check_average("average", average, params)
    if master is not None:
        check_masters("master", master, params)
    updated = update_trees(
        coefficients,
        params,
        grads,
        mu,
        nu,
        average=average,
        master=master,
        rounding=rounding,
        returns=returns,
    )
    given = (params, mu, nu, average, master)
    return tuple(new for new, before in zip(updated, given, strict=True) if before is not None)


def update_trees(
    coefficients: Coefficients | ArrayLike,
    params: PyTree | None,
    grads: PyTree,
    mu: PyTree,
    nu: PyTree,
    *,
    average: PyTree | None = None,
    master: PyTree | None = None,
    rounding: Rounding = "nearest",
    returns: Literal["params", "change"],
) -> tuple[PyTree, PyTree, PyTree, PyTree | None, PyTree | None]:
    """:func:`nadam_update` for trees that the caller has checked; None of what is not given.

    Without parameters ``returns`` must be ``"change"``: each leaf of it has the dtype to which
    those of the others promote. Nothing decays then, and the table says so: given parameters later,
    it does the same to them.
    """
    if params is None and isinstance(coefficients, Coefficients):
        coefficients = coefficients._replace(decay=0.0, l2=0.0)
    treedef = structure_of(grads)
    gradients = treedef.flatten_up_to(grads)
    touched = {i: grad.indices for i, grad in enumerate(gradients) if is_rows(grad)}
    trees = {"params": params, "mu": mu, "nu": nu, "average": average}
    given = {
        name: jax.tree.leaves(tree, is_leaf=is_blockwise)
        for name, tree in trees.items()
        if tree is not None
    }
    given["grads"] = [grad.values if is_rows(grad) else grad for grad in gradients]
    masters = [None] * treedef.num_leaves if master is None else treedef.flatten_up_to(master)
    leaves = [
        leaf_of({name: group[i] for name, group in given.items()}, masters[i])
        for i in range(treedef.num_leaves)
    ]
    results: list[dict[str, Any]] = [{}] * len(leaves)
    plain = Streams(
        has_params=params is not None,
        returns_change=returns == "change",
        has_average=average is not None,
    )
    # First, so that the calls behind may wait for the gradients of rows.
    for i, indices_of_rows in touched.items():
        kind = kind_of(leaves[i], plain, rounding)
        table = _table_of(coefficients, kind, [i], len(leaves))
        results[i] = update_table(table, indices_of_rows, leaves[i], kind)
    dense = {i: leaf for i, leaf in enumerate(leaves) if i not in touched}
    for kind, indices in kinds_of(dense, plain, rounding).items():
        streams = kind.streams
        table = _table_of(coefficients, kind, indices, len(leaves))
        operands = [leaves[i].array(name) for name in streams.operands for i in indices]
        updated = (reference if kind.is_complex else bind)(table, *operands, streams=streams)
        for place, i in enumerate(indices):
            new = dict(zip(streams.overwritten, updated[place :: len(indices)], strict=True))
            first = new[streams.overwritten[0]]
            # Which does not heed the dtypes of those that are weak.
            first = first if streams.has_params else first.astype(leaves[i].dtype)
            states = {name: moment_of(new, name) for name in SCALES}
            results[i] = {"first": first, **new, **states}

    def tree_of(name: str) -> PyTree:
        return treedef.unflatten([of_leaf.get(name) for of_leaf in results])

    return (
        tree_of("first"),
        tree_of("mu"),
        tree_of("nu"),
        None if average is None else tree_of("average"),
        None if master is None else tree_of("master"),
    )


def update_leaves(
    row: Coefficients, kind: Kind, leaves: Mapping[str, Sequence[jax.Array]]
) -> list[list[jax.Array]]:
    """:func:`nadam_update` of real leaves of one kind that the caller has checked.

    Args:
        row: scalars, or vectors with an entry for each leaf.
        kind: of the leaves.
        leaves: for each of the kind's streams an array of each leaf.

    Returns:
        The new values of each stream that is overwritten.
    """
    n = len(leaves["grads"])
    table = _table(row, kind.dtype, range(n), n)
    operands = [x for name in kind.streams.operands for x in leaves[name]]
    updated = bind(table, *operands, streams=kind.streams)
    return [updated[i : i + n] for i in range(0, len(updated), n)]


def update_rows(
    row: Coefficients, kind: Kind, rows: RowGradient, tables: Mapping[str, jax.Array]
) -> list[jax.Array]:
    """:func:`nadam_update` of one real table that the caller has checked, in some rows.

    Args:
        row: scalars, or vectors of one entry.
        kind: of the table; without an average.
        rows: its gradient.
        tables: of each of the kind's streams but the gradients.

    Returns:
        The new table of each stream that is overwritten.
    """
    table = _table(row, kind.dtype, [0], 1)
    others = [tables[name] for name in kind.streams.operands if name != "grads"]
    return bind_rows(table, rows, others, kind.streams)


def _table_of(
    coefficients: Coefficients | ArrayLike, kind: LeafKind, indices: Sequence[int], leaves: int
) -> jax.Array:
    table = _table(coefficients, kind.dtype, indices, leaves)
    return _with_shard(table, kind.axes) if kind.axes else table


def _with_shard(table: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The table of leaves that vary over these axes, with the number of this device's shard."""
    column = Coefficients._fields.index("shard")
    return table.at[..., column].set(jax.lax.axis_index(axes).astype(table.dtype))


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
        return rows[None] if len(indices) == leaves else rows[None, jnp.asarray(indices)]
    raise ValueError(
        f"coefficients has the shape {rows.shape}; it must be ({width},) or ({leaves}, {width}),"
        " a row for each leaf"
    )
