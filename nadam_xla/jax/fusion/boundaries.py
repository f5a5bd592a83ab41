"""A change that crosses a boundary: made in a nested ``jit`` or a ``cond``, added outside of it.

So ``optax.apply_if_finite`` has it. A ``jit`` that means no more than its equations is opened; into
the branches of a ``cond`` the addition is moved, each adding what it would have returned.
"""

from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core.primitives import add_p, cond_p, jit_p

from nadam_xla.jax.fusion.additions import Addition, addition_to, leaves_of, returns_change
from nadam_xla.jax.fusion.block import Atom, Block, programs_in, type_of, with_parts
from nadam_xla.jax.fusion.splicing import atom_in, renamed, spliced

# Which results of a program are changes.
_returned: WeakKeyDictionary[Jaxpr, frozenset[int]] = WeakKeyDictionary()


def without_boundaries(jaxpr: Jaxpr, fused_block: Callable[[Jaxpr], Jaxpr]) -> Jaxpr:
    """The program in which no boundary stands between a change and its addition.

    Args:
        jaxpr: the program.
        fused_block: what shows whether a branch takes an addition in that was moved there.
    """
    while (opened := _with_one_opened(jaxpr)) is not None:
        jaxpr = opened
    for place in reversed(range(len(jaxpr.eqns))):
        if jaxpr.eqns[place].primitive is cond_p:
            jaxpr = _with_additions_moved(jaxpr, place, fused_block)
    return jaxpr


def _changes_made(eqn: JaxprEqn) -> frozenset[int]:
    """Which results of the equation are changes that an update in it makes."""
    if returns_change(eqn):
        return frozenset(range(leaves_of(eqn)))
    if eqn.primitive not in (jit_p, cond_p):
        return frozenset()
    return frozenset().union(*map(_changes_returned, programs_in(eqn)))


def _changes_returned(jaxpr: Jaxpr) -> frozenset[int]:
    if jaxpr not in _returned:
        made = {eqn.outvars[i] for eqn in jaxpr.eqns for i in _changes_made(eqn)}
        changes = (
            i for i, x in enumerate(jaxpr.outvars) if not isinstance(x, Literal) and x in made
        )
        _returned[jaxpr] = frozenset(changes)
    return _returned[jaxpr]


# ---- jit ----------------------------------------------------------------------------------------


def _with_one_opened(jaxpr: Jaxpr) -> Jaxpr | None:
    block = Block(jaxpr)
    for place, eqn in enumerate(block.equations):
        if eqn.primitive is not jit_p or not _is_transparent(eqn):
            continue
        if _hands_change_out(block, eqn) or _takes_change_in(block, eqn):
            equations, made = spliced(eqn.params["jaxpr"].jaxpr, eqn.invars)
            names = dict(zip(eqn.outvars, made, strict=True))
            rest = [renamed(later, names) for later in block.equations[place + 1 :]]
            results = [atom_in(names, result) for result in block.results]
            before = block.equations[:place]
            return with_parts(jaxpr, eqns=[*before, *equations, *rest], outvars=results)
    return None


def _hands_change_out(block: Block, eqn: JaxprEqn) -> bool:
    return any(block.only_user(eqn.outvars[i]) is not None for i in _changes_made(eqn))


def _takes_change_in(block: Block, eqn: JaxprEqn) -> bool:
    """Whether a change goes into it, and into nothing but a sum there."""
    program: Jaxpr = eqn.params["jaxpr"].jaxpr
    taken = [
        inner
        for outer, inner in zip(eqn.invars, program.invars, strict=True)
        if _is_made_as_change(block, outer) and block.only_user(outer) is eqn
    ]
    return bool(taken) and any(_is_added(Block(program), inner) for inner in taken)


def _is_made_as_change(block: Block, value: Atom) -> bool:
    maker = block.maker(value)
    return maker is not None and any(maker.outvars[i] is value for i in _changes_made(maker))


