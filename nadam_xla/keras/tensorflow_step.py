"""The fused step on the TensorFlow backend."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf

from nadam_xla.keras.fused_step import (
    Hyperparameters,
    StepVariables,
    Update,
    check_leaves,
    fused_step,
    hyperparameters_of,
    variables_of,
)
from nadam_xla.tensorflow import nadam_update, sum_squares
from nadam_xla.tensorflow.runtime import PLATFORMS, unavailable

# The compiled steps of each optimizer, by the variables that they update. Kept here because an
# attribute of the optimizer would be tracked, copied and saved with it.
_compiled_steps: WeakKeyDictionary[Any, dict[tuple[Any, ...], Callable[..., None]]]
_compiled_steps = WeakKeyDictionary()

eagerly = tf.init_scope


def serves(trainable_variables: Sequence[Any]) -> bool:
    """Whether kernels can be reached where all variables are, and no strategy is on."""
    reason = unavailable()
    if reason is not None:
        _warn_once(reason)
        return False
    have_kernels = all(_has_kernel(_variable(v).device) for v in trainable_variables)
    return have_kernels and not tf.distribute.has_strategy()


def step(optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
    """Updates the variables in place, in a compiled function whatever the caller is."""
    # Of tf.IndexedSlices, this sums the slices of equal indices.
    dense = [tf.convert_to_tensor(grad) for grad in grads]
    check_leaves(trainable_variables, dense)
    key = _key(optimizer, trainable_variables)
    compiled_steps = _compiled_steps.setdefault(optimizer, {})
    if key not in compiled_steps:
        compiled_steps[key] = _compiled_step(variables_of(optimizer, trainable_variables))
    shaped = [tf.ensure_shape(g, v.shape) for g, v in zip(dense, trainable_variables, strict=True)]
    compiled_steps[key](shaped, hyperparameters_of(optimizer, tf.convert_to_tensor))


def _key(optimizer: Any, trainable_variables: Sequence[Any]) -> tuple[Any, ...]:
    """The variables' indices, and which of them decay, for that may change between two steps."""
    indices = [optimizer._get_variable_index(v) for v in trainable_variables]
    if optimizer.weight_decay is None:
        return tuple(indices)
    decays = [optimizer._use_weight_decay(v) for v in trainable_variables]
    return tuple(zip(indices, decays, strict=True))


def _compiled_step(variables: StepVariables) -> Callable[..., None]:
    # It captures the variables: as arguments they would cost an eager step almost twice as much.
    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def compiled_step(grads: list[Any], given: Hyperparameters) -> None:
        fused_step(Update(nadam_update, sum_squares), variables, grads, given)

    return compiled_step  # type: ignore[no-any-return]


def _variable(variable: Any) -> Any:
    return variable if isinstance(variable, tf.Variable) else variable.value


@cache  # asked for every variable at every eager step
def _has_kernel(device: str) -> bool:
    device_type = tf.DeviceSpec.from_string(device).device_type if device else None
    served = {None, "CPU", *(["GPU"] if "CUDA" in PLATFORMS else [])}
    return device_type in served


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"{reason}. Training goes on by Keras's own update.", stacklevel=2)
