"""Equations of one program in the block of another."""

from collections.abc import Mapping, Sequence

from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from nadam_xla.jax.fusion.block import Atom, type_of


def spliced(program: Jaxpr, operands: Sequence[Atom]) -> tuple[list[JaxprEqn], list[Atom]]:
    """The equations of a program on these operands, and its results.

    Their variables are made anew: a program may be spliced in two places.
    """
    inner: dict[Var, Atom] = dict(zip(program.invars, operands, strict=True))
    equations = []
    for eqn in program.eqns:
        inner |= {var: Var(type_of(var)) for var in eqn.outvars}
        equations.append(
            eqn.replace(
                invars=[atom_in(inner, atom) for atom in eqn.invars],
                outvars=[inner[var] for var in eqn.outvars],
            )
        )
    return equations, [atom_in(inner, result) for result in program.outvars]


def renamed(eqn: JaxprEqn, names: Mapping[Var, Atom]) -> JaxprEqn:
    """The equation with other operands; itself where it has none of them."""
    if not any(not isinstance(atom, Literal) and atom in names for atom in eqn.invars):
        return eqn
    changed: JaxprEqn = eqn.replace(invars=[atom_in(names, atom) for atom in eqn.invars])
    return changed


def atom_in(names: Mapping[Var, Atom], atom: Atom) -> Atom:
    """What the atom is called."""
    return atom if isinstance(atom, Literal) else names.get(atom, atom)
