"""The rows of tables that a program looks up, and their cotangents.

A program in which the table itself has no derivative: what is looked up in it has that of an
operand more, of the shape of those rows. Nothing of the size of a table is made.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core.primitives import convert_element_type_p, gather_p, jit_p
from jax.lax import GatherScatterMode

from nadam_xla.jax.fusion.block import Atom, type_of, with_parts
from nadam_xla.jax.fusion.splicing import renamed, spliced
from nadam_xla.jax.rows import RowGradient
from nadam_xla.jax.rows_primitive import INDEX_DTYPES
from nadam_xla.jax.stored_numbers import with_tangent_of


class Lookup(NamedTuple):
    """Where a program looks rows up."""

    table: int  # its number
    indices: Any  # the type of the operand of the gather, [..., the dimensions that it tells]
    rows: Any  # the type of what is looked up
    gather: Mapping[str, Any]  # its parameters
    height: int  # of the table

    def gradient(self, indices: jax.Array, cotangent: jax.Array) -> RowGradient:
        """The gradient of the table, as far as it comes from here.

        Args:
            indices: those of the gather.
            cotangent: of the rows.
        """
        dimensions = self.gather["dimension_numbers"]
        numbers = indices[..., dimensions.start_index_map.index(0)].reshape(-1)
        if self.gather["mode"] == GatherScatterMode.CLIP:
            numbers = jnp.clip(numbers, 0, self.height - 1)
        if str(numbers.dtype) not in INDEX_DTYPES:
            numbers = numbers.astype(jnp.int32)
        of_row = dimensions.offset_dims
        each = [d for d in range(cotangent.ndim) if d not in of_row]
        columns = self.gather["slice_sizes"][1:]
        values = jnp.transpose(cotangent, (*each, *of_row)).reshape(numbers.shape[0], *columns)
        return RowGradient(numbers, values)


class _View(NamedTuple):
    """What a value is of a table."""

    table: int
    whole: Atom  # the table as it is stored
    dtype: Any  # to which it is converted


def with_lookups(
    program: ClosedJaxpr, tables: Mapping[int, str]
) -> tuple[ClosedJaxpr, list[Lookup]]:
    """The program whose lookups have a derivative of their own.

    Args:
        program: the program.
        tables: the operands that are tables, by their number, and what the caller calls them.

    Returns:
        The program with an operand more for each lookup, which it never reads, and as many results
        more: the indices. And the lookups.

    Raises:
        ValueError: a table is used otherwise than to look rows up.
    """
    jaxpr = program.jaxpr
    constants: dict[Var, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    views = {jaxpr.invars[i]: _View(i, jaxpr.invars[i], None) for i in tables}
    names: dict[Var, Atom] = {}
    lookups: list[Lookup] = []
    probes: list[Var] = []
    indices: list[Atom] = []
    equations: list[JaxprEqn] = []
    waiting = list(reversed(jaxpr.eqns))
    while waiting:
        eqn = _renamed(waiting.pop(), names)
        used = [views[x] for x in eqn.invars if not isinstance(x, Literal) and x in views]
        if not used:
            equations.append(eqn)
        elif eqn.primitive is jit_p:
            opened: ClosedJaxpr = eqn.params["jaxpr"]
            constants |= dict(zip(opened.jaxpr.constvars, opened.consts, strict=True))
            inner, results = spliced(opened.jaxpr, eqn.invars)
            names |= dict(zip(eqn.outvars, results, strict=True))
            waiting += reversed(inner)
        elif eqn.primitive is convert_element_type_p:
            views[eqn.outvars[0]] = used[0]._replace(dtype=eqn.params["new_dtype"])
        elif (lookup := _lookup(eqn, used[0])) is not None:
            probes.append(Var(lookup.rows))
            indices.append(eqn.invars[1])
            lookups.append(lookup)
            made, (rows,) = spliced(
                _program_of(lookup, type_of(used[0].whole)),
                [used[0].whole, eqn.invars[1], probes[-1]],
            )
            names[eqn.outvars[0]] = rows
            equations += made
        else:
            raise ValueError(_why_not(tables[used[0].table], eqn))
    results = [_last_name(names, result) for result in jaxpr.outvars]
    for result in results:
        if not isinstance(result, Literal) and result in views:
            raise ValueError(f"{tables[views[result].table]} is returned as it is; {_ONLY_LOOKUPS}")
    new = with_parts(
        jaxpr,
        constvars=[*constants],
        eqns=equations,
        invars=[*jaxpr.invars, *probes],
        outvars=[*results, *indices],
    )
    return program.replace(jaxpr=new, consts=[*constants.values()]), lookups


def _renamed(eqn: JaxprEqn, names: Mapping[Var, Atom]) -> JaxprEqn:
    """The equation with what its operands are called at last."""
    variables = (x for x in eqn.invars if not isinstance(x, Literal))
    return renamed(eqn, {x: _last_name(names, x) for x in variables})


def _last_name(names: Mapping[Var, Atom], atom: Atom) -> Atom:
    """What the atom is called; a name may have been given another one."""
    while not isinstance(atom, Literal) and atom in names:
        atom = names[atom]
    return atom


_ONLY_LOOKUPS = (
    "value_and_row_grad takes tables of which a program does nothing but look rows up by integer"
    " arrays, as in table[ids] or jnp.take(table, ids, axis=0), outside of loops, branches and"
    " checkpoints (an embedding that is the output layer, too, has a dense gradient: leave it out"
    " of the tables)"
)


def _why_not(name: str, eqn: JaxprEqn) -> str:
    return f"{name} is used by {eqn.primitive.name}; {_ONLY_LOOKUPS}"


def _lookup(eqn: JaxprEqn, view: _View) -> Lookup | None:
    """What the equation looks up, where it takes whole rows of a table by their numbers."""
    if eqn.primitive is not gather_p:
        return None
    table, indices = map(type_of, eqn.invars)
    dimensions, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
    whole_rows = tuple(eqn.params["slice_sizes"]) == (1, *table.shape[1:])
    # Others tell of columns, too: where they are clipped, they can only be the first.
    by_rows = dimensions.start_index_map == (0,) or (
        0 in dimensions.start_index_map and mode != GatherScatterMode.FILL_OR_DROP
    )
    if not whole_rows or not by_rows or dimensions.operand_batching_dims:
        return None
    rows = type_of(eqn.outvars[0])
    return Lookup(view.table, indices, rows, dict(eqn.params), table.shape[0])


def _program_of(lookup: Lookup, table: Any) -> Jaxpr:
    """The lookup: rows of the table as it is stored, converted, with the derivative of a probe."""

    def look_up(table: jax.Array, indices: jax.Array, probe: jax.Array) -> jax.Array:
        rows = gather_p.bind(table, indices, **lookup.gather)
        return with_tangent_of(rows.astype(lookup.rows.dtype), probe)

    arguments = (
        jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (table, lookup.indices, lookup.rows)
    )
    program: Jaxpr = jax.make_jaxpr(look_up)(*arguments).jaxpr
    return program
