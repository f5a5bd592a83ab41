"""The fused step on the JAX backend."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
from jax.sharding import NamedSharding
from keras import ops

from nadam_xla.jax import sum_squares, update_path
from nadam_xla.jax.specs import scales_sharding
from nadam_xla.jax.update import update_leaves
from nadam_xla.keras.fused_step import Update, fused_step
from nadam_xla.keras.leaf_checks import check_leaves
from nadam_xla.keras.optimizer_state import facts_of, state_of
from nadam_xla.keras.reason import Reason
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.native import why_no_kernel
from nadam_xla.platforms import platform_of_jax_backend
from nadam_xla.update_path import UpdatePath

to_tensor = ops.convert_to_tensor


def either(
    condition: jax.Array, if_true: Callable[[], list[Any]], if_false: Callable[[], list[Any]]
) -> list[Any]:
    """The arrays that one of these functions makes."""
    if isinstance(condition, jax.core.Tracer):
        chosen: list[Any] = jax.lax.cond(condition, if_true, if_false)
        return chosen
    return if_true() if condition else if_false()  # which JAX would compile at each step


def why_not(optimizer: Any, trainable_variables: Sequence[Any]) -> Reason | None:
    """Why the fused step cannot run for these variables, or None where it can."""
    backend = jax.default_backend()
    reason = why_no_kernel(platform_of_jax_backend(backend))
    if reason is not None:
        return Reason(f"on JAX's platform {backend!r} nothing is fused: {reason}")
    indices = {optimizer._get_variable_index(v) for v in trainable_variables}
    if len(indices) < len(trainable_variables):
        return Reason(f"{optimizer.name} was given a variable twice in one step")
    return None


def layout_of_scales(shape: tuple[int, ...], layout: Any) -> Any:
    """The layout of the scales of a moment in codes.

    Args:
        shape: of the codes.
        layout: of the codes, JAX's or Keras's; None: none is given.
    """
    sharding = getattr(layout, "backend_layout", layout)
    return scales_sharding(shape, sharding) if isinstance(sharding, NamedSharding) else None


def path_of_fused_step() -> UpdatePath:
    """What the fused step runs, where it can run: what JAX lowers it to."""
    distribution = keras.distribution.distribution()
    partitioned = distribution is not None and distribution.device_mesh.devices.size > 1
    return update_path(partitioned=partitioned)


def step(
    optimizer: Any,
    grads: Sequence[Any],
    trainable_variables: Sequence[Any],
    given: StepHyperparameters,
) -> None:
    """Updates the variables; in Keras's compiled training step, in place."""
    # Of sparse gradients, this sums the entries of equal indices.
    dense = [ops.convert_to_tensor(grad, sparse=False) for grad in grads]
    check_leaves(trainable_variables, dense)
    variables = state_of(optimizer, trainable_variables, (False,) * len(dense))
    facts = facts_of(optimizer, trainable_variables, trainable_variables)
    before = variables.map(ops.convert_to_tensor)
    new = fused_step(Update(update_leaves, sum_squares), before, dense, facts, given)
    for variable, value in zip(variables.all(), new.all(), strict=True):
        variable.assign(value)
