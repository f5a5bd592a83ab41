"""For the backends that have no fused step."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from keras import ops

from nadam_xla.keras.hyperparameters import Hyperparameters

Function = TypeVar("Function", bound=Callable[..., Any])

eagerly = nullcontext
after = nullcontext
to_tensor = ops.convert_to_tensor


def as_written(function: Function) -> Function:
    """The function."""
    return function


def why_not(optimizer: Any, trainable_variables: Sequence[Any]) -> str | None:
    """There is none, and nothing to warn of."""
    del optimizer, trainable_variables
    return ""


def step(
    optimizer: Any,
    grads: Sequence[Any],
    trainable_variables: Sequence[Any],
    given: Hyperparameters,
) -> None:
    """Never called, for ``why_not`` says that it cannot run."""
    raise NotImplementedError
