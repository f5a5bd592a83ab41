"""The fused step on the TensorFlow backend."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import tensorflow as tf

from nadam_xla.keras import tensorflow_replicas
from nadam_xla.keras.fused_step import check_leaves, hyperparameters_of, variables_of
from nadam_xla.keras.tensorflow_compiled import compiled_step, dense, key_of
from nadam_xla.tensorflow.runtime import PLATFORMS, unavailable

# In a graph of its own no strategy is on, in whose scope ever this module is imported.
with tf.Graph().as_default():
    _NO_STRATEGY = tf.distribute.get_strategy()

eagerly = tf.init_scope
after = tf.control_dependencies


def serves(optimizer: Any, trainable_variables: Sequence[Any]) -> bool:
    """Whether kernels can be reached where all variables are, and the strategy is known.

    Warns once where TensorFlow's XLA cannot be reached, or the strategy is not known.
    """
    strategy = optimizer._distribution_strategy
    reason = unavailable() or _unknown(strategy)
    if reason is not None:
        _warn_once(reason)
        return False
    if tf.distribute.has_strategy() and tf.distribute.get_strategy() is not strategy:
        return False  # and the parent's method says what is wrong
    has_replicas = isinstance(strategy, tensorflow_replicas.STRATEGIES)
    return all(
        _has_kernel(component.device, has_replicas)
        for variable in trainable_variables
        for component in strategy.experimental_local_results(tensorflow_replicas.native(variable))
    )


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def step(optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
    """Updates the variables in place, in a compiled function whatever the caller is."""
    grads = [_of_known_rank(g, v) for g, v in zip(grads, trainable_variables, strict=True)]
    check_leaves(trainable_variables, grads)
    if isinstance(optimizer._distribution_strategy, tensorflow_replicas.STRATEGIES):
        tensorflow_replicas.step(optimizer, grads, trainable_variables)
        return
    key = key_of(optimizer, trainable_variables)
    compiled = compiled_step(
        optimizer, 0, key, lambda: variables_of(optimizer, trainable_variables)
    )
    given = hyperparameters_of(optimizer, tf.convert_to_tensor)
    compiled(dense(grads, trainable_variables), given)


def _of_known_rank(grad: Any, variable: Any) -> Any:
    """The gradient, and its shape where it came without one, or slices with a tuple for one."""
    if isinstance(grad, tf.IndexedSlices):
        shape = variable.shape if grad.dense_shape is None else grad.dense_shape
        return tf.IndexedSlices(grad.values, grad.indices, tf.convert_to_tensor(shape))
    grad = tf.convert_to_tensor(grad)
    return grad if grad.shape.rank is not None else tf.ensure_shape(grad, variable.shape)


def _unknown(strategy: Any) -> str | None:
    """Why the fused step does not run under this strategy; None where it does."""
    known = (*tensorflow_replicas.STRATEGIES, tf.distribute.OneDeviceStrategy)
    if strategy is _NO_STRATEGY or isinstance(strategy, known):
        return None
    return (
        f"nadam_xla's fused update does not run under {type(strategy).__name__}; of the strategies"
        " of tf.distribute, it supports MirroredStrategy, MultiWorkerMirroredStrategy and"
        " OneDeviceStrategy"
    )


@cache  # asked for every variable at every eager step
def _has_kernel(device: str, has_replicas: bool) -> bool:
    device_type = tf.DeviceSpec.from_string(device).device_type if device else None
    # Replicas on GPUs reduce in other ways, which nobody has tried.
    on_gpus = "CUDA" in PLATFORMS and not has_replicas
    return device_type in {None, "CPU", *(["GPU"] if on_gpus else [])}


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"{reason}. Training goes on by Keras's own update.", stacklevel=2)
