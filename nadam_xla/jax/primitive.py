"""The primitive: what it takes, what it returns, and how it transforms.

``nadam_update_p`` binds the table of coefficients and the leaves' arrays, those that its parameter
``streams`` names, in that order, and returns ``*params, *mu, *nu`` (or the change of the parameters
in place of them), and ``*average``, ``*master``, ``*mu_scales`` and ``*nu_scales`` where they are
there. With scales, the moment itself is in codes of eight bits. The table has the shape ``[batch,
rows, K]``: ``rows`` is 1 or the number of leaves, ``batch`` is 1 or the size of a leading axis that
every leaf then has. Its dtype, float32 or float64, is the one that is computed in; the leaves come
and go in the dtypes in which they are stored, the change in that of the parameters (and without
them in the one to which the others promote). With master weights, or rounded stochastically, the
change is that of what is stored, in float32, so that the parameters plus it are just what is to be
stored.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from nadam_xla.blockwise import BLOCK, CODES, SCALES, scales_shape
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.blockwise import decoded_streams
from nadam_xla.jax.defining import define
from nadam_xla.jax.dtypes import cast, computed_dtype
from nadam_xla.jax.explicit_axes import (
    Entries,
    entries_of,
    fold_batches,
    has_explicit_axes,
    joined,
    reshard,
    shard_alike,
)
from nadam_xla.jax.manual_axes import vary_alike
from nadam_xla.jax.reference import update_reference
from nadam_xla.jax.specs import axes_of
from nadam_xla.jax.stored_results import (
    BitsOf,
    bits_of_leaf,
    params_of_masters,
    returns_change_of_stored,
    stored_results,
    zeros_of_leaf,
)
from nadam_xla.streams import RULE_STREAMS, Streams


class Call(NamedTuple):
    """What is static in one of the calls that an update is split into."""

    streams: Streams
    aliased: tuple[int, ...]  # the numbers of the operands whose memory the results may take
    first_row: int  # of the leaves' rows in the table, where it has more than one


def reference(coefficients: jax.Array, *leaves: jax.Array, streams: Streams) -> list[jax.Array]:
    """The reference rule over the primitive's flat operands, of which some may be complex here."""
    return reference_rule(coefficients, coefficients.dtype, leaves, streams)


def _without_draws(
    coefficients: jax.Array, *leaves: jax.Array, streams: Streams
) -> list[jax.Array]:
    """The same, rounded by numbers that cost nothing: no derivative depends on them."""
    if streams.has_scales:
        raise TypeError(
            "nadam_update has no derivative where moments are in codes of eight bits: codes are"
            " whole numbers. Differentiate a step whose moments are in float32"
        )
    return reference_rule(coefficients, coefficients.dtype, leaves, streams, zeros_of_leaf)


def reference_of_row(
    *operands: jax.Array, known: Sequence[float | None], dtype: Any, streams: Streams
) -> list[jax.Array]:
    """The same for a table of one row, of which some coefficients are known.

    Args:
        *operands: the other coefficients, scalars, and then the leaves.
        known: each coefficient that is known; None for those that are given.
        dtype: the table's.
        streams: as everywhere.
    """
    unknown = sum(coefficient is None for coefficient in known)
    given = iter(operands[:unknown])
    row = Coefficients(*(next(given) if number is None else number for number in known))
    return reference_rule(row, dtype, operands[unknown:], streams)


def reference_rule(
    coefficients: jax.Array | Coefficients,
    dtype: Any,
    leaves: Sequence[Any],
    streams: Streams,
    bits_of: BitsOf = bits_of_leaf,
) -> list[jax.Array]:
    """The reference rule over the primitive's leaves, as they are stored.

    Args:
        coefficients: the table, or one row for all.
        dtype: the table's.
        leaves: in the order of their streams.
        streams: as everywhere.
        bits_of: the random numbers of what is rounded by them.
    """
    given = streams.by_name(leaves)
    wide = {
        name: [x.astype(computed_dtype(x.dtype, dtype)) for x in decoded_streams(given, name)]
        for name in RULE_STREAMS
        if name in given
    }
    if streams.has_master:
        wide["params"] = params_of_masters(given["params"], given["master"], dtype)
    if not streams.has_params:
        wide["params"] = [jnp.zeros_like(grad) for grad in wide["grads"]]
    by_rule = streams.returns_change and not returns_change_of_stored(streams)
    results = update_reference(coefficients, wide, returns_change=by_rule)
    dtypes = dtypes_of_results(leaves, streams)
    if not (streams.has_master or streams.is_drawn):
        return [cast(x, dtype) for x, dtype in zip(results, dtypes, strict=True)]
    changes = []
    if returns_change_of_stored(streams):
        changes = update_reference(coefficients, wide, returns_change=True)[: len(given["grads"])]
    return stored_results(coefficients, results, changes, given, dtypes, streams, bits_of)


