"""What does not fit is refused before a step begins, by the name of the variable."""

from collections.abc import Sequence
from typing import Any

from keras.backend import is_float_dtype, standardize_dtype


def check_leaves(trainable_variables: Sequence[Any], grads: Sequence[Any]) -> None:
    """Checks what a step is about to update; dimensions that a graph does not know yet pass.

    Raises:
        TypeError: a variable or a gradient is not of a floating dtype.
        ValueError: a gradient has not its variable's shape.
        Each message names the variable.
    """
    for variable, grad in zip(trainable_variables, grads, strict=True):
        name = getattr(variable, "path", variable.name)
        dtype = standardize_dtype(variable.dtype)
        if not is_float_dtype(dtype):
            raise TypeError(f"the variable {name} has the dtype {dtype}; Nadam updates floats only")
        grad_dtype = getattr(grad.dtype, "name", str(grad.dtype))
        if not grad_dtype.startswith(("float", "bfloat")):
            raise TypeError(
                f"the gradient of the variable {name} has the dtype {grad_dtype}; it must be"
                f' floating, as keras.ops.cast(gradient, "{dtype}") is'
            )
        given, expected = tuple(grad.shape), tuple(variable.shape)
        pairs = zip(given, expected, strict=False)
        if len(given) != len(expected) or any(g not in (None, e) for g, e in pairs):
            raise ValueError(
                f"the gradient of the variable {name} has the shape {given}; it must be {expected}"
            )
