"""Which arrays the leaves of an update consist of, and in which order they travel.

Every layer reads it here: the primitive and its transformations, the partitioning, the module that
TensorFlow is given. The native decoder has the same in kernels/streams.h.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

RULE_STREAMS = ("params", "grads", "mu", "nu", "average")
"""What the rule computes with."""

STREAMS = (*RULE_STREAMS, "master", "mu_scales", "nu_scales")
"""All that a leaf may have, in the order of travel: one stream of all leaves, then the next."""

STATES = ("mu", "nu", "average", "master", "mu_scales", "nu_scales")
"""The streams of the optimizer's state."""

_BITS = {
    "params": 0,
    "grads": 1,
    "mu": 2,
    "nu": 3,
    "average": 4,
    "master": 16,
    "mu_scales": 17,
    "nu_scales": 18,
}


def bit_of(stream: str) -> int:
    """The stream's bit in the attribute ``streams``, which a program keeps.

    Those of the rule count from 0, and what is stored beside them from 16.
    """
    return _BITS[stream]


class Streams(NamedTuple):
    """What is there for each leaf of an update, and what its first result is.

    Attributes:
        has_params: without them, they are zero wherever the rule reads them, and the first result
            is the change.
        returns_change: the first result is the change of the parameters, in the memory of the
            gradients; otherwise the new parameters, in that of the old ones.
        has_master: the parameters have master weights beside them.
        is_stochastic: what is narrower than float32 is rounded stochastically; otherwise to the
            nearest.
        has_average: an average of the parameters is updated with them.
        has_mu_scales: the first moment is stored in codes of eight bits, with scales beside it.
        has_nu_scales: the second moment is.
    """

    has_params: bool = True
    returns_change: bool = False
    has_master: bool = False
    is_stochastic: bool = False
    has_average: bool = False
    has_mu_scales: bool = False
    has_nu_scales: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        """The streams that are there, in the order of travel; one that may be absent has a flag."""
        return tuple(name for name in STREAMS if getattr(self, f"has_{name}", True))

    @property
    def overwritten(self) -> tuple[str, ...]:
        """For each result of a leaf, the stream whose memory it may take."""
        return ("grads" if self.returns_change else "params", *self.states)

    @property
    def states(self) -> tuple[str, ...]:
        """Those of the optimizer's state."""
        return tuple(name for name in STATES if name in self.operands)

    @property
    def has_scales(self) -> bool:
        """Whether a moment is stored in codes."""
        return self.has_mu_scales or self.has_nu_scales

    @property
    def is_drawn(self) -> bool:
        """Whether anything is rounded by random numbers, whose key is then in the row.

        Codes always are: to the nearest, a moment that changes by less than half a code would
        never move.
        """
        return self.is_stochastic or self.has_scales

    def leaves(self, operands: int) -> int:
        """Of how many leaves these operands are; one operand more may be awaited by the call."""
        return operands // len(self.operands)

    def by_name(self, operands: Sequence[T]) -> dict[str, Sequence[T]]:
        """The operands of each stream, without one that is awaited.

        Args:
            operands: all of them, without the table.
        """
        n = self.leaves(len(operands))
        return {name: operands[i * n : (i + 1) * n] for i, name in enumerate(self.operands)}

    def awaited(self, operands: Sequence[T]) -> Sequence[T]:
        """The operand that the call waits for and does not read, where there is one."""
        return operands[self.leaves(len(operands)) * len(self.operands) :]

    def aliases(self, leaves: int, *, first: int = 1) -> dict[int, int]:
        """For each operand whose memory a result may take, by its number, that result's number.

        A result whose dtype is another than the operand's takes no memory.

        Args:
            leaves: how many there are.
            first: the number of the first leaf's first operand; the table is operand 0.
        """
        places = self.by_name(range(first, first + len(self.operands) * leaves))
        taken = (place for name in self.overwritten for place in places[name])
        return {operand: result for result, operand in enumerate(taken)}

    def attributes(self, first_row: int = 0) -> Mapping[str, bool | int]:
        """Those of ``nadam_xla_update_v2``.

        Args:
            first_row: of the leaves' rows in a table that has more than one.
        """
        present = sum(1 << bit_of(name) for name in self.operands)
        rounding = {"rounding": 1} if self.is_stochastic else {}
        return {
            "streams": present,
            "returns_change": self.returns_change,
            "first_row": first_row,
            **rounding,
        }

    def attributes_of_rows(self, first_row: int = 0) -> Mapping[str, int]:
        """Those of ``nadam_xla_update_rows_v1``.

        Args:
            first_row: the table's row of coefficients, where there is more than one.
        """
        return {
            "streams": sum(1 << bit_of(name) for name in self.operands),
            "first_row": first_row,
            "rounding": int(self.is_stochastic),
        }


def of_leaves(groups: int, chosen: Sequence[int], leaves: int) -> list[int]:
    """Where the arrays of some of the leaves stand among those of all.

    Args:
        groups: how many arrays a leaf has there.
        chosen: the leaves.
        leaves: how many there are.
    """
    return [group * leaves + leaf for group in range(groups) for leaf in chosen]
