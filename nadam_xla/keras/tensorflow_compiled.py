"""The compiled TensorFlow functions: one for all optimizers whose steps are alike.

They are given the variables and the hyperparameters as arguments, so that neither another optimizer
nor another number compiles anything. They stay as long as the process, for what TensorFlow's XLA
has compiled does so too; each belongs to one context of TensorFlow's.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import tensorflow as tf

from nadam_xla.coefficients import Coefficients
from nadam_xla.keras.fused_step import Update, fused_step, together
from nadam_xla.keras.gradient_factors import clipped_gradients
from nadam_xla.keras.optimizer_state import STREAMS, LeafFacts, State
from nadam_xla.keras.row_gradients import (
    Gradient,
    Rows,
    has_rows,
    values_of_rows,
    with_each_row_once,
)
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.kinds import Kind
from nadam_xla.program_order import PlannedCall
from nadam_xla.tensorflow import sum_squares
from nadam_xla.tensorflow.early_calls import planned_calls
from nadam_xla.tensorflow.rows import summed, update_rows
from nadam_xla.tensorflow.runtime import current_context, place
from nadam_xla.tensorflow.update import update_leaves

# What stock casts to the dtype of a variable. With all others it computes as they are.
_CAST_BY_STOCK = ("iterations", "learning_rate", "beta_1", "beta_2", "weight_decay")

Plans = tuple[tuple[Kind, tuple[PlannedCall, ...]], ...]
"""For each kind of leaves their calls."""

# Of StepHyperparameters, what is no scalar.
_NO_SCALARS = ("accumulation_steps", "rounding", "from_python")


class Spec(NamedTuple):
    """Of a variable."""

    shape: tuple[int, ...]
    dtype: Any


class Leaves:
    """The TensorFlow variables of a step, all on one device."""

    def __init__(self, variables: State) -> None:
        groups = [group or () for group in variables[:-1]]
        self.variables = variables
        self.handles = [[v.handle for v in group if v is not None] for group in groups]
        self.device = place(variables.params[0].device)
        self.likeness = (
            tuple(tuple(None if v is None else _spec(v) for v in group) for group in groups),
            variables.u_product.dtype,
        )
        """What a compiled function depends on: shapes and dtypes, None of what is not there."""


def update(
    leaves: Leaves, grads: Sequence[Gradient], facts: LeafFacts, given: StepHyperparameters
) -> None:
    """The fused step, in place whatever the caller is.

    Args:
        leaves: the variables.
        grads: a gradient for each parameter.
        facts: what the step is told of each parameter.
        given: the hyperparameters of this step.
    """
    scalars = _Scalars.of(given)
    dtypes = tuple(_dtypes_of(grad) for grad in grads)
    context = current_context()
    plans = _plans(leaves.variables, grads, given.rounding)
    compiled = _compiled_update(context, leaves.likeness, dtypes, facts, scalars.kinds, plans)
    with tf.device(leaves.device):
        product = compiled(
            leaves.handles,
            list(grads),
            tf.convert_to_tensor(leaves.variables.u_product),
            tf.constant(scalars.numbers, tf.float64),
            scalars.tensors,
        )
    # Alone of the variables it may be on another device: it belongs to no parameter.
    leaves.variables.u_product.assign(product)


def clipped(
    grads: Sequence[Gradient], variables: Sequence[Any], given: StepHyperparameters
) -> list[Gradient]:
    """``clipped_gradients`` of gradients of these variables."""
    scalars = _Scalars.of(given)
    dtypes = tuple(_dtypes_of(grad) for grad in grads)
    specs = tuple(map(_spec, variables))
    compiled = _compiled_clipping(current_context(), specs, dtypes, scalars.kinds)
    numbers = tf.constant(scalars.numbers, tf.float64)
    return compiled(list(grads), numbers, scalars.tensors)  # type: ignore[no-any-return]


class _Scalars(NamedTuple):
    """StepHyperparameters taken apart."""

    kinds: StepHyperparameters
    """Of each: None; ``float``, of Python's numbers; the dtype, of tensors; itself, of others."""

    numbers: list[float]
    tensors: list[Any]

    @classmethod
    def of(cls, given: StepHyperparameters) -> "_Scalars":
        kinds: dict[str, Any] = {}
        numbers, tensors = [], []
        for name, value in given._asdict().items():
            if value is None or name in _NO_SCALARS:
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


