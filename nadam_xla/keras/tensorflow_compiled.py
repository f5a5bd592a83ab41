"""The compiled TensorFlow functions: one for all optimizers whose steps are alike.

They are given the variables and the hyperparameters as arguments, so that neither another optimizer
nor another number compiles anything. They stay as long as the process, for what TensorFlow's XLA
has compiled does so too; each belongs to one context of TensorFlow's.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import tensorflow as tf

from nadam_xla.calls import by_compute_dtype
from nadam_xla.keras.fused_step import Update, fused_step
from nadam_xla.keras.gradient_factors import clipped_gradients
from nadam_xla.keras.optimizer_state import State
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.program_order import PlannedCall
from nadam_xla.tensorflow import sum_squares
from nadam_xla.tensorflow.early_calls import planned_calls
from nadam_xla.tensorflow.runtime import current_context, place
from nadam_xla.tensorflow.update import update_leaves

# What stock casts to the dtype of a variable. With all others it computes as they are.
_CAST_BY_STOCK = ("iterations", "learning_rate", "beta_1", "beta_2", "weight_decay")

Plans = tuple[tuple[str, tuple[PlannedCall, ...]], ...]
"""For each compute dtype the calls of its leaves."""


class Leaves:
    """The TensorFlow variables of a step, all on one device."""

    def __init__(self, variables: State) -> None:
        groups = [group or () for group in variables[:-1]]
        self.params = variables.params
        self.u_product = variables.u_product
        self.handles = [[v.handle for v in group] for group in groups]
        self.device = place(variables.params[0].device)
        self.likeness = (
            tuple(tuple(v.shape) for v in variables.params),
            tuple(tuple(v.dtype for v in group) for group in groups),
            variables.u_product.dtype,
        )
        """What a compiled function depends on: shapes and dtypes."""


def dense(grads: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """The gradients as tensors of the variables' shapes; slices of equal indices are summed."""
    tensors = [tf.convert_to_tensor(grad) for grad in grads]
    return [
        x if x.shape.is_fully_defined() else tf.ensure_shape(x, variable.shape)
        for x, variable in zip(tensors, variables, strict=True)
    ]


def update(
    leaves: Leaves, grads: Sequence[Any], decays: tuple[bool, ...], given: StepHyperparameters
) -> None:
    """The fused step, in place whatever the caller is.

    Args:
        leaves: the variables.
        grads: a dense gradient for each parameter.
        decays: the parameters to which weight decay applies.
        given: the hyperparameters of this step.
    """
    scalars = _Scalars.of(given)
    dtypes = tuple(grad.dtype for grad in grads)
    context = current_context()
    plans = _plans(leaves, grads)
    compiled = _compiled_update(context, leaves.likeness, dtypes, decays, scalars.kinds, plans)
    with tf.device(leaves.device):
        product = compiled(
            leaves.handles,
            list(grads),
            tf.convert_to_tensor(leaves.u_product),
            tf.constant(scalars.numbers, tf.float64),
            scalars.tensors,
        )
    # Alone of the variables it may be on another device: it belongs to no parameter.
    leaves.u_product.assign(product)


def clipped(grads: Sequence[Any], given: StepHyperparameters) -> list[Any]:
    """``clipped_gradients`` of dense gradients."""
    scalars = _Scalars.of(given)
    specs = tuple((tuple(grad.shape), grad.dtype) for grad in grads)
    compiled = _compiled_clipping(current_context(), specs, scalars.kinds)
    numbers = tf.constant(scalars.numbers, tf.float64)
    return compiled(list(grads), numbers, scalars.tensors)  # type: ignore[no-any-return]


