"""The rewriting of a program: updates that return changes take the additions of them in."""

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from nadam_xla.jax.fusion.additions import Addition, addition_of, leaves_of, returns_change
from nadam_xla.jax.fusion.block import Block, with_parts
from nadam_xla.jax.fusion.boundaries import without_boundaries
from nadam_xla.jax.fusion.fused_call import with_additions

Program = TypeVar("Program", Jaxpr, ClosedJaxpr)

# What a program became. JAX knows programs by their identity: a function that is called twice, in
# one program or in two, is traced once, and shall be compiled once.
_rewritten: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def fused(program: Program) -> Program:
    """The program, with every update in it that can take additions in; itself where none can."""
    if program not in _rewritten:
        new = _fused(program)
        # None for itself, which would keep its own entry alive.
        _rewritten[program] = None if new is program else new
    known: Program | None = _rewritten[program]
    return program if known is None else known


def _fused(program: Any) -> Any:
    if isinstance(program, Jaxpr):
        return _fused_inside(fused_block(program))
    jaxpr = fused(program.jaxpr)
    return program if jaxpr is program.jaxpr else program.replace(jaxpr=jaxpr)


def fused_block(jaxpr: Jaxpr) -> Jaxpr:
    """The same for the updates of its own block, and for those that reach into it."""
    jaxpr = without_boundaries(jaxpr, fused_block)
    while (replaced := _with_one_fused(jaxpr)) is not None:
        jaxpr = replaced
    return jaxpr


def _with_one_fused(jaxpr: Jaxpr) -> Jaxpr | None:
    """The program with one more update that takes additions in; None where there is none."""
    block = Block(jaxpr)
    for update in filter(returns_change, block.equations):
        found = {leaf: addition_of(block, update, leaf) for leaf in range(leaves_of(update))}
        additions = {leaf: a for leaf, a in found.items() if isinstance(a, Addition)}
        if additions:
            return with_parts(jaxpr, eqns=_equations(block, update, additions))
    return None


def _equations(block: Block, update: JaxprEqn, additions: dict[int, Addition]) -> list[JaxprEqn]:
    """Those of the block; what makes the parameters of the additions comes before the update."""
    needed = {
        block.place[id(eqn)]: eqn
        for addition in additions.values()
        for eqn in block.needed_after(addition.param, update) or []
    }
    gone = {id(eqn) for eqn in needed.values()}
    gone |= {id(addition.equation) for addition in additions.values()}
    place = block.place[id(update)]
    return [
        *block.equations[:place],
        *(needed[i] for i in sorted(needed)),
        *with_additions(update, additions),
        *(eqn for eqn in block.equations[place + 1 :] if id(eqn) not in gone),
    ]


def _fused_inside(jaxpr: Jaxpr) -> Jaxpr:
    """The program, each program in its equations rewritten."""
    equations = [_mapped(eqn, fused) for eqn in jaxpr.eqns]
    if all(new is old for new, old in zip(equations, jaxpr.eqns, strict=True)):
        return jaxpr
    return with_parts(jaxpr, eqns=equations)


def _mapped(eqn: JaxprEqn, function: Callable[[Any], Any]) -> JaxprEqn:
    """The equation with the function applied to each program among its parameters."""

    def mapped(value: Any) -> Any:
        if isinstance(value, Jaxpr | ClosedJaxpr):
            return function(value)
        if isinstance(value, tuple) and any(isinstance(x, Jaxpr | ClosedJaxpr) for x in value):
            return tuple(map(mapped, value))
        return value

    params = {name: mapped(value) for name, value in eqn.params.items()}
    same = all(params[name] is value for name, value in eqn.params.items())
    return eqn if same else eqn.replace(params=params)
