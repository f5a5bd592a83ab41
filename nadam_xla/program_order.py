"""In which order a program makes the gradients of an update, and the calls that follow from it.

One call for all leaves needs all their gradients at once. Stock updates each leaf as its gradient
is born: from the cache, and in memory that the next gradient can then have.

What an update overwrites, the rest of the program must have read before. XLA copies where it cannot
prove that; a gradient that is made of all that reads a parameter is the proof.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

from nadam_xla.calls import in_order_of_birth

Value = Hashable  # whatever a framework has for one


class PlannedCall(NamedTuple):
    """A call of an update."""

    leaves: tuple[int, ...]
    awaited: int | None
    """Which of the values the call is to wait for, where its own gradients are not enough."""


class _Origin(NamedTuple):
    """How a value comes about."""

    birth: int = -1  # the number of the operation that makes it; -1 outside of what is seen
    made_of: int = 0  # the set of the readers that it descends from, a bit for each
    shows: int = 0  # the set of the watched values that it is a view of, likewise


_OUTSIDE = _Origin()


class ProgramOrder:
    """The operations of a program up to the update, added one by one as they are run.

    Args:
        watched: values whose readers matter.
    """

    def __init__(self, watched: Sequence[Value]) -> None:
        self._watched: dict[Value, int] = {}
        for i, value in enumerate(watched):
            self._watched[value] = self._watched.get(value, 0) | 1 << i
        self._readers = [0] * len(watched)
        self._operations = 0
        self._reading = 0
        self._origins = {value: _Origin(shows=bits) for value, bits in self._watched.items()}

    def add(self, operands: Iterable[Value], results: Iterable[Value]) -> None:
        """An operation that computes."""
        made_of, shown = 0, 0
        for operand in operands:
            origin = self._origins.get(operand, _OUTSIDE)
            made_of |= origin.made_of
            shown |= origin.shows
        if shown:
            reader = 1 << self._reading
            self._reading += 1
            made_of |= reader
            for i in _bits(shown):
                self._readers[i] |= reader
        self._operations += 1
        for result in results:
            self._set(result, _Origin(self._operations, made_of))

    def add_views(self, operands: Iterable[Value], results: Iterable[Value]) -> None:
        """An operation that XLA may see through: who reads a result reads the operand for it."""
        given = [self._origins.get(operand, _OUTSIDE) for operand in operands]
        for result, origin in zip(results, given, strict=False):
            self._set(result, origin)

    def birth(self, value: Value) -> int:
        """The place at which the value is made; -1 where it comes from outside."""
        return self._origins.get(value, _OUTSIDE).birth

    def proves(self, value: Value, watched: Iterable[int]) -> bool:
        """Whether the value is made of all that reads these of the watched values."""
        made_of = self._origins.get(value, _OUTSIDE).made_of
        return all(self._readers[i] & ~made_of == 0 for i in watched)

    def _set(self, value: Value, origin: _Origin) -> None:
        bits = self._watched.get(value, 0)
        self._origins[value] = origin._replace(shows=origin.shows | bits) if bits else origin


def plan(
    order: ProgramOrder,
    values: Sequence[Value],
    leaves_of_watched: Sequence[int],
    sizes: Sequence[int],
    platform: str,
) -> list[PlannedCall]:
    """As many calls as the order of the gradients makes worth it, in that order.

    Args:
        order: of the program; what the calls overwrite is watched.
        values: the gradient of each leaf, and behind them what else may be awaited.
        leaves_of_watched: for each watched value, the leaf that it belongs to.
        sizes: the bytes of each gradient.
        platform: as :func:`nadam_xla.calls.in_order_of_birth` names it.
    """
    births = [order.birth(grad) for grad in values[: len(sizes)]]
    first_born = sorted(range(len(sizes)), key=lambda leaf: births[leaf])

    def awaited_by(call: Sequence[int]) -> int | None:
        """There is none where the call's own gradients show that all has been read.

        Nor where no gradient does: then XLA copies what it must, as it does for stock.
        """
        own = set(call)
        at_risk = [i for i, leaf in enumerate(leaves_of_watched) if leaf in own]
        for place in (*call, *first_born, *range(len(sizes), len(values))):
            if order.proves(values[place], at_risk):
                return None if place in own else place
        return None

    calls = in_order_of_birth(births, sizes, platform)
    return [PlannedCall(tuple(call), awaited_by(call)) for call in calls]


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
