"""What became of each update in a program, in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core.primitives import scan_p, while_p

import nadam_xla
from nadam_xla.jax.entry import nadam_update_entry_p
from nadam_xla.jax.fusion.additions import addition_of, is_update, leaves_of, returns_change
from nadam_xla.jax.fusion.block import Block, programs_in, type_of
from nadam_xla.jax.fusion.weaving import origin_of

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
        return "\n".join(lines)


def reports(program: ClosedJaxpr) -> list[UpdateReport]:
    """A report for each update in the program, in its order."""
    fates = ["the function returns its change"] * len(program.jaxpr.outvars)
    return list(_reports(program.jaxpr, (), fates))


def _reports(jaxpr: Jaxpr, where: tuple[str, ...], fates: Sequence[str]) -> Iterator[UpdateReport]:
    """Those of a program, with what becomes of each change that it returns."""
    block = Block(jaxpr)
    for eqn in block.equations:
        if is_update(eqn):
            yield _report(block, eqn, where, fates)
        if eqn.primitive is nadam_update_entry_p:
            types = _types(eqn.outvars[: eqn.params["leaves"]])
            yield UpdateReport(where, _source(eqn), True, True, types, ("",) * len(types))
        for program in programs_in(eqn):
            outside = [_fate_outside(block, eqn, var, fates) for var in eqn.outvars]
            known = eqn.primitive not in (scan_p, while_p) and len(outside) == len(program.outvars)
            unknown = [f"its change leaves {eqn.primitive.name}"] * len(program.outvars)
            inside = (*where, _name(eqn))
            yield from _reports(program, inside, outside if known else unknown)


def _report(
    block: Block, update: JaxprEqn, where: tuple[str, ...], fates: Sequence[str]
) -> UpdateReport:
    first = update.outvars[: leaves_of(update)]
    reasons: list[object] = []
    for leaf, change in enumerate(first):
        if not returns_change(update):
            reasons.append(origin_of(block, update, leaf) or "")
        elif block.is_returned(change) and not block.users(change):
            reasons.append(fates[block.results.index(change)])
        else:
            reasons.append(addition_of(block, update, leaf))
    return UpdateReport(
        where=where,
        source=_source(update),
        returns_params=not returns_change(update),
        woven=False,
        leaves=_types(first),
        reasons=tuple(map(str, reasons)),
    )


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
