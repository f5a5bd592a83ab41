"""A step of a Keras optimizer in each of the ways in which it may be run."""

from collections.abc import Callable
from typing import Any

import keras

BACKEND = keras.backend.backend()
WAYS = {"tensorflow": ["eager", "function", "compiled"], "jax": ["eager", "compiled"]}


def step_of(optimizer: Any, variables: list[Any], way: str) -> Callable[[list[Any]], None]:
    """One step with these gradients, run in this way."""
    if BACKEND == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        def apply(grads: list[Any]) -> None:
            optimizer.apply(grads, variables)

        return apply if way == "eager" else tf.function(apply, jit_compile=way == "compiled")
    if way == "eager":
        return lambda grads: optimizer.apply(grads, variables)
    import jax  # noqa: PLC0415

    step = jax.jit(optimizer.stateless_apply)

    def apply_compiled(grads: list[Any]) -> None:
        groups = variables, optimizer.variables
        new = step([v.value for v in groups[1]], grads, [v.value for v in groups[0]])
        for group, values in zip(groups, new, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)

    return apply_compiled
