"""What became of each update in a program, in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core.primitives import scan_p, while_p

import nadam_xla
from nadam_xla.jax.entry import nadam_update_entry_p
from nadam_xla.jax.fusion.additions import addition_of, is_update, leaves_of, returns_change
from nadam_xla.jax.fusion.block import Atom, Block, programs_in, type_of
from nadam_xla.jax.fusion.scans import is_stack
from nadam_xla.jax.fusion.weaving import grads_of, origin_of

# So that the line which made an update is the user's, or optax's, and not ours.
source_info_util.register_exclusion(str(Path(nadam_xla.__file__).parent))


@dataclass(frozen=True)
class UpdateReport:
    """One fused call of Nadam in a program.

    Attributes:
        where: the transformations that it stands in, from the outside; empty: in none.
        source: the line of the user's code that made it.
        returns_params: whether it returns parameters, as ``apply`` does; otherwise their change.
        woven: whether it stands in the ``scan`` that makes its gradients, and updates an entry.
        leaves: the type of each leaf.
        reasons: for each leaf why it is not fused, or not woven where a ``scan`` makes its
            gradients; empty where there is nothing to say.
    """

    where: tuple[str, ...]
    source: str
    returns_params: bool
    woven: bool
    leaves: tuple[str, ...]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """All of it, with the leaves of one reason in one line."""
        inside = f" inside {' > '.join(self.where)}" if self.where else ""
        n = len(self.leaves)
        what = "one pass" if self.returns_params else "not fused"
        what = "woven" if self.woven else what
        lines = [f"{self.source}{inside}: {n} {'leaf' if n == 1 else 'leaves'}, {what}"]
        for reason in dict.fromkeys(filter(None, self.reasons)):
            pairs = zip(self.leaves, self.reasons, strict=True)
            types = [leaf for leaf, own in pairs if own == reason]
            shown = ", ".join(types[:3]) + (", ..." if len(types) > 3 else "")
            lines.append(f"  {len(types)} of them ({shown}): {reason}")
        if any(reason.endswith("after the scan") for reason in self.reasons):
            lines.append(
                "  what is done to each entry inside of the scan, such as clipping it by its own"
                " norm, is woven"
            )
        return "\n".join(lines)


class _Outside(NamedTuple):
    """What a program does not show of itself.

    Attributes:
        where: the transformations that it stands in.
        fates: what becomes of each change that it returns.
        scanned: those of its arguments that are stacks which a scan outside makes.
    """

    where: tuple[str, ...]
    fates: Sequence[str]
    scanned: frozenset[Var]


def reports(program: ClosedJaxpr) -> list[UpdateReport]:
    """A report for each update in the program, in its order."""
    fates = ["the function returns its change"] * len(program.jaxpr.outvars)
    return list(_reports(program.jaxpr, _Outside((), fates, frozenset())))


def _reports(jaxpr: Jaxpr, outside: _Outside) -> Iterator[UpdateReport]:
    block = Block(jaxpr)
    for eqn in block.equations:
        if is_update(eqn):
            yield _report(block, eqn, outside)
        if eqn.primitive is nadam_update_entry_p:
            types = _types(eqn.outvars[: eqn.params["leaves"]])
            yield UpdateReport(outside.where, _source(eqn), True, True, types, ("",) * len(types))
        for program in programs_in(eqn):
            yield from _reports(program, _outside_of(program, block, eqn, outside))


def _outside_of(program: Jaxpr, block: Block, eqn: JaxprEqn, outside: _Outside) -> _Outside:
    """What surrounds a program in an equation of this block."""
    where = (*outside.where, _name(eqn))
    is_loop = eqn.primitive in (scan_p, while_p)
    if is_loop or len(eqn.outvars) != len(program.outvars):
        leaves = f"its change leaves {eqn.primitive.name}"
        return _Outside(where, [leaves] * len(program.outvars), frozenset())
    fates = [_fate_outside(block, eqn, var, outside.fates) for var in eqn.outvars]
    # From the end, for the first operand of a cond is the branch that it takes.
    pairs = zip(reversed(eqn.invars), reversed(program.invars), strict=False)
    scanned = (var for atom, var in pairs if _is_scanned(block, atom, outside))
    return _Outside(where, fates, frozenset(scanned))


def _is_scanned(block: Block, atom: Atom, outside: _Outside) -> bool:
    """Whether a scan, of this block or outside of it, returns the value as a stack."""
    if isinstance(atom, Literal):
        return False
    return atom in outside.scanned or is_stack(block, atom)


def _report(block: Block, update: JaxprEqn, outside: _Outside) -> UpdateReport:
    n = leaves_of(update)
    return UpdateReport(
        where=outside.where,
        source=_source(update),
        returns_params=not returns_change(update),
        woven=False,
        leaves=_types(update.outvars[:n]),
        reasons=tuple(_reason(block, update, leaf, outside) for leaf in range(n)),
    )


def _reason(block: Block, update: JaxprEqn, leaf: int, outside: _Outside) -> str:
    change = update.outvars[leaf]
    if returns_change(update):
        if block.is_returned(change) and not block.users(change):
            return outside.fates[block.results.index(change)]
        return str(addition_of(block, update, leaf))
    origin = origin_of(block, update, leaf)
    if origin is None and _is_scanned(block, grads_of(update, leaf), outside):
        return f"its gradients are made by a scan outside of {outside.where[-1]}"
    return origin if isinstance(origin, str) else ""


def _source(eqn: JaxprEqn) -> str:
    return source_info_util.summarize(eqn.source_info)


def _types(variables: Sequence[Var]) -> tuple[str, ...]:
    return tuple(type_of(var).str_short() for var in variables)


def _fate_outside(block: Block, eqn: JaxprEqn, var: Var, fates: Sequence[str]) -> str:
    """What becomes of a change that leaves this equation."""
    names = [user.primitive.name for user in block.users(var)]
    if names:
        return f"its change leaves {eqn.primitive.name} and goes into {' and '.join(names)}"
    return fates[block.results.index(var)] if block.is_returned(var) else "nothing uses its change"


def _name(eqn: JaxprEqn) -> str:
    name = eqn.params.get("name")
    return f"{eqn.primitive.name} {name}" if isinstance(name, str) else eqn.primitive.name
