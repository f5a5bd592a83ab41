"""Which additions an update can take in.

An addition is taken in where the update is the only maker, and the addition the only user, of a
change: then nobody sees that the change is not there any more.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jax.extend.core import JaxprEqn, Literal
from jax.extend.core.primitives import add_p

from nadam_xla.jax.fusion.block import Atom, Block, type_of
from nadam_xla.jax.primitive import nadam_update_p
from nadam_xla.streams import Streams

_CHANGES_BY_THE_RULE = [
    *(Streams(has_params, returns_change=True) for has_params in (True, False)),
    Streams(returns_change=True, has_average=True),
]


class Addition(NamedTuple):
    """An equation that adds a change to a parameter, and that parameter."""

    equation: JaxprEqn
    param: Atom


def is_update(eqn: JaxprEqn) -> bool:
    """Whether the equation is an update of ours."""
    return eqn.primitive is nadam_update_p


def returns_change(eqn: JaxprEqn) -> bool:
    """Whether the equation is an update that returns a change."""
    return is_update(eqn) and eqn.params["streams"].returns_change


def leaves_of(update: JaxprEqn) -> int:
    """How many leaves the update has."""
    streams: Streams = update.params["streams"]
    return streams.leaves(len(update.invars) - 1)


def operands_of(update: JaxprEqn) -> dict[str, Sequence[Atom]]:
    """The update's operands behind the table, by the names of their streams."""
    streams: Streams = update.params["streams"]
    return streams.by_name(update.invars[1:])


def addition_to(block: Block, change: Atom) -> Addition | None:
    """The addition that is all that becomes of a change."""
    eqn = block.only_user(change)
    if eqn is None or eqn.primitive is not add_p:
        return None
    return Addition(eqn, next(atom for atom in eqn.invars if atom is not change))


def addition_of(block: Block, update: JaxprEqn, leaf: int) -> Addition | str:
    """The addition that this leaf's update can take in, or in words why it can take none."""
    streams: Streams = update.params["streams"]
    if streams.has_scales:
        return "it keeps moments in codes of eight bits, and only apply does that in one pass"
    if streams not in _CHANGES_BY_THE_RULE:
        return (
            "it has master weights or rounds stochastically, and only apply does that in one pass"
        )
    change = update.outvars[leaf]
    addition = addition_to(block, change)
    if addition is None:
        return _uses_in_words(block, change)
    return _obstacle(block, update, leaf, addition) or _as_given(update, leaf, addition)


def _uses_in_words(block: Block, change: Atom) -> str:
    names = [eqn.primitive.name for eqn in block.users(change)]
    if block.is_returned(change):
        names.append("what is returned")
    return f"its change goes into {' and '.join(names)}" if names else "nothing uses its change"


def _obstacle(block: Block, update: JaxprEqn, leaf: int, addition: Addition) -> str | None:
    """What keeps an update from taking this addition in, to the bit."""
    (eqn, param), change = addition, type_of(update.outvars[leaf])
    computed, total = type_of(update.invars[0]).dtype, type_of(eqn.outvars[0])
    if change.dtype != computed:
        return (
            f"its change is rounded from {computed} to {change.dtype} before it is added; one pass"
            " would round once"
        )
    if isinstance(param, Literal) or not change == total == type_of(param).update(weak_type=False):
        return (
            f"its change, {change.str_short()}, is added to {type_of(param).str_short()}, which"
            f" makes {total.str_short()}"
        )
    if block.is_product(param):
        return "its change is added to a product, and XLA may round both at once"
    if _reads_params(update) and not block.is_same(param, _given_param(update, leaf)):
        return "its change is added to another value than the parameter, by which the leaf decays"
    if block.needed_after([param], update) is None and not _reads_params(update):
        return "its change is added to what is computed from this update, or with an effect"
    return None


def _as_given(update: JaxprEqn, leaf: int, addition: Addition) -> Addition:
    """The addition, with the parameter as the update has it where it has one."""
    if not _reads_params(update):
        return addition
    return addition._replace(param=_given_param(update, leaf))


def _reads_params(update: JaxprEqn) -> bool:
    streams: Streams = update.params["streams"]
    return streams.has_params


def _given_param(update: JaxprEqn, leaf: int) -> Atom:
    return operands_of(update)["params"][leaf]