class _Scalars(NamedTuple):
    """StepHyperparameters taken apart."""

    kinds: StepHyperparameters
    """Of each: None; ``float``, of Python's numbers; the dtype, of tensors; the count of steps."""

    numbers: list[float]
    tensors: list[Any]

    @classmethod
    def of(cls, given: StepHyperparameters) -> "_Scalars":
        kinds: dict[str, Any] = {}
        numbers, tensors = [], []
        for name, value in given._asdict().items():
            if value is None or name in ("accumulation_steps", "from_python"):
                kinds[name] = value
            elif type(value) in (int, float, bool):
                kinds[name] = float
                numbers.append(float(value))
            else:
                tensors.append(tf.convert_to_tensor(value))
                kinds[name] = tensors[-1].dtype
        return cls(StepHyperparameters(**kinds), numbers, tensors)

    def put_together(self) -> StepHyperparameters:
        """The hyperparameters, all tensors."""
        numbers, tensors = iter(tf.unstack(self.numbers)), iter(self.tensors)
        values: dict[str, Any] = {}
        for name, kind in self.kinds._asdict().items():
            if kind is float:
                values[name] = next(numbers)
            elif not isinstance(kind, tf.DType):
                values[name] = kind
            else:
                keeps_dtype = name in _CAST_BY_STOCK or kind == tf.bool
                values[name] = next(tensors) if keeps_dtype else tf.cast(next(tensors), tf.float64)
        numbers_of_python = (name for name, kind in self.kinds._asdict().items() if kind is float)
        return StepHyperparameters(**{**values, "from_python": frozenset(numbers_of_python)})

    @staticmethod
    def specs(kinds: StepHyperparameters) -> tuple[Any, list[Any]]:
        """Those of the numbers and of the tensors, of these kinds."""
        numbers = tf.TensorSpec([sum(kind is float for kind in kinds)], tf.float64)
        return numbers, [tf.TensorSpec([], kind) for kind in kinds if isinstance(kind, tf.DType)]


def _plans(leaves: Leaves, grads: Sequence[Any]) -> Plans:
    """Of the leaves of each compute dtype, where the caller is a graph that makes the gradients.

    The compiled function sees gradients as arguments, which have no order.
    """
    if tf.executing_eagerly():  # at every step, and no gradient has an order
        return ()
    plans = []
    params, mu, nu, _ = leaves.handles
    for dtype, indices in by_compute_dtype([p.dtype.name for p in leaves.params]).items():
        overwritten = [[group[i] for i in indices] for group in (params, mu, nu)]
        planned = planned_calls([grads[i] for i in indices], overwritten)
        if planned is not None:
            plans.append((dtype, planned))
    return tuple(plans)


@cache
def _compiled_update(
    _context: Any,
    likeness: tuple[Any, ...],
    grad_dtypes: tuple[Any, ...],
    decays: tuple[bool, ...],
    kinds: StepHyperparameters,
    plans: Plans,
) -> Any:
    shapes, dtypes, product_dtype = likeness
    planned = dict(plans)

    def update_as_planned(row: Any, dtype: str, *leaves: list[Any]) -> Any:
        return update_leaves(row, dtype, *leaves, planned=planned.get(dtype))

    @tf.function(jit_compile=True, autograph=False)
    def nadam_step(
        handles: list[list[Any]], grads: list[Any], product: Any, numbers: Any, tensors: list[Any]
    ) -> Any:
        params, mu, nu, sums = (
            [_read(*leaf) for leaf in zip(group, group_dtypes, shapes, strict=False)]
            for group, group_dtypes in zip(handles, dtypes, strict=True)
        )
        before = State(params, mu, nu, sums or None, product)
        given = _Scalars(kinds, numbers, tensors).put_together()
        after = fused_step(Update(update_as_planned, sum_squares), before, grads, decays, given)
        for group, values in zip(handles, after[:-1], strict=True):
            for handle, value in zip(group, values or (), strict=True):
                tf.raw_ops.AssignVariableOp(resource=handle, value=value)
        return tf.stop_gradient(after.u_product)

    return _traced(
        nadam_step,
        [[tf.TensorSpec([], tf.resource) for _ in group] for group in dtypes],
        [tf.TensorSpec(*spec) for spec in zip(shapes, grad_dtypes, strict=True)],
        tf.TensorSpec([], product_dtype),
        *_Scalars.specs(kinds),
    )


@cache
def _compiled_clipping(
    _context: Any, grads: tuple[tuple[Any, Any], ...], kinds: StepHyperparameters
) -> Any:
    @tf.function(jit_compile=True, autograph=False)
    def clipping(grads: list[Any], numbers: Any, tensors: list[Any]) -> list[Any]:
        given = _Scalars(kinds, numbers, tensors).put_together()
        return clipped_gradients(sum_squares, grads, given)

    return _traced(clipping, [tf.TensorSpec(*spec) for spec in grads], *_Scalars.specs(kinds))


def _traced(function: Any, *specs: Any) -> Any:
    """The function for arguments like these, traced outside of whatever is traced now."""
    with tf.init_scope(), tf.device(None):
        return function.get_concrete_function(*specs)


def _read(handle: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    return tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype), shape)
