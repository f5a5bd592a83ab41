"""The compiled TensorFlow functions of an optimizer, kept as long as it lives."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf

from nadam_xla.keras.fused_step import (
    Hyperparameters,
    StepVariables,
    Update,
    clipped_gradients,
    fused_step,
)
from nadam_xla.tensorflow import nadam_update, sum_squares

Key = tuple[Any, ...]
CompiledStep = Callable[[Sequence[Any], Hyperparameters], None]

# Not attributes of the optimizer, for these would be tracked, copied and saved with it.
_steps: WeakKeyDictionary[Any, dict[tuple[int, Key], CompiledStep]] = WeakKeyDictionary()
_clippings: WeakKeyDictionary[Any, dict[Key, Callable[..., list[Any]]]] = WeakKeyDictionary()


def key_of(optimizer: Any, trainable_variables: Sequence[Any]) -> Key:
    """The variables' indices, and which of them decay, for that may change between two steps."""
    indices = [optimizer._get_variable_index(v) for v in trainable_variables]
    if optimizer.weight_decay is None:
        return tuple(indices)
    decays = [optimizer._use_weight_decay(v) for v in trainable_variables]
    return tuple(zip(indices, decays, strict=True))


def compiled_step(
    optimizer: Any, replica: int, key: Key, variables: Callable[[], StepVariables]
) -> CompiledStep:
    """The fused step of these variables, in place whatever the caller is.

    Args:
        optimizer: whose variables they are.
        replica: the number of the replica on this machine; 0 without a strategy.
        key: of the trainable variables that it updates.
        variables: gives the variables of this replica, where they are not known yet.
    """
    steps = _steps.setdefault(optimizer, {})
    if (replica, key) not in steps:
        steps[replica, key] = _compile_step(variables())
    return steps[replica, key]


def compiled_clipping(optimizer: Any, key: Key) -> Callable[..., list[Any]]:
    """``clipped_gradients`` for the variables of this key, given the hyperparameters."""
    clippings = _clippings.setdefault(optimizer, {})
    if key not in clippings:
        clippings[key] = _compile_clipping()
    return clippings[key]


def dense(grads: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """The gradients as tensors of the variables' shapes; slices of equal indices are summed."""
    return [
        tf.ensure_shape(tf.convert_to_tensor(grad), variable.shape)
        for grad, variable in zip(grads, variables, strict=True)
    ]


def _compile_step(variables: StepVariables) -> CompiledStep:
    # It captures the variables: as arguments they would cost an eager step almost twice as much.
    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def step(grads: list[Any], given: Hyperparameters) -> None:
        fused_step(Update(nadam_update, sum_squares), variables, grads, given)

    return step  # type: ignore[no-any-return]


def _compile_clipping() -> Callable[..., list[Any]]:
    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def clipping(grads: list[Any], given: Hyperparameters) -> list[Any]:
        return clipped_gradients(sum_squares, grads, given)

    return clipping  # type: ignore[no-any-return]
