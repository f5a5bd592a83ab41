"""The fused update over lists of tensors, as a StableHLO custom call in a TensorFlow graph."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nadam_xla import targets
from nadam_xla.calls import by_compute_dtype, full_calls
from nadam_xla.coefficients import Coefficients
from nadam_xla.program_order import PlannedCall
from nadam_xla.streams import Streams
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.custom_call import custom_call, differentiate
from nadam_xla.tensorflow.early_calls import planned_calls

Tensors = Sequence[Any]


def nadam_update(
    coefficients: Coefficients,
    params: Tensors,
    grads: Tensors,
    mu: Tensors,
    nu: Tensors,
) -> tuple[list[Any], list[Any], list[Any]]:
    """One fused Nadam step: the rule of :class:`nadam_xla.coefficients.Coefficients`.

    Inside ``tf.function(jit_compile=True)``, results that are assigned to the variables that the
    inputs were read from are written in place. Elsewhere the op runs alone and copies.

    Args:
        coefficients: one row of scalars for all tensors; any of them may also be a vector with
            an entry for each tensor.
        params: n floating-point tensors of static shape. float32 and float64 are computed as they
            are; narrower ones are widened to float32 and rounded back.
        grads: the gradients, of the same shapes and any floating dtype. ``tf.IndexedSlices`` are
            made dense, the slices of equal indices summed.
        mu: the first moments, of the same shapes.
        nu: the second moments, of the same shapes.

    Returns:
        The new parameters, first moments and second moments, each with the dtype of what was given.
        A ``tf.GradientTape`` that is asked for their gradients raises ``NotImplementedError``.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of a floating dtype.
        ValueError: a shape is unknown or differs from its parameter's, or the lists in length; a
            coefficient is neither a scalar nor such a vector.
    """
    runtime.check_available()
    groups = dict(zip(Streams().operands, (params, grads, mu, nu), strict=True))
    tensors = {name: [tf.convert_to_tensor(x) for x in group] for name, group in groups.items()}
    _check(tensors)
    results: list[Any] = [None] * len(params)
    for dtype, indices in by_compute_dtype([x.dtype.name for x in tensors["params"]]).items():
        leaves = [[group[i] for i in indices] for group in tensors.values()]
        planned = planned_calls(leaves[1], [leaves[0], *leaves[2:]])
        with runtime.not_instrumented():
            rows = _of_tensors(coefficients, dtype, indices, len(params))
        updated = update_leaves(rows, dtype, *leaves, planned=planned)
        for i, *new in zip(indices, *updated, strict=True):
            results[i] = new
    new_params, new_mu, new_nu = ([r[i] for r in results] for i in range(3))
    return new_params, new_mu, new_nu


def update_leaves(
    coefficients: Coefficients,
    dtype: str,
    params: Tensors,
    grads: Tensors,
    mu: Tensors,
    nu: Tensors,
    *,
    planned: Sequence[PlannedCall] | None,
) -> tuple[list[Any], list[Any], list[Any]]:
    """:func:`nadam_update` of tensors of one compute dtype that the caller has checked.

    Args:
        coefficients: scalars, or vectors with an entry for each tensor.
        dtype: the compute dtype.
        params: n tensors of static shape.
        grads: dense gradients, of the same shapes.
        mu: the first moments, of the same shapes.
        nu: the second moments, of the same shapes.
        planned: the calls to make; None: as full ones as may be.
    """
    results: list[Any] = [None] * len(params)
    for indices, awaited in planned or _full_calls(params):
        leaves = [[group[i] for i in indices] for group in (params, grads, mu, nu)]
        waits_for = [] if awaited is None else [grads[awaited]]
        with runtime.not_instrumented():  # infinities in the table are meant
            table = _table(_of_tensors(coefficients, dtype, indices, len(params)))
        updated = _call(table, dtype, leaves, waits_for)
        for i, *new in zip(indices, *updated, strict=True):
            stored = (group[i].dtype for group in (params, mu, nu))
            results[i] = [tf.cast(*pair) for pair in zip(new, stored, strict=True)]
    new_params, new_mu, new_nu = ([r[i] for r in results] for i in range(3))
    return new_params, new_mu, new_nu


def _full_calls(params: Tensors) -> Sequence[PlannedCall]:
    calls = full_calls([x.dtype.name for x in params], runtime.CALLS_ARE_FOR)
    return [PlannedCall(tuple(leaves), awaited=None) for _, leaves in calls]


def scalar(value: Any, dtype: Any) -> Any:
    """The value in this dtype; of a Python float, ``tf.cast`` would make a float32 first."""
    return tf.cast(tf.convert_to_tensor(value, dtype_hint=dtype), dtype)


def _check(tensors: dict[str, list[Any]]) -> None:
    params = tensors["params"]
    for name, group in tensors.items():
        if len(group) != len(params):
            raise ValueError(f"{name} has {len(group)} tensors; it must have {len(params)}")
        check_leaves(name, group)
        for i, (x, p) in enumerate(zip(group, params, strict=True)):
            if x.shape != p.shape:
                raise ValueError(
                    f"{name}[{i}] has the shape {x.shape}; it must be that of params[{i}],"
                    f" {p.shape}"
                )


def check_leaves(name: str, tensors: Tensors) -> None:
    """Raises ``TypeError`` for a dtype that is not floating, ``ValueError`` for an open shape."""
    for i, x in enumerate(tensors):
        if not x.dtype.is_floating:
            raise TypeError(f"{name}[{i}] has the dtype {x.dtype.name}; it must be floating")
        if not x.shape.is_fully_defined():
            raise ValueError(f"{name}[{i}] has the shape {x.shape}; it must be static")


def _call(table: Any, dtype: str, leaves: list[list[Any]], awaited: list[Any]) -> list[list[Any]]:
    """One custom call; ``leaves`` and the results are grouped as its operands and results are."""
    shapes = [tuple(x.shape.as_list()) for x in leaves[0]]
    n, streams = len(shapes), Streams()
    results = custom_call(
        targets.UPDATE,
        [table, *(tf.cast(x, dtype) for group in leaves for x in group), *awaited],
        [(shape, dtype) for shape in shapes * len(streams.overwritten)],
        aliases=streams.aliases(n),
        attributes=streams.attributes(),
    )
    return [results[i : i + n] for i in range(0, len(results), n)]


def _of_tensors(
    coefficients: Coefficients, dtype: str, indices: Sequence[int], tensors: int
) -> Coefficients:
    """The coefficients of some of the tensors: of a vector their entries, a scalar as it is."""
    chosen = {}
    for name, value in coefficients._asdict().items():
        column = scalar(value, dtype)
        if column.shape not in ([], [tensors]):
            raise ValueError(
                f"the coefficient {name} has the shape {column.shape}; it must be a scalar, or a"
                f" vector of {tensors}, an entry for each tensor"
            )
        chosen[name] = tf.gather(column, indices) if column.shape.rank else column
    return Coefficients(**chosen)


def _table(coefficients: Coefficients) -> Any:
    """The call's table, [1, 1 or the number of leaves, K]."""
    lengths = [column.shape[0] for column in coefficients if column.shape.rank]
    if not lengths:
        return tf.reshape(tf.stack(coefficients), (1, 1, len(coefficients)))
    rows = [tf.broadcast_to(column, [lengths[0]]) for column in coefficients]
    return tf.stack(rows, axis=-1)[tf.newaxis]


def _no_gradient(*_: Any) -> list[Any]:
    raise NotImplementedError(
        "nadam_xla's update has no gradient in TensorFlow. Where none is meant, end the tape before"
        " it or put tf.stop_gradient around its results; nadam_xla.jax differentiates the step"
    )


differentiate(targets.UPDATE, _no_gradient)
