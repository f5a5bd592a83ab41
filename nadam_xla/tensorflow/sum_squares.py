"""The sum of squares of each tensor, in one pass over them."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nadam_xla import targets
from nadam_xla.calls import full_calls
from nadam_xla.platforms import CUDA
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.custom_call import custom_call, differentiate
from nadam_xla.tensorflow.update import as_stored, check_floating
from nadam_xla.workspace import workspace_bytes


def sum_squares(tensors: Sequence[Any]) -> list[Any]:
    """The sum of squares of each tensor, a scalar; read once, whatever their number.

    They do not depend on the number of threads, and are summed in float64 before they are rounded.

    Args:
        tensors: floating-point tensors of known rank; bfloat16 and float16 are read as they are,
            and what is narrower still is widened.

    Returns:
        A scalar for each tensor, float64 for float64 tensors and float32 for all others.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of a floating dtype.
        ValueError: a rank is unknown.
    """
    runtime.check_available()
    tensors = [tf.convert_to_tensor(x) for x in tensors]
    check_floating("tensors", tensors)
    for i, x in enumerate(tensors):
        if x.shape.rank is None:
            raise ValueError(f"tensors[{i}] has an unknown shape; its rank must be known")
    results: list[Any] = [None] * len(tensors)
    for dtype, indices in full_calls([x.dtype.name for x in tensors], runtime.CALLS_ARE_FOR):
        leaves = [as_stored(tensors[i]) for i in indices]
        results_of_call = [((len(leaves),), dtype)]
        if CUDA in runtime.PLATFORMS:
            results_of_call.append(((workspace_bytes(len(leaves)),), "uint8"))
        sums, *_ = custom_call(targets.SUM_SQUARES, leaves, results_of_call)
        for i, total in zip(indices, tf.unstack(sums), strict=True):
            results[i] = total
    return results


def _gradient(op: Any, of_sums: Any, *_: Any) -> list[Any]:
    pairs = zip(op.inputs, tf.unstack(of_sums), strict=True)
    return [tf.cast(2 * tf.cast(x, g.dtype) * g, x.dtype) for x, g in pairs]


differentiate(targets.SUM_SQUARES, _gradient)
