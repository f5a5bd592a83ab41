"""Gradients that have some rows of a variable alone, and what becomes of them (``sparse``)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from keras import ops
from keras.backend import standardize_dtype

from nadam_xla.calls import compute_dtype
from nadam_xla.keras.storage_choice import StorageChoice
from nadam_xla.storage import BLOCKWISE

Sparse: TypeAlias = Literal["dense", "lazy"]

_CHOICES: tuple[str, ...] = get_args(Sparse)


class Rows(NamedTuple):
    """The gradient of some rows of a variable. Those that occur more than once are to be summed."""

    indices: Any
    """``[touched]``; what is outside of the variable is left out."""

    values: Any
    """``[touched, *columns]``."""


Gradient: TypeAlias = Any
"""A tensor of the variable's shape, or :class:`Rows`."""


def check_sparse(sparse: object, storage: StorageChoice) -> None:
    """Checks the choice, and that what else was chosen goes with it.

    Args:
        sparse: what was chosen.
        storage: how numbers are stored.

    Raises:
        ValueError: it is unknown, or does not.
    """
    if sparse not in _CHOICES:
        raise ValueError(f"sparse is {sparse!r}; it must be one of {', '.join(_CHOICES)}")
    if sparse == "dense":
        return
    for name in ("momentum_dtype", "velocity_dtype"):
        if getattr(storage, name) == BLOCKWISE:
            raise ValueError(
                f'sparse is "lazy" and {name} {BLOCKWISE!r}; moments in codes of eight bits are'
                ' updated as a whole: use another dtype, or sparse="dense"'
            )


def has_rows(grads: Sequence[Gradient]) -> tuple[bool, ...]:
    """Of each gradient, whether it is one of some rows."""
    return tuple(isinstance(grad, Rows) for grad in grads)


def with_each_row_once(
    summed: Callable[[Rows, int, str], Rows], grads: Sequence[Gradient], variables: Sequence[Any]
) -> list[Gradient]:
    """The gradients, those of some rows without repetitions and without what is outside.

    Args:
        summed: makes them so, given also the height of the variable and the dtype to sum in.
        grads: one for each variable.
        variables: anything with their shapes and dtypes.
    """
    return [
        summed(grad, variable.shape[0], compute_dtype(standardize_dtype(variable.dtype)))
        if isinstance(grad, Rows)
        else grad
        for grad, variable in zip(grads, variables, strict=True)
    ]


def rows_that_are_not_zero(table: Any) -> Rows:
    """Of a table the rows that have a number other than zero; all others are outside of it."""
    height, *columns = table.shape
    has_number = ops.any(ops.reshape(ops.not_equal(table, 0), (height, math.prod(columns))), axis=1)
    return Rows(ops.where(has_number, ops.arange(height, dtype="int32"), -1), table)


def values_of_rows(grads: Sequence[Gradient]) -> list[Any]:
    """Of the gradients of some rows, the values."""
    return [grad.values for grad in grads if isinstance(grad, Rows)]


def values_of(grad: Gradient) -> Any:
    """The tensor that has the gradient's numbers."""
    return grad.values if isinstance(grad, Rows) else grad
