"""Copies of an optimizer, pickled ones too, go on from its state.

Keras makes the variables when the optimizer is built. So a copy keeps their values until it is
built, and takes them up then.
"""

from typing import Any

import keras
from keras import ops

from nadam_xla.keras import backend_step


def reduced(optimizer: Any) -> tuple[Any, ...]:
    """What ``__reduce__`` returns."""
    values = optimizer._copied_values
    if optimizer.built:
        values = tuple(ops.convert_to_numpy(v) for v in optimizer.variables)
    return _copy_of, (keras.saving.serialize_keras_object(optimizer), values)


def take_up_values(optimizer: Any) -> None:
    """Gives a copy that was just built the values of what it is a copy of.

    Raises:
        ValueError: that one was built for other variables. The copy is not built then.
    """
    shapes = [tuple(v.shape) for v in optimizer.variables]
    copied = [value.shape for value in optimizer._copied_values]
    if shapes != copied:
        optimizer.built = False
        raise ValueError(
            f"{optimizer.name} is a copy of an optimizer with variables of the shapes {copied}; it"
            f" cannot be built for others, where they have the shapes {shapes}. A new one, with"
            " the same arguments and no state, is Nadam.from_config(optimizer.get_config())"
        )
    with backend_step.eagerly():
        for variable, value in zip(optimizer.variables, optimizer._copied_values, strict=True):
            variable.assign(value)
    optimizer._copied_values = None


def _copy_of(config: dict[str, Any], values: Any) -> Any:
    # Whoever unpickles trusts the file: it may hold a lambda as a rate.
    made = keras.saving.deserialize_keras_object(config, safe_mode=False)
    if values is not None:
        made._copied_values = values
        for variable, value in zip(made.variables, values, strict=False):  # those that it has yet
            variable.assign(value)
    return made
