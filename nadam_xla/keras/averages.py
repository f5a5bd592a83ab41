"""The moving averages of the model's variables (``use_ema``), as stock Keras has them.

Two things differ: they are wider than narrow variables, and they serve those that are left of the
variables when some are frozen. What the fused step updates itself is left to it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from keras import ops

from nadam_xla.keras import backend_step, masters
from nadam_xla.keras.optimizer_state import average_of


def left_behind(optimizer: Any, updated: Sequence[Any]) -> list[Any]:
    """The variables whose averages a fused step has not updated.

    Args:
        optimizer: ours.
        updated: the variables of the step.
    """
    done = {
        optimizer._get_variable_index(variable)
        for variable in updated
        if average_of(optimizer, variable) is not None
    }
    trained = optimizer._trainable_variables
    return [v for v in trained if optimizer._get_variable_index(v) not in done]


def average(optimizer: Any, variables: Sequence[Any]) -> None:
    """Updates the averages of these variables."""
    for variable, moving in _averaged(optimizer, variables):
        goes_on = ops.cast(ops.not_equal(optimizer.iterations, 0), moving.dtype)
        momentum = goes_on * ops.convert_to_tensor(optimizer.ema_momentum, moving.dtype)
        value = ops.cast(variable, moving.dtype)
        moving.assign(momentum * moving + (1 - momentum) * value)


def overwrite_if_due(optimizer: Any, variables: Sequence[Any]) -> None:
    """In every step of that number (``ema_overwrite_frequency``), the variables by the averages."""
    if not optimizer.ema_overwrite_frequency:
        return
    is_due = ops.equal((optimizer.iterations + 1) % optimizer.ema_overwrite_frequency, 0)
    pairs = list(_averaged(optimizer, variables))
    values = backend_step.either(
        is_due,
        # Copies: JAX's next step cannot donate one buffer twice.
        lambda: [ops.copy(ops.cast(moving, variable.dtype)) for variable, moving in pairs],
        lambda: [backend_step.to_tensor(variable) for variable, _ in pairs],
    )
    for (variable, _), value in zip(pairs, values, strict=True):
        masters.overwrite(optimizer, variable, value)


def overwrite(optimizer: Any, variables: Sequence[Any]) -> None:
    """The variables by the averages."""
    for variable, moving in _averaged(optimizer, variables):
        # A copy: JAX's next step cannot donate one buffer twice.
        masters.overwrite(optimizer, variable, ops.copy(moving))


def _averaged(optimizer: Any, variables: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Each variable that has a moving average, with it."""
    for variable in variables:
        index = optimizer._get_variable_index(variable)
        moving = optimizer._model_variables_moving_average[index]
        if moving is not None:  # as it is where the gradient overwrites the variable
            yield variable, moving
