"""The fused step on the TensorFlow backend."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import tensorflow as tf

from nadam_xla.keras import tensorflow_replicas
from nadam_xla.keras.leaf_checks import check_leaves
from nadam_xla.keras.optimizer_state import facts_of
from nadam_xla.keras.reason import Reason
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.keras.tensorflow_compiled import update
from nadam_xla.keras.tensorflow_gradients import dense, with_rows
from nadam_xla.keras.tensorflow_leaves import Step, step_of
from nadam_xla.platforms import CPU, CUDA, NAMES
from nadam_xla.tensorflow import runtime
from nadam_xla.update_path import UpdatePath

# A new graph is in no strategy's scope; the code that imports this module may be.
with tf.Graph().as_default():
    _NO_STRATEGY = tf.distribute.get_strategy()

eagerly = tf.init_scope
after = tf.control_dependencies
to_tensor = tf.convert_to_tensor
either = tf.cond
as_written = tf.autograph.experimental.do_not_convert


def why_not(optimizer: Any, trainable_variables: Sequence[Any]) -> Reason | None:
    """Why the fused step cannot run for these variables, or None where it can."""
    strategy = optimizer._distribution_strategy
    reason = runtime.unavailable() or _unknown(strategy)
    if reason is not None:
        return Reason(reason)
    if tf.distribute.has_strategy() and tf.distribute.get_strategy() is not strategy:
        # The parent's method says what is wrong, and raises.
        return Reason(f"{optimizer.name} was made under another strategy", is_expected=True)
    if runtime.is_instrumented():
        return Reason("tf.debugging looks into every operation")
    if not trainable_variables:
        return None
    has_replicas = isinstance(strategy, tensorflow_replicas.STRATEGIES)
    known = step_of(optimizer, trainable_variables, (False,) * len(trainable_variables))
    reason = _why_not_these(optimizer.name, known, has_replicas)
    return None if reason is None else Reason(reason)


def is_sparse(grad: Any) -> bool:
    """Whether a gradient has some rows of its variable alone."""
    return isinstance(grad, tf.IndexedSlices)


def layout_of_scales(shape: tuple[int, ...], layout: Any) -> Any:
    """None: on this backend no variable has one."""
    del shape, layout
    return None


def path_of_fused_step() -> UpdatePath:
    """What the fused step runs, where it can run: the kernel."""
    return UpdatePath("kernel")


def step(
    optimizer: Any,
    grads: Sequence[Any],
    trainable_variables: Sequence[Any],
    given: StepHyperparameters,
) -> None:
    """Updates the variables in place, in a compiled function whatever the caller is."""
    grads = [_of_known_rank(g, v) for g, v in zip(grads, trainable_variables, strict=True)]
    check_leaves(trainable_variables, grads)
    is_lazy = optimizer.sparse == "lazy"
    known = step_of(optimizer, trainable_variables, tuple(is_lazy and is_sparse(g) for g in grads))
    if isinstance(optimizer._distribution_strategy, tensorflow_replicas.STRATEGIES):
        tensorflow_replicas.step(optimizer, known.given, known.variables, grads, given)
        return
    facts = facts_of(optimizer, trainable_variables, known.variables.params)
    taken = (with_rows if is_lazy else dense)(grads, trainable_variables)
    update(known.leaves, taken, facts, given)


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


def _why_not_these(name: str, step: Step, has_replicas: bool) -> str | None:
    """Why the fused step does not run for these variables of an optimizer of this name."""
    if step.repeats:
        return f"{name} was given a variable twice in one step"
    if not has_replicas and len(step.devices) > 1:
        return (
            f"the variables of {name} are on {len(step.devices)} devices,"
            f" {', '.join(sorted(step.devices))}, and a fused step runs on one"
        )
    reasons = (_why_no_kernel(device, has_replicas) for device in step.devices)
    return next((reason for reason in reasons if reason is not None), None)


@cache  # asked at every eager step
def _why_no_kernel(device: str, has_replicas: bool) -> str | None:
    device_type = tf.DeviceSpec.from_string(device).device_type if device else None
    device_type = device_type or NAMES[CPU].tensorflow_device
    if has_replicas and device_type == NAMES[CUDA].tensorflow_device:
        return "GPUs that hold replicas reduce in other ways, which nobody has tried"
    reason = runtime.why_no_kernel(device_type)
    return None if reason is None else f"nothing is fused on the device {device}: {reason}"
