"""The operations of a block that is lowered, as far as they stand before the update."""

from collections.abc import Iterator, Mapping
from typing import Any

from jax.interpreters.mlir import ir

from nadam_xla.program_order import ProgramOrder

# Operations that XLA may see through.
_VIEWS = frozenset(
    f"stablehlo.{name}"
    for name in (
        "broadcast_in_dim",
        "convert",
        "dynamic_slice",
        "optimization_barrier",
        "reshape",
        "slice",
        "transpose",
    )
)
_CALL = "func.call"
_RETURN = "func.return"


def add_operations(order: ProgramOrder, block: Any, functions: Mapping[str, Any]) -> None:
    """Adds those of a block, and of the functions that it calls.

    Args:
        order: the program that they belong to.
        block: of MLIR, whose classes have no types.
        functions: those of the program, by name.
    """
    for view in block.operations:
        operation = view.operation
        if operation.name in _VIEWS:
            order.add_views(operation.operands, operation.results)
        elif operation.name == _CALL:
            name = ir.FlatSymbolRefAttr(operation.attributes["callee"]).value
            (body,) = functions[name].regions[0].blocks
            order.add_views(operation.operands, body.arguments)
            add_operations(order, body, functions)
            *_, returned = body.operations
            order.add_views(returned.operation.operands, operation.results)
        elif operation.name != _RETURN:
            order.add((*operation.operands, *_captured(operation)), operation.results)


def _captured(operation: Any) -> Iterator[Any]:
    """The operands of all operations in the regions of this one."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from inner.operation.operands
                yield from _captured(inner.operation)
