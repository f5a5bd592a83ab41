"""When a step is the parent's own update in place of the fused one, why, and how that is said."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import keras

from nadam_xla.keras import backend_step
from nadam_xla.keras.hooks import overridden
from nadam_xla.keras.optimizer_state import master_of
from nadam_xla.keras.reason import Reason
from nadam_xla.keras.scales import moment_in_codes
from nadam_xla.keras.step_hyperparameters import StepHyperparameters, hyperparameters_of
from nadam_xla.storage import BLOCKWISE, NARROW


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


def why_not_parents(
    optimizer: Any, variables: Sequence[Any], grads: Sequence[Any] | None = None
) -> str | None:
    """Why the parent's own update must not take these variables; None where it may.

    It would leave master weights behind, take codes for numbers, round otherwise than was chosen,
    or update every row where those of the gradient were chosen.

    Args:
        optimizer: ours.
        variables: those that the step updates.
        grads: a gradient for each; None: they are not known, and taken to be dense.
    """
    if optimizer.sparse == "lazy":
        for variable, grad in zip(variables, grads or (), strict=grads is not None):
            if backend_step.is_sparse(grad):
                return (
                    f"{optimizer.name} has sparse='lazy', and the gradient of the variable"
                    f" {_name_of(variable)} is sparse, of which the fused update alone takes the"
                    " rows"
                )
    for variable in variables:
        name = _name_of(variable)
        if master_of(optimizer, variable) is not None:
            return (
                f"{optimizer.name} has master={optimizer.master!r}, and the variable {name} a"
                " master, which the fused update alone keeps up with"
            )
        moment = moment_in_codes(optimizer, variable)
        if moment is not None:
            return (
                f"{optimizer.name} has {moment}_dtype={BLOCKWISE!r}, and the variable {name} a"
                f" {moment} in codes of eight bits, which the fused update alone knows"
            )
        if optimizer.rounding == "stochastic" and _is_rounded(optimizer, variable):
            return (
                f'{optimizer.name} has rounding="stochastic", and what is stored of the variable'
                f" {name} is rounded, which the fused update alone does stochastically"
            )
    return None


def _name_of(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _is_rounded(optimizer: Any, variable: Any) -> bool:
    index = optimizer._get_variable_index(variable)
    stored = (variable, optimizer._momentums[index], optimizer._velocities[index])
    return any(keras.backend.standardize_dtype(x.dtype) in NARROW for x in stored)


def refuse_what_only_the_fused_update_can(
    optimizer: Any, variables: Sequence[Any], grads: Sequence[Any]
) -> None:
    """For the parent's own update.

    Raises:
        NotImplementedError: it would not do what was chosen, see :func:`why_not_parents`.
        TypeError: a variable is bfloat16, of which it would make NaN: ``1 - beta_2`` is zero there.
    """
    reason = why_not_parents(optimizer, variables, grads)
    if reason is not None:
        raise NotImplementedError(f"{reason}; this is Keras's own update")
    for variable in variables:
        if keras.backend.standardize_dtype(variable.dtype) == "bfloat16":
            raise TypeError(
                f"the variable {_name_of(variable)} is bfloat16; only the"
                " fused update can train it, on the TensorFlow and JAX backends, where there is a"
                " kernel for its device and under the tf.distribute strategies that are supported."
                " Elsewhere use float32 variables, for instance with the dtype policy"
                " mixed_bfloat16"
            )
