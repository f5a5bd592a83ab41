"""What the step on TensorFlow takes of the gradients that it is given."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nadam_xla.keras.row_gradients import Gradient, Rows
from nadam_xla.tensorflow.rows import checked_rows, padded


def dense(grads: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """The gradients as tensors of the variables' shapes; slices of equal indices are summed."""
    tensors = [tf.convert_to_tensor(grad) for grad in grads]
    return [
        x if x.shape.is_fully_defined() else tf.ensure_shape(x, variable.shape)
        for x, variable in zip(tensors, variables, strict=True)
    ]


def with_rows(grads: Sequence[Any], variables: Sequence[Any]) -> list[Gradient]:
    """The same, but slices are rows.

    Raises:
        TypeError: the indices are no whole numbers.
        ValueError: the slices are not those of rows of the variable. Each message names it.
    """
    return [
        _rows(grad, variable)
        if isinstance(grad, tf.IndexedSlices)
        else dense([grad], [variable])[0]
        for grad, variable in zip(grads, variables, strict=True)
    ]


def slices(grad: Gradient, variable: Any) -> Any:
    """Of rows the slices, as strategies of ``tf.distribute`` know them; any other as it is."""
    if not isinstance(grad, Rows):
        return grad
    return tf.IndexedSlices(grad.values, grad.indices, tf.constant(tuple(variable.shape)))


def _rows(grad: Any, variable: Any) -> Rows:
    indices = tf.convert_to_tensor(grad.indices)
    if indices.dtype.is_integer and indices.dtype != tf.int64:
        indices = tf.cast(indices, tf.int32)
    of_variable = f"of the gradient of the variable {getattr(variable, 'path', variable.name)}"
    return Rows(
        *padded(
            *checked_rows(
                f"indices {of_variable}",
                indices,
                f"values {of_variable}",
                grad.values,
                "the variable",
                tf.TensorShape(variable.shape),
            )
        )
    )
