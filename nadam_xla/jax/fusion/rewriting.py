"""The rewriting of a program: updates that return changes take the additions of them in."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from nadam_xla.jax.fusion.additions import Addition, addition_of, leaves_of, returns_change
from nadam_xla.jax.fusion.block import Block, with_parts
from nadam_xla.jax.fusion.boundaries import without_boundaries
from nadam_xla.jax.fusion.fused_call import with_additions
from nadam_xla.jax.fusion.weaving import woven

Program = TypeVar("Program", Jaxpr, ClosedJaxpr)

# What a program became, with and without weaving. JAX knows programs by their identity: a function
# that is called twice, in one program or in two, is traced once, and shall be compiled once.
_rewritten: dict[bool, WeakKeyDictionary[Any, Any]] = {
    True: WeakKeyDictionary(),
    False: WeakKeyDictionary(),
}


def fused(program: Program, *, weaves: bool = True) -> Program:
    """The program, with every update in it that can take additions in; itself where none can.

    Args:
        program: the program.
        weaves: whether updates also move into the scans that make their gradients.
    """
    memory = _rewritten[weaves]
    if program not in memory:
        new = _fused(program, weaves)
        # None for itself, which would keep its own entry alive.
        memory[program] = None if new is program else new
    known: Program | None = memory[program]
    return program if known is None else known


def _fused(program: Any, weaves: bool) -> Any:
    if isinstance(program, Jaxpr):
        own = fused_block(program)
        return _fused_inside(woven(own) if weaves else own, weaves)
    jaxpr = fused(program.jaxpr, weaves=weaves)
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
    params = [addition.param for addition in additions.values()]
    needed = block.needed_after(params, update) or []
    gone = {id(eqn) for eqn in (*needed, *(a.equation for a in additions.values()))}
    place = block.place[id(update)]
    return [
        *block.equations[:place],
        *needed,
        *with_additions(update, additions),
        *(eqn for eqn in block.equations[place + 1 :] if id(eqn) not in gone),
    ]


def _fused_inside(jaxpr: Jaxpr, weaves: bool) -> Jaxpr:
    """The program, each program in its equations rewritten."""

    def rewritten(eqn: JaxprEqn) -> JaxprEqn:
        # A scan is made anew by tracing it, which needs the names of the mesh's axes.
        inside = weaves and eqn.primitive.name != "shard_map"
        return _mapped(eqn, partial(fused, weaves=inside))

    equations = [rewritten(eqn) for eqn in jaxpr.eqns]
    if all(new is old for new, old in zip(equations, jaxpr.eqns, strict=True)):
        return jaxpr
    return with_parts(jaxpr, eqns=equations)


def _mapped(eqn: JaxprEqn, function: Callable[[Any], Any]) -> JaxprEqn:
    """The equation with the function applied to each program among its parameters."""

    def mapped(value: Any) -> Any:
        if isinstance(value, Jaxpr | ClosedJaxpr):
            return function(value)
        if not isinstance(value, tuple):
            return value
        elements = [mapped(x) if isinstance(x, Jaxpr | ClosedJaxpr) else x for x in value]
        if all(new is old for new, old in zip(elements, value, strict=True)):
            return value
        return type(value)(*elements) if hasattr(value, "_fields") else tuple(elements)

    params = {name: mapped(value) for name, value in eqn.params.items()}
    same = all(params[name] is value for name, value in eqn.params.items())
    return eqn if same else eqn.replace(params=params)