def _plans(variables: State, grads: Sequence[Gradient], rounding: str) -> Plans:
    """Of the dense leaves of each kind, where the caller is a graph that makes the gradients.

    The compiled function sees gradients as arguments, which have no order.
    """
    if tf.executing_eagerly():  # at every step, and no gradient has an order
        return ()
    plans = []
    leaves = variables.by_stream()
    for kind, indices in together(variables, has_rows(grads), rounding):
        if isinstance(grads[indices[0]], Rows):
            continue
        overwritten = [
            [leaves[name][i].handle for i in indices] for name in kind.streams.overwritten
        ]
        own = [grads[i] for i in indices]
        planned = planned_calls(own, overwritten, values_of_rows(grads))
        if planned is not None:
            plans.append((kind, planned))
    return tuple(plans)


@cache
def _compiled_update(
    _context: Any,
    likeness: tuple[Any, ...],
    grad_dtypes: tuple[Any, ...],
    facts: LeafFacts,
    kinds: StepHyperparameters,
    plans: Plans,
) -> Any:
    specs, product_dtype = likeness
    of_params = specs[0]
    planned = dict(plans)

    @tf.function(jit_compile=True, autograph=False)
    def nadam_step(
        handles: list[list[Any]], grads: list[Any], product: Any, numbers: Any, tensors: list[Any]
    ) -> Any:
        *of_leaves, sums = (_read(*group) for group in zip(handles, specs, strict=True))
        before = State(
            **dict(zip(STREAMS, of_leaves, strict=True)),
            accumulated_gradients=sums or None,
            u_product=product,
        )
        given = _Scalars(kinds, numbers, tensors).put_together()
        others = values_of_rows(grads)

        def update_as_planned(row: Any, kind: Kind, leaves: Any) -> list[list[Any]]:
            return update_leaves(row, kind, leaves, planned=planned.get(kind), others=others)

        fused = Update(update_as_planned, _update_rows, sum_squares, _summed)
        after = fused_step(fused, before, grads, facts, given)
        for group, values in zip(handles, after[:-1], strict=True):
            written = (value for value in values or () if value is not None)
            for handle, value in zip(group, written, strict=True):
                tf.raw_ops.AssignVariableOp(resource=handle, value=value)
        return tf.stop_gradient(after.u_product)

    return _traced(
        nadam_step,
        [[tf.TensorSpec([], tf.resource) for spec in group if spec is not None] for group in specs],
        [_spec_of_gradient(*pair) for pair in zip(of_params, grad_dtypes, strict=True)],
        tf.TensorSpec([], product_dtype),
        *_Scalars.specs(kinds),
    )


@cache
def _compiled_clipping(
    _context: Any,
    variables: tuple[Spec, ...],
    grad_dtypes: tuple[Any, ...],
    kinds: StepHyperparameters,
) -> Any:
    specs = [_spec_of_gradient(*pair) for pair in zip(variables, grad_dtypes, strict=True)]

    @tf.function(jit_compile=True, autograph=False)
    def clipping(grads: list[Any], numbers: Any, tensors: list[Any]) -> list[Any]:
        given = _Scalars(kinds, numbers, tensors).put_together()
        return clipped_gradients(sum_squares, with_each_row_once(_summed, grads, variables), given)

    return _traced(clipping, specs, *_Scalars.specs(kinds))


def _update_rows(row: Coefficients, kind: Kind, table: Mapping[str, Any]) -> list[Any]:
    rows = table["grads"]
    return update_rows(row, kind, {**table, "indices": rows.indices, "grads": rows.values})


def _summed(rows: Rows, height: int, dtype: str) -> Rows:
    return Rows(*summed(rows.indices, rows.values, height, dtype))


def _traced(function: Any, *specs: Any) -> Any:
    """The function for arguments like these, traced outside of whatever is traced now."""
    with tf.init_scope(), tf.device(None):
        return function.get_concrete_function(*specs)


def _spec(variable: Any) -> Spec:
    return Spec(tuple(variable.shape), variable.dtype)


def _dtypes_of(grad: Gradient) -> Any:
    """Of a gradient of some rows, those of its two tensors."""
    return Rows(*(x.dtype for x in grad)) if isinstance(grad, Rows) else grad.dtype


def _spec_of_gradient(variable: Spec, dtypes: Any) -> Any:
    """Of what has these dtypes and is the gradient of such a variable; of any number of rows."""
    if not isinstance(dtypes, Rows):
        return tf.TensorSpec(variable.shape, dtypes)
    return Rows(
        tf.TensorSpec([None], dtypes.indices),
        tf.TensorSpec([None, *variable.shape[1:]], dtypes.values),
    )


def _read(handles: Sequence[Any], specs: Sequence[Spec | None]) -> list[Any]:
    """The values of a group of variables; None where there is none."""
    there = iter(handles)
    return [None if spec is None else _read_variable(next(there), *spec) for spec in specs]


def _read_variable(handle: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    return tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype), shape)
