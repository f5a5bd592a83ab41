"""What becomes of each value in one block of a program: the equations of one ``Jaxpr``."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core.primitives import jit_p, mul_p

Atom: TypeAlias = Any
"""A ``Var`` or a ``Literal``."""

# They change what a type says of a value, and not the value.
_TYPE_CHANGES = ("pvary", "reshard")


class Block:
    """Makers and users of the values of one block."""

    def __init__(self, jaxpr: Jaxpr) -> None:
        self.equations = list(jaxpr.eqns)
        self.results: list[Atom] = list(jaxpr.outvars)
        self.place = {id(eqn): place for place, eqn in enumerate(self.equations)}
        self._maker = {var: eqn for eqn in self.equations for var in eqn.outvars}
        self._users: dict[Var, list[JaxprEqn]] = {}
        for eqn in self.equations:
            for var in _variables(eqn.invars):
                self._users.setdefault(var, []).append(eqn)
        self._returned = set(_variables(jaxpr.outvars))

    def maker(self, value: Atom) -> JaxprEqn | None:
        """The equation that makes the value; None for what comes from outside."""
        return None if isinstance(value, Literal) else self._maker.get(value)

    def users(self, var: Var) -> list[JaxprEqn]:
        """The equations that take the value, each as often as it does."""
        return self._users.get(var, [])

    def is_returned(self, var: Var) -> bool:
        """Whether the block hands the value on."""
        return var in self._returned

    def only_user(self, value: Atom) -> JaxprEqn | None:
        """The one equation that takes the value, once, where nothing else sees it."""
        if isinstance(value, Literal) or self.is_returned(value):
            return None
        users = self.users(value)
        return users[0] if len(users) == 1 else None

    def is_same(self, one: Atom, other: Atom) -> bool:
        """Whether the two are one value, whatever its type says of it."""
        while one is not other:
            makers = self.maker(one), self.maker(other)
            if makers[0] is None or makers[1] is None:
                return False
            names = [maker.primitive.name for maker in makers if maker]
            if names[0] != names[1] or names[0] not in _TYPE_CHANGES:
                return False
            if makers[0].params != makers[1].params:
                return False
            one, other = makers[0].invars[0], makers[1].invars[0]
        return True

    def is_product(self, value: Atom) -> bool:
        """Whether a multiplication makes the value."""
        maker = self.maker(value)
        while maker is not None and maker.primitive.name in _TYPE_CHANGES:
            value = maker.invars[0]
            maker = self.maker(value)
        if maker is not None and maker.primitive is jit_p:
            program = maker.params["jaxpr"].jaxpr
            return Block(program).is_product(program.outvars[maker.outvars.index(value)])
        return maker is not None and maker.primitive is mul_p

    def needed_after(self, values: Sequence[Atom], eqn: JaxprEqn) -> list[JaxprEqn] | None:
        """The equations behind this one that make the values, in their order.

        None where one depends on this one itself, or where one of them has an effect.
        """
        place, found, sought = self.place[id(eqn)], set[int](), [*values]
        while sought:
            maker = self.maker(sought.pop())
            if maker is None or self.place[id(maker)] < place or self.place[id(maker)] in found:
                continue
            if maker is eqn or maker.effects:
                return None
            found.add(self.place[id(maker)])
            sought += maker.invars
        return [self.equations[place] for place in sorted(found)]


def type_of(value: Atom) -> Any:
    """The type of a value in a program."""
    return value.aval


def programs_in(eqn: JaxprEqn) -> list[Jaxpr]:
    """The programs among the equation's parameters."""
    values = [x for v in eqn.params.values() for x in (v if isinstance(v, tuple) else (v,))]
    programs = [value for value in values if isinstance(value, Jaxpr | ClosedJaxpr)]
    return [x.jaxpr if isinstance(x, ClosedJaxpr) else x for x in programs]


def with_parts(jaxpr: Jaxpr, **parts: Any) -> Jaxpr:
    """The program with other ``eqns``, ``invars`` or ``outvars``."""
    changed: Jaxpr = jaxpr.replace(**parts)
    return changed


def _variables(atoms: Sequence[Atom]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]
