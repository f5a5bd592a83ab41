"""In which order a program makes the gradients, read from the operations that are lowered so far.

What an update overwrites, the rest of the program must have read before. XLA copies where it cannot
prove that; a gradient that is made of all that reads a parameter is the proof.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax.interpreters.mlir import ir

Value = Any  # of MLIR, whose classes have no types

# Operations that XLA may see through: whoever reads their results reads their operand.
_VIEWS = frozenset(
    f"stablehlo.{name}" for name in ("broadcast_in_dim", "convert", "reshape", "transpose")
)
_BARRIER = "stablehlo.optimization_barrier"
_CALL = "func.call"


class _Origin(NamedTuple):
    """How a value comes about."""

    birth: int = -1  # the number of the operation that makes it; -1 outside of what is seen
    made_of: int = 0  # the set of the readers that it descends from, a bit for each
    shows: int = 0  # the set of the watched values that it is a view of, likewise


class ProgramOrder:
    """The operations of a block, those of the functions that it calls among them.

    Args:
        block: the block that the update is being lowered into.
        watched: values whose readers matter.
        functions: those of the program, by name.
    """

    def __init__(self, block: Any, watched: Sequence[Value], functions: Mapping[str, Any]) -> None:
        self._functions = functions
        self._watched: dict[Value, int] = {}
        for i, value in enumerate(watched):
            self._watched[value] = self._watched.get(value, 0) | 1 << i
        self._readers = [0] * len(watched)
        self._operations = 0
        self._reading = 0
        self._origins: dict[Value, _Origin] = {
            value: _Origin(shows=bits) for value, bits in self._watched.items()
        }
        self._walk(block.operations, self._origins)

    def birth(self, value: Value) -> int:
        """The place at which the value is made; -1 where it comes from outside of the block."""
        return self._origins.get(value, _Origin()).birth

    def proves(self, value: Value, watched: Sequence[int]) -> bool:
        """Whether the value is made of all that reads these of the watched values."""
        made_of = self._origins.get(value, _Origin()).made_of
        return all(self._readers[i] & ~made_of == 0 for i in watched)

    def _walk(self, operations: Iterator[Any], origins: dict[Value, _Origin]) -> None:
        for view in operations:
            operation = view.operation
            given = [origins.get(value, _Origin()) for value in operation.operands]
            for result, origin in zip(
                operation.results, self._results(operation, given, origins), strict=False
            ):
                bits = self._watched.get(result, 0)
                origins[result] = origin._replace(shows=origin.shows | bits)

    def _results(
        self, operation: Any, given: list[_Origin], origins: dict[Value, _Origin]
    ) -> list[_Origin]:
        if operation.name == _BARRIER or operation.name in _VIEWS:
            return given
        if operation.name == _CALL:
            return self._results_of_call(operation, given)
        return [self._read(operation, given, origins)] * len(operation.results)

    def _results_of_call(self, operation: Any, given: list[_Origin]) -> list[_Origin]:
        name = ir.FlatSymbolRefAttr(operation.attributes["callee"]).value
        (body,) = self._functions[name].regions[0].blocks
        inside = dict(zip(body.arguments, given, strict=True))
        self._walk(body.operations, inside)
        *_, returned = body.operations
        return [inside.get(value, _Origin()) for value in returned.operation.operands]

    def _read(self, operation: Any, given: list[_Origin], origins: dict[Value, _Origin]) -> _Origin:
        captured = (origins[value] for value in _captured(operation) if value in origins)
        made_of, shown = 0, 0
        for origin in (*given, *captured):
            made_of |= origin.made_of
            shown |= origin.shows
        if shown:
            reader = 1 << self._reading
            self._reading += 1
            made_of |= reader
            for i in _bits(shown):
                self._readers[i] |= reader
        self._operations += 1
        return _Origin(self._operations, made_of)


def _captured(operation: Any) -> Iterator[Value]:
    """The operands of all operations in the regions of this one."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from inner.operation.operands
                yield from _captured(inner.operation)


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