def bind(coefficients: jax.Array, *leaves: jax.Array, streams: Streams) -> list[jax.Array]:
    """The primitive, applied.

    Inside ``shard_map`` the results of a leaf vary over the mesh axes over which its row or any of
    its operands does; other leaves stay as they are. Over explicit axes of the mesh the operands of
    a leaf are sharded alike, and each result as stock's arithmetic would have it.
    """
    n = streams.leaves(len(leaves))
    by_leaf = [_alike(vary_alike(leaves[i::n], coefficients), streams) for i in range(n)]
    by_stream = [[operands[k] for operands in by_leaf] for k in range(len(streams.operands))]
    too_many = streams.awaited(leaves)  # which the primitive refuses
    alike = [*chain.from_iterable(by_stream), *too_many]
    results = nadam_update_p.bind(coefficients, *alike, streams=streams)
    return reshard(results, _entries_of_results(alike, leaves, streams))


def _alike(operands: Sequence[jax.Array], streams: Streams) -> list[jax.Array]:
    """The operands of a leaf, sharded alike."""
    if streams.has_scales:
        columns = operands[streams.operands.index("grads")].shape[-1:]
        operands = reshard(operands, [_of_whole_blocks(jax.typeof(x), columns) for x in operands])
    return shard_alike(operands)


def _of_whole_blocks(type_: Any, columns: Sequence[int]) -> Entries:
    """The entries of a type, without that of a last axis of which a device has parts of blocks."""
    entries = entries_of(type_)
    parts = prod(type_.sharding.mesh.shape[axis] for axis in axes_of(entries[-1:]))
    return entries if parts == 1 or columns[0] % (BLOCK * parts) == 0 else (*entries[:-1], None)


def _entries_of_results(
    alike: Sequence[jax.Array], leaves: Sequence[jax.Array], streams: Streams
) -> list[Entries]:
    """Of states those of their own and the gradient's operand, of the first results all's."""
    given = streams.by_name(leaves)
    first = [entries_of(jax.typeof(x)) for x in alike[: len(given["grads"])]]
    of_states = [
        _entries_of_state(name, grad, state)
        for name in streams.states
        for grad, state in zip(given["grads"], given[name], strict=True)
    ]
    return [*first, *(entries for entries in of_states if entries is not None)]


def _entries_of_state(name: str, grad: jax.Array, state: jax.Array) -> Entries | None:
    of_grad, own = jax.typeof(grad), entries_of(jax.typeof(state))
    is_scales = name in SCALES.values()
    whole = _of_whole_blocks(of_grad, grad.shape[-1:]) if is_scales else entries_of(of_grad)
    return joined([whole, own])


def dtypes_of_results(leaves: Sequence[Any], streams: Streams) -> list[Any]:
    """Those of the primitive's results, for such operands behind the table."""
    dtypes = streams.by_name([x.dtype for x in leaves])
    if streams.has_params:
        first = dtypes["params"]
        if returns_change_of_stored(streams):
            first = [jnp.promote_types(dtype, jnp.float32) for dtype in first]
    else:
        numbers = [_dtypes_of_numbers(dtypes, name) for name in RULE_STREAMS if name in dtypes]
        first = [jnp.result_type(*of_leaf) for of_leaf in zip(*numbers, strict=True)]
    return [*first, *(dtype for name in streams.states for dtype in dtypes[name])]


