"""The coefficients that a table is put together from, read from the operations that are lowered.

Where no kernel takes the table, it would stand between the numbers and the arithmetic: XLA finds
out for itself neither that a term is off nor that a step is never skipped.
"""

from math import prod
from typing import Any

from jax.interpreters.mlir import ir

_VIEWS = ("stablehlo.broadcast_in_dim", "stablehlo.reshape")


def columns_of(table: Any) -> list[Any] | None:
    """The scalars of a table of one row, from the first coefficient to the last.

    Args:
        table: a value of MLIR, [1, 1, K].

    Returns:
        K values of MLIR; None where the table comes about in another way than by stacking them.
    """
    row = _viewed(table)
    if _name(row) != "stablehlo.concatenate":
        return None
    columns = _concatenated(row)
    are_scalars = all(ir.RankedTensorType(column.type).rank == 0 for column in columns)
    size = prod(ir.RankedTensorType(table.type).shape)
    return columns if are_scalars and len(columns) == size else None


def _concatenated(value: Any) -> list[Any]:
    """What a value is concatenated from; JAX concatenates many arrays some at a time."""
    viewed = _viewed(value)
    if _name(viewed) != "stablehlo.concatenate":
        return [viewed]
    return [column for part in viewed.owner.operands for column in _concatenated(part)]


def constant_of(value: Any) -> float | None:
    """The number that a scalar of MLIR is, where that is known."""
    if _name(value) != "stablehlo.constant":
        return None
    return float(ir.DenseFPElementsAttr(value.owner.attributes["value"])[0])


def _viewed(value: Any) -> Any:
    while _name(value) in _VIEWS:
        (value,) = value.owner.operands
    return value


def _name(value: Any) -> str:
    """Of the operation that makes the value; none of an argument.

    JAX 0.8.2's operands are values of no class of their own, so the owner is asked.
    """
    owner = value.owner
    return "" if isinstance(owner, ir.Block) else str(owner.name)