def _is_added(block: Block, var: Var) -> bool:
    user = block.only_user(var)
    if user is None or user.primitive is not jit_p:
        return user is not None and user.primitive is add_p
    program = user.params["jaxpr"].jaxpr
    return _is_added(Block(program), program.invars[user.invars.index(var)])


def _is_transparent(eqn: JaxprEqn) -> bool:
    """Whether this ``jit`` means no more than its equations."""
    given = eqn.params
    shardings = (*given["in_shardings"], *given["out_shardings"])
    return not (
        given["jaxpr"].consts
        or any(given["donated_invars"])
        or any(isinstance(x, jax.sharding.Sharding) for x in shardings)
        or any(layout is not None for layout in (*given["in_layouts"], *given["out_layouts"]))
        or given["compiler_options_kvs"]
    )


# ---- cond ---------------------------------------------------------------------------------------


def _with_additions_moved(jaxpr: Jaxpr, place: int, fused_block: Callable[[Jaxpr], Jaxpr]) -> Jaxpr:
    """The program in which the ``cond`` at this place makes the additions a branch takes in."""
    block = Block(jaxpr)
    eqn = block.equations[place]
    found = {i: _addition_behind(block, eqn, i) for i in _changes_made(eqn)}
    additions = {i: addition for i, addition in found.items() if addition is not None}
    if not additions:
        return jaxpr
    taken = _taken_in(_with_additions(eqn, additions), additions, fused_block)
    if not taken:
        return jaxpr
    equations = [*block.equations]
    equations[place] = _with_additions(eqn, taken)
    gone = [addition.equation for addition in taken.values()]
    kept = [eqn for eqn in equations if all(eqn is not x for x in gone)]
    return with_parts(jaxpr, eqns=kept)


def _addition_behind(block: Block, eqn: JaxprEqn, result: int) -> Addition | None:
    """The addition of a change that leaves a ``cond``."""
    addition = addition_to(block, eqn.outvars[result])
    if addition is None or isinstance(addition.param, Literal):
        return None
    return addition if block.needed_after([addition.param], eqn) == [] else None


def _taken_in(
    moved: JaxprEqn, additions: Mapping[int, Addition], fused_block: Callable[[Jaxpr], Jaxpr]
) -> dict[int, Addition]:
    """Those of the additions that an update in a branch takes in."""
    blocks = [Block(fused_block(branch.jaxpr)) for branch in moved.params["branches"]]

    def is_taken(result: int) -> bool:
        makers = [block.maker(block.results[result]) for block in blocks]
        return any(maker is not None and maker.primitive is not add_p for maker in makers)

    return {result: addition for result, addition in additions.items() if is_taken(result)}


def _with_additions(eqn: JaxprEqn, additions: Mapping[int, Addition]) -> JaxprEqn:
    """The ``cond`` that returns these sums in place of the changes."""
    operands, results = list(eqn.invars), list(eqn.outvars)
    places = {}
    for result, addition in additions.items():
        known = (i for i, operand in enumerate(operands) if i and operand is addition.param)
        places[result] = next(known, len(operands))
        operands[places[result] :] = operands[places[result] :] or [addition.param]
        results[result] = addition.equation.outvars[0]
    types = [type_of(param) for param in operands[len(eqn.invars) :]]

    def with_sums(program: Jaxpr) -> Jaxpr:
        taken = [*program.invars, *map(Var, types)]
        equations, returned = list(program.eqns), list(program.outvars)
        for result, addition in additions.items():
            total = Var(type_of(addition.equation.outvars[0]))
            summands = [taken[places[result] - 1], returned[result]]
            equations.append(addition.equation.replace(invars=summands, outvars=[total]))
            returned[result] = total
        return with_parts(program, invars=taken, outvars=returned, eqns=equations)

    branches = [branch.replace(jaxpr=with_sums(branch.jaxpr)) for branch in eqn.params["branches"]]
    params = {**eqn.params, "branches": tuple(branches)}
    moved: JaxprEqn = eqn.replace(invars=operands, outvars=results, params=params)
    return moved
