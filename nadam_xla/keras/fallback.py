"""When a step is the parent's own update in place of the fused one, why, and how that is said."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import keras

from nadam_xla.keras import backend_step
from nadam_xla.keras.hooks import overridden
from nadam_xla.keras.reason import Reason
from nadam_xla.keras.step_hyperparameters import StepHyperparameters, hyperparameters_of


def fused_hyperparameters(
    optimizer: Any, variables: Sequence[Any], methods: Mapping[str, Any]
) -> StepHyperparameters | Reason:
    """The hyperparameters of a fused step, or why it has to be the parent's own update.

    Args:
        optimizer: ours, or of a subclass.
        variables: those that the step updates.
        methods: the :func:`nadam_xla.keras.hooks.replaced_methods` of our class.

    Raises:
        TypeError: a hyperparameter is no number.
    """
    if not optimizer.fused:
        return Reason(f"{optimizer.name} has fused set to False", is_expected=True)
    own_method = overridden(optimizer, methods)
    if own_method is not None:
        return Reason(own_method)
    reason = backend_step.why_not(optimizer, variables)
    if reason is not None:
        return reason
    given = hyperparameters_of(optimizer, backend_step.to_tensor)
    not_scalar = given.not_scalar()
    return given if not_scalar is None else Reason(f"of {optimizer.name}, {not_scalar}")


@cache
def warn_once(reason: Reason) -> None:
    """Says that steps are not fused, and why, the first time that it is so, unless expected."""
    if not reason.is_expected:
        warnings.warn(f"{reason.text}. Training goes on by Keras's own update.", stacklevel=4)


def refuse_bfloat16(variables: Sequence[Any]) -> None:
    """Raises ``TypeError`` for variables that the parent's update would turn into NaN.

    In bfloat16, ``1 - beta_2`` is zero.
    """
    for variable in variables:
        if keras.backend.standardize_dtype(variable.dtype) == "bfloat16":
            raise TypeError(
                f"the variable {getattr(variable, 'path', variable.name)} is bfloat16; only the"
                " fused update can train it, on the TensorFlow and JAX backends, where there is a"
                " kernel for its device and under the tf.distribute strategies that are supported."
                " Elsewhere use float32 variables, for instance with the dtype policy"
                " mixed_bfloat16"
            )
