"""The fused step on the JAX backend."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import jax
from keras import ops

from nadam_xla.jax import nadam_update, sum_squares
from nadam_xla.keras.fused_step import (
    Update,
    check_leaves,
    decays_of,
    fused_step,
    state_of,
)
from nadam_xla.keras.hyperparameters import Hyperparameters
from nadam_xla.native import why_no_kernel

Function = TypeVar("Function", bound=Callable[..., Any])

eagerly = nullcontext
after = nullcontext
to_tensor = ops.convert_to_tensor


def as_written(function: Function) -> Function:
    """The function."""
    return function


def why_not(optimizer: Any, trainable_variables: Sequence[Any]) -> str | None:
    """Why the fused step cannot run for these variables, or None where it can."""
    backend = jax.default_backend()
    reason = why_no_kernel("cuda" if backend == "gpu" else backend)
    if reason is not None:
        return f"on JAX's platform {backend!r} nothing is fused: {reason}"
    indices = {optimizer._get_variable_index(v) for v in trainable_variables}
    if len(indices) < len(trainable_variables):
        return f"{optimizer.name} was given a variable twice in one step"
    return None


def step(
    optimizer: Any,
    grads: Sequence[Any],
    trainable_variables: Sequence[Any],
    given: Hyperparameters,
) -> None:
    """Updates the variables; in Keras's compiled training step, in place."""
    # Of sparse gradients, this sums the entries of equal indices.
    dense = [ops.convert_to_tensor(grad, sparse=False) for grad in grads]
    check_leaves(trainable_variables, dense)
    variables = state_of(optimizer, trainable_variables)
    decays = decays_of(optimizer, trainable_variables)
    before = variables.map(ops.convert_to_tensor)
    new = fused_step(Update(nadam_update, sum_squares), before, dense, decays, given)
    for variable, value in zip(variables.all(), new.all(), strict=True):
        variable.assign(value)