def _dtypes_of_numbers(dtypes: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    """Those of what a stream's arrays stand for."""
    is_in_codes = f"{name}_scales" in dtypes
    return [jnp.dtype(jnp.float32)] * len(dtypes[name]) if is_in_codes else dtypes[name]


def _abstract_eval(coefficients: Any, *leaves: Any, streams: Streams) -> list[Any]:
    n, left_over = divmod(len(leaves), len(streams.operands))
    if left_over:
        raise TypeError(
            f"nadam_update got {len(leaves)} arrays; it takes as many of each of"
            f" {', '.join(streams.operands)}"
        )
    batch, rows, width = coefficients.shape
    if width != len(Coefficients._fields) or rows not in (1, n):
        raise TypeError(
            f"nadam_update got a table of the shape {coefficients.shape}; the rows must be 1 or {n}"
            f" and the columns {len(Coefficients._fields)}"
        )
    if streams.has_average and not streams.has_params:
        raise TypeError("nadam_update got averages without the parameters that they are of")
    if streams.has_scales and has_explicit_axes(leaves[0]):
        raise TypeError(
            f"nadam_update got {leaves[0].str_short()} with moments in codes of eight bits on"
            " explicit axes of a mesh, which not every JAX compiles; make the axes AxisType.Auto"
        )
    for i, leaf in enumerate(leaves):
        like, stream = leaves[i % n], streams.operands[i // n]
        shape, dtype = like.shape, _codes_dtype(stream, streams)
        if stream in SCALES.values():
            if not like.ndim or (batch != 1 and like.ndim < 2):
                raise TypeError(
                    f"nadam_update got {like.str_short()} as operand {1 + i % n}; where moments are"
                    " in codes it must have a last axis, which is not the table's batch"
                )
            shape, dtype = scales_shape(shape), "float32"
        has_dtype = stream == "master" or jnp.issubdtype(leaf.dtype, jnp.floating)
        if leaf.shape != shape or not (has_dtype if dtype is None else leaf.dtype == dtype):
            raise TypeError(
                f"nadam_update got {leaf.str_short()} as operand {1 + i}; it must have the shape"
                f" {shape} and {'a floating dtype' if dtype is None else f'the dtype {dtype}'}"
            )
        elsewhere = leaf.ndim and leaf.memory_space != like.memory_space
        if elsewhere or entries_of(leaf) != entries_of(like):
            raise TypeError(
                f"nadam_update got {leaf.str_short(mesh_axis_types=True)} as operand {1 + i}; it"
                f" must be in the memory and have the sharding of"
                f" {like.str_short(mesh_axis_types=True)}"
            )
        if batch != 1 and leaf.shape[:1] != (batch,):
            raise TypeError(
                f"nadam_update got {leaf.str_short()} as operand {1 + i}; its first axis must be"
                f" the table's batch of {batch}"
            )
    given, dtypes = streams.by_name(leaves), dtypes_of_results(leaves, streams)
    results = [*leaves[:n], *(x for name in streams.states for x in given[name])]
    return [
        aval.update(dtype=dtype, weak_type=False)
        for aval, dtype in zip(results, dtypes, strict=True)
    ]


def _batch(
    operands: Sequence[Any], axes: Sequence[int | None], *, streams: Streams
) -> tuple[list[jax.Array], list[int]]:
    """One call whatever is batched; a batched table (a population of rates) uses its batch axis."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    (table, *leaves), (table_axis, *leaf_axes) = operands, axes
    batch_before = table.shape[0 if table_axis is None or table_axis > 0 else 1]

    if table_axis is None and streams.is_drawn:
        # Each has the random numbers that it would have alone.
        table, table_axis = jnp.broadcast_to(table, (size, *table.shape)), 0
    if table_axis is None:
        # Behind the axis that the table already knows, or in front where it knows none.
        to = 0 if batch_before == 1 else 1
        moved = [batched_at(to, x, a, size) for x, a in zip(leaves, leaf_axes, strict=True)]
        results = bind(table, *moved, streams=streams)
        return results, [to] * len(results)

    table = jnp.moveaxis(table, table_axis, 0)
    moved = [batched_at(0, x, a, size) for x, a in zip(leaves, leaf_axes, strict=True)]
    if batch_before == 1:
        table, *moved = shard_alike([table, *moved], leading=1)
        results = bind(table[:, 0], *moved, streams=streams)
    else:
        folded, unfold = fold_batches([table, *moved])
        results = [unfold(x) for x in bind(*folded, streams=streams)]
    return results, [0] * len(results)


def batched_at(to: int, x: jax.Array, axis: int | None, size: int) -> jax.Array:
    """The operand with its batch axis at ``to``; repeated along one where it has none."""
    if axis is not None:
        return jnp.moveaxis(x, axis, to)
    return jnp.broadcast_to(jnp.expand_dims(x, to), (*x.shape[:to], size, *x.shape[to:]))


def _codes_dtype(stream: str, streams: Streams) -> str | None:
    """That of a moment which is in codes."""
    return CODES[stream] if SCALES.get(stream) in streams.operands else None


nadam_update_p = define(
    "nadam_xla_update",
    abstract_eval=_abstract_eval,
    reference=reference,
    batch=_batch,
    derivative=_without_draws,
)


def _abstract_eval_of_call(_: Any, *leaves: Any, call: Call) -> list[Any]:
    given, dtypes = call.streams.by_name(leaves), dtypes_of_results(leaves, call.streams)
    results = [*given["grads"], *(x for name in call.streams.states for x in given[name])]
    return [x.update(dtype=dtype) for x, dtype in zip(results, dtypes, strict=True)]


update_call_p = Primitive("nadam_xla_update_call")
"""One custom call, on one device. It never meets a transformation.

Its parameter ``call`` is a :class:`Call`. The table may have rows of other leaves too, and there
may be one operand more, which has to be there before the call begins.
"""
update_call_p.multiple_results = True
update_call_p.def_abstract_eval(_abstract_eval_of_call)
