"""An update that takes additions in: the equations in place of the one that returned changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Primitive, Var
from jax.extend.core.primitives import concatenate_p, slice_p

from nadam_xla.jax.fusion.additions import Addition, leaves_of, operands_of
from nadam_xla.jax.fusion.block import Atom, type_of
from nadam_xla.streams import Streams, of_leaves


def with_additions(update: JaxprEqn, additions: Mapping[int, Addition]) -> list[JaxprEqn]:
    """The update of these leaves with their additions, and that of the others without.

    Args:
        update: an equation that returns changes.
        additions: the addition of each leaf that has one.
    """
    n, streams = leaves_of(update), update.params["streams"]
    chosen = sorted(additions)
    others = [leaf for leaf in range(n) if leaf not in additions]
    given = operands_of(update)
    params = [additions[leaf].param for leaf in chosen]
    rest = [given[name][leaf] for name in ("grads", *streams.states) for leaf in chosen]
    sums = [additions[leaf].equation.outvars[0] for leaf in chosen]
    results = of_leaves(len(streams.overwritten), chosen, n)
    states = [update.outvars[i] for i in results[len(chosen) :]]
    slicing, table = rows_of(update, chosen)
    fused = update.replace(
        invars=[table, *params, *rest],
        outvars=[*sums, *states],
        params={"streams": streams._replace(has_params=True, returns_change=False)},
    )
    return [*slicing, fused, *of_some_leaves(update, others)]


def of_some_leaves(update: JaxprEqn, leaves: Sequence[int]) -> list[JaxprEqn]:
    """The update of some of its leaves; nothing where there are none."""
    streams: Streams = update.params["streams"]
    n = leaves_of(update)
    if not leaves:
        return []
    slicing, table = rows_of(update, leaves)
    operands = [update.invars[1 + i] for i in of_leaves(len(streams.operands), leaves, n)]
    results = [update.outvars[i] for i in of_leaves(len(streams.overwritten), leaves, n)]
    return [*slicing, update.replace(invars=[table, *operands], outvars=results)]


def rows_of(update: JaxprEqn, leaves: Sequence[int]) -> tuple[list[JaxprEqn], Atom]:
    """The table of these leaves, and the equations that make it of the table of all."""
    table = update.invars[0]
    batch, rows, width = type_of(table).shape
    if rows == 1 or len(leaves) == rows:
        return [], table

    def made(primitive: Primitive, operands: Sequence[Atom], **params: Any) -> JaxprEqn:
        result = Var(type_of(table).update(shape=(batch, len(operands), width)))
        equation: JaxprEqn = update.replace(
            primitive=primitive, invars=list(operands), outvars=[result], params=params
        )
        return equation

    slices = [
        made(
            slice_p,
            [table],
            start_indices=(0, leaf, 0),
            limit_indices=(batch, leaf + 1, width),
            strides=None,
        )
        for leaf in leaves
    ]
    parts = [eqn.outvars[0] for eqn in slices]
    if len(parts) == 1:
        return slices, parts[0]
    joined = made(concatenate_p, parts, dimension=1)
    return [*slices, joined], joined.outvars[0]
