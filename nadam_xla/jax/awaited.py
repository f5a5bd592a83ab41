"""The gradients of tables' rows, for which other calls of a program may wait.

What the loss makes of rows that are looked up is often a layer's own matrix, and the gradient of
those rows is then what reads that matrix last. The call that overwrites it has to wait for it, and
only this gradient shows XLA that there is nothing to be copied.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jax.interpreters.mlir import ir

from nadam_xla import targets
from nadam_xla.jax.partitioning import SHOWN_TARGET

_PLACE = 3  # of the gradients among the operands of a call
_DTYPES = {"f32": "float32", "f64": "float64", "bf16": "bfloat16", "f16": "float16"}
_CUSTOM_CALL = "stablehlo.custom_call"
_FRONTEND_ATTRIBUTES = "mhlo.frontend_attributes"


def gradients_of_rows(like: Any) -> list[tuple[Any, Any]]:
    """The gradients that calls in the block which is lowered update rows by, and their types.

    Args:
        like: the type of any array.
    """
    block = ir.InsertionPoint.current.block
    operations = (view.operation for view in block.operations)
    values = [op.operands[_PLACE] for op in operations if _updates_rows(op)]
    types = [ir.RankedTensorType(value.type) for value in values]
    return [
        (value, _aval(like, type_))
        for value, type_ in zip(values, types, strict=True)
        if type_.has_static_shape
    ]


def _aval(like: Any, type_: Any) -> Any:
    dtype = jnp.dtype(_DTYPES[str(type_.element_type)])
    return like.update(shape=tuple(type_.shape), dtype=dtype, sharding=None, weak_type=False)


def _updates_rows(operation: Any) -> bool:
    is_call = operation.name == _CUSTOM_CALL and len(operation.operands) > _PLACE
    return is_call and targets.UPDATE_ROWS in _names(operation)


def _names(operation: Any) -> Iterator[str]:
    """Those of the call, and of the one that it becomes on each device of a mesh."""
    yield ir.StringAttr(operation.attributes["call_target_name"]).value
    if _FRONTEND_ATTRIBUTES in operation.attributes:
        shown = ir.DictAttr(operation.attributes[_FRONTEND_ATTRIBUTES])
        if SHOWN_TARGET in shown:
            yield ir.StringAttr(shown[SHOWN_TARGET]).value
