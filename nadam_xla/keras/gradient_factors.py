"""What becomes of the gradients before the update rule: sums over steps, and factors.

Unscaling and clipping by norms are factors in the row. Of the gradients nothing but their sums of
squares is needed for them, so no gradient is ever rewritten.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops
from keras.backend import standardize_dtype

from nadam_xla.calls import compute_dtype
from nadam_xla.keras.row_gradients import Gradient, Rows, values_of
from nadam_xla.keras.step_hyperparameters import StepHyperparameters


def accumulated(
    sums: Sequence[Any], grads: Sequence[Any], given: StepHyperparameters
) -> tuple[list[Any], list[Any]]:
    """The sums with these gradients, and what is kept: they, or zero where this step uses them."""
    totals = [
        before + ops.cast(grad, before.dtype) for before, grad in zip(sums, grads, strict=True)
    ]
    kept = [ops.where(given.is_update_step, ops.zeros_like(total), total) for total in totals]
    return totals, kept


def factors_of(
    sum_squares: Callable[[Sequence[Any]], list[Any]],
    grads: Sequence[Gradient],
    given: StepHyperparameters,
) -> Any:
    """What the gradients are to be multiplied by: a scalar, or a vector with one for each.

    Where they are clipped by norms, those of some rows must have each row once.

    The mean over an accumulation, unscaling, and clipping by norm or by global norm, the latter as
    ``keras.optimizers`` computes them: a norm that is not finite makes every parameter NaN.
    """
    loss_scale = 1.0 if given.loss_scale is None else given.loss_scale
    scale = 1.0 / (loss_scale * (given.accumulation_steps or 1))
    if not given.clips_by_norm:
        return scale
    sums = sum_squares([values_of(grad) for grad in grads])
    wide = "float64" if any(standardize_dtype(s.dtype) == "float64" for s in sums) else "float32"
    squares = ops.stack([ops.cast(s, wide) for s in sums])

    def scalar(value: Any) -> Any:
        return ops.convert_to_tensor(value, wide)

    if given.clipnorm is not None:
        norms = ops.sqrt(squares) * scalar(scale)
        return scalar(scale * given.clipnorm) / ops.maximum(norms, scalar(given.clipnorm))
    norm = ops.sqrt(ops.sum(squares)) * scalar(scale)
    bound = ops.minimum(1.0 / norm, scalar(1.0 / given.global_clipnorm))
    return scalar(scale) * (scalar(given.global_clipnorm) * bound + (norm - norm))


def chosen(factors: Any, indices: Sequence[int]) -> Any:
    """The factors of these gradients."""
    is_vector = len(getattr(factors, "shape", ())) == 1
    return ops.take(factors, indices) if is_vector else factors


def clipped_gradients(
    sum_squares: Callable[[Sequence[Any]], list[Any]],
    grads: Sequence[Gradient],
    given: StepHyperparameters,
) -> list[Gradient]:
    """The gradients as a step with these hyperparameters would take them.

    Unscaled, the mean over an accumulation, and clipped: for replicas, which clip before they sum.
    Those of some rows must have each row once.
    """
    factors = factors_of(sum_squares, grads, given)
    clipped = []
    for i, grad in enumerate(grads):
        values = values_of(grad)
        dtype = compute_dtype(standardize_dtype(values.dtype))
        factor = factors if given.clipnorm is None else factors[i]
        scaled = ops.cast(values, dtype) * ops.cast(factor, dtype)
        if given.clipvalue is not None:
            limit = ops.convert_to_tensor(given.clipvalue, dtype)
            scaled = ops.clip(scaled, -limit, limit)
        clipped.append(Rows(grad.indices, scaled) if isinstance(grad, Rows) else scaled)
    return clipped
