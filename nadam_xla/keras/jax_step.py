"""The fused step on the JAX backend."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import keras
from jax.sharding import NamedSharding
from keras import ops

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import RowGradient, sum_squares, update_path
from nadam_xla.jax import rows as jax_rows
from nadam_xla.jax.rows_checks import check_rows_of, with_row_gradients
from nadam_xla.jax.specs import scales_sharding
from nadam_xla.jax.update import update_leaves, update_rows
from nadam_xla.keras.fused_step import Update, fused_step
from nadam_xla.keras.leaf_checks import check_leaves
from nadam_xla.keras.optimizer_state import facts_of, state_of
from nadam_xla.keras.reason import Reason
from nadam_xla.keras.row_gradients import Gradient, Rows, has_rows
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.kinds import Kind
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


def is_sparse(grad: Any) -> bool:
    """Whether a gradient has some rows of its variable alone."""
    return jax_rows.is_sparse(grad)


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
    is_lazy = optimizer.sparse == "lazy"
    pairs = list(zip(grads, trainable_variables, strict=True))
    taken = [_rows(*pair) if is_lazy and is_sparse(pair[0]) else _dense(*pair) for pair in pairs]
    rows = has_rows(taken)
    dense = [(v, g) for v, g, has in zip(trainable_variables, taken, rows, strict=True) if not has]
    check_leaves([variable for variable, _ in dense], [grad for _, grad in dense])
    variables = state_of(optimizer, trainable_variables, rows)
    facts = facts_of(optimizer, trainable_variables, trainable_variables)
    before = variables.map(ops.convert_to_tensor)
    new = fused_step(_UPDATE, before, taken, facts, given)
    for variable, value in zip(variables.all(), new.all(), strict=True):
        variable.assign(value)


def _dense(grad: Any, variable: Any) -> Any:
    """The gradient as an array; of a sparse one the entries of equal indices are summed."""
    if isinstance(grad, RowGradient):
        _check_rows(grad, variable)
        table = jax.numpy.zeros(variable.shape, grad.values.dtype)
        return jax_rows.with_rows(
            table, *_summed(Rows(grad.indices, grad.values), len(table), table.dtype)
        )
    return ops.convert_to_tensor(grad, sparse=False)


def _rows(grad: Any, variable: Any) -> Gradient:
    """The gradient of some rows that a sparse one is."""
    name = _name_of(variable)
    rows = with_row_gradients({name: grad})[name]
    _check_rows(rows, variable)
    return Rows(rows.indices, rows.values)


def _check_rows(rows: RowGradient, variable: Any) -> None:
    name = _name_of(variable)
    value = ops.convert_to_tensor(variable)
    check_rows_of(f"the gradient of the variable {name}", rows, f"the variable {name}", value)


def _name_of(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _summed(rows: Rows, height: int, dtype: Any) -> Rows:
    of_rows = jax_rows.summed(RowGradient(rows.indices, rows.values), height, dtype)
    return Rows(of_rows.indices, of_rows.values)


def _update_rows(row: Coefficients, kind: Kind, table: Mapping[str, Any]) -> list[jax.Array]:
    rows = table["grads"]
    return update_rows(row, kind, RowGradient(rows.indices, rows.values), table)


def _with_rows_added(table: Any, rows: Rows) -> jax.Array:
    indices = jax.numpy.where(
        jax_rows.is_inside(rows.indices, len(table)), rows.indices, len(table)
    )
    added: jax.Array = table.at[indices].add(rows.values.astype(table.dtype), mode="drop")
    return added


_UPDATE = Update(update_leaves, _update_rows, sum_squares, _summed, _with_rows_added)
