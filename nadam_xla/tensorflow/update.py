"""The fused update over lists of tensors, as a StableHLO custom call in a TensorFlow graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from nadam_xla import targets
from nadam_xla.blockwise import CODES
from nadam_xla.calls import compute_dtype, in_order_of_birth
from nadam_xla.coefficients import Coefficients
from nadam_xla.kinds import ROUNDED, Kind, by_kind
from nadam_xla.program_order import PlannedCall
from nadam_xla.storage import MASTER_DTYPES, STORED, Rounding, check_rounding
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.custom_call import custom_call, differentiate
from nadam_xla.tensorflow.early_calls import planned_calls
from nadam_xla.tensorflow.masters import check_masters

Tensors = Sequence[Any]
Leaves = Mapping[str, Tensors]
"""For each stream a tensor of each leaf."""


def nadam_update(
    coefficients: Coefficients,
    params: Tensors,
    grads: Tensors,
    mu: Tensors,
    nu: Tensors,
    *,
    master: Tensors | None = None,
    rounding: Rounding = "nearest",
) -> tuple[list[Any], ...]:
    """One fused Nadam step: the rule of :class:`nadam_xla.coefficients.Coefficients`.

    Inside ``tf.function(jit_compile=True)``, results that are assigned to the variables that the
    inputs were read from are written in place. Elsewhere the op runs alone and copies.

    Args:
        coefficients: one row of scalars for all tensors; any of them may also be a vector with
            an entry for each tensor.
        params: n floating-point tensors of static shape. float64 is computed as it is, all others
            in float32; float32, float64, bfloat16 and float16 are read and written as they are
            stored, here and below.
        grads: the gradients, of the same shapes and any floating dtype. ``tf.IndexedSlices`` are
            made dense, the slices of equal indices summed.
        mu: the first moments, of the same shapes and any floating dtype.
        nu: the second moments, of the same shapes and any floating dtype.
        master: None, or the master weights: of bfloat16 and float16 parameters float32 tensors, or
            of bfloat16 ones uint16 (the bits that complete a float32) or uint8 (the first eight of
            them); None in the place of each parameter that has none.
        rounding: how what is narrower than float32 is rounded: ``"nearest"``; or ``"stochastic"``,
            by the random numbers of the coefficients' key
            (:func:`nadam_xla.coefficients.with_random_key`), of which each tensor must have a
            ``leaf`` of its own.

    Returns:
        The new parameters, first moments and second moments, and the master weights where they are
        given, each with the dtype of what was given. A ``tf.GradientTape`` that is asked for their
        gradients raises ``NotImplementedError``.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of a floating dtype; a master is not one of its parameter.
        ValueError: a shape is unknown or differs from its parameter's, or the lists in length; a
            coefficient is neither a scalar nor such a vector; the rounding is unknown.
    """
    runtime.check_available()
    check_rounding(rounding)
    groups = {"params": params, "grads": grads, "mu": mu, "nu": nu}
    tensors = {name: [tf.convert_to_tensor(x) for x in group] for name, group in groups.items()}
    _check(tensors)
    given = [None] * len(params) if master is None else master
    masters = [None if x is None else tf.convert_to_tensor(x) for x in given]
    check_masters(masters, tensors["params"])
    if rounding == "stochastic":
        _check_own_leaf(coefficients, len(params))
    results: list[Any] = [None] * len(params)
    for kind, indices in kinds_of(tensors, masters, rounding).items():
        chosen = {name: [group[i] for i in indices] for name, group in tensors.items()}
        chosen["master"] = [masters[i] for i in indices]
        overwritten = [chosen[name] for name in kind.streams.overwritten]
        planned = planned_calls(chosen["grads"], overwritten)
        with runtime.not_instrumented():
            rows = row_of_tensors(coefficients, kind.dtype, indices, len(params))
        updated = update_leaves(rows, kind, chosen, planned=planned)
        for i, new in zip(indices, zip(*updated, strict=True), strict=True):
            results[i] = new if kind.streams.has_master else (*new, None)
    new_groups = [[result[i] for result in results] for i in range(4)]
    return tuple(new_groups if master is not None else new_groups[:3])


def kinds_of(leaves: Leaves, masters: Sequence[Any | None], rounding: str) -> dict[Kind, list[int]]:
    """The leaves, by their numbers, that are updated together.

    Args:
        leaves: tensors or variables of the streams that are rounded, at least.
        masters: of each leaf; None of one that has none.
        rounding: as :func:`nadam_update` takes it.
    """
    dtypes = {name: [x.dtype.name for x in leaves[name]] for name in ROUNDED}
    return by_kind(dtypes, [master is not None for master in masters], rounding)


def update_leaves(
    coefficients: Coefficients,
    kind: Kind,
    leaves: Leaves,
    *,
    planned: Sequence[PlannedCall] | None,
    others: Tensors = (),
) -> list[list[Any]]:
    """:func:`nadam_update` of leaves of one kind that the caller has checked.

    Args:
        coefficients: scalars, or vectors with an entry for each leaf.
        kind: of the leaves.
        leaves: for each of the kind's streams n tensors of static shape, dense ones.
        planned: the calls to make; None: as full ones as may be.
        others: what they may wait for beside the gradients, in the order in which it was planned.

    Returns:
        The new values of each stream that is overwritten.
    """
    n, streams = len(leaves["grads"]), kind.streams
    results: list[Any] = [None] * n
    for indices, awaited in planned or _full_calls(leaves["grads"]):
        chosen = {name: [leaves[name][i] for i in indices] for name in streams.operands}
        waits_for = [] if awaited is None else [as_stored((*leaves["grads"], *others)[awaited])]
        with runtime.not_instrumented():  # infinities in the table are meant
            table = table_of(row_of_tensors(coefficients, kind.dtype, indices, n))
        updated = _call(table, kind, chosen, waits_for)
        for i, new in zip(indices, zip(*updated, strict=True), strict=True):
            stored = (leaves[name][i].dtype for name in streams.overwritten)
            results[i] = [cast(*pair) for pair in zip(new, stored, strict=True)]
    return [[result[i] for result in results] for i in range(len(streams.overwritten))]


def _full_calls(grads: Tensors) -> Sequence[PlannedCall]:
    unknown = [-1] * len(grads)
    calls = in_order_of_birth(unknown, unknown, runtime.CALLS_ARE_FOR)
    return [PlannedCall(tuple(leaves), awaited=None) for leaves in calls]


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
    check_floating(name, tensors)
    for i, x in enumerate(tensors):
        if not x.shape.is_fully_defined():
            raise ValueError(f"{name}[{i}] has the shape {x.shape}; it must be static")


def check_floating(name: str, tensors: Tensors) -> None:
    """Raises ``TypeError`` for a dtype that is not floating."""
    for i, x in enumerate(tensors):
        if not x.dtype.is_floating:
            raise TypeError(f"{name}[{i}] has the dtype {x.dtype.name}; it must be floating")


def _check_own_leaf(coefficients: Coefficients, tensors: int) -> None:
    if tensors > 1 and tf.convert_to_tensor(coefficients.leaf).shape.rank == 0:
        raise ValueError(
            f"the coefficient leaf is a scalar; where rounding is stochastic it must be a vector of"
            f" {tensors}, so that each tensor has random numbers of its own"
        )


def _call(table: Any, kind: Kind, leaves: Leaves, awaited: list[Any]) -> list[list[Any]]:
    """One custom call of leaves; the results are grouped as the streams that they overwrite."""
    n, streams = len(leaves["grads"]), kind.streams
    stored = {name: [as_stored(x) for x in leaves[name]] for name in streams.operands}
    results = custom_call(
        targets.UPDATE,
        [table, *(x for name in streams.operands for x in stored[name]), *awaited],
        [
            (tuple(x.shape.as_list()), x.dtype.name)
            for name in streams.overwritten
            for x in stored[name]
        ],
        aliases=streams.aliases(n),
        attributes=streams.attributes(),
    )
    return [results[i : i + n] for i in range(0, len(results), n)]


def as_stored(x: Any) -> Any:
    """The tensor as the kernels read it: widened, where they know no such numbers."""
    is_known = x.dtype.name in (*STORED, *CODES.values(), *MASTER_DTYPES.values())
    return x if is_known else tf.cast(x, compute_dtype(x.dtype.name))


def cast(x: Any, dtype: Any) -> Any:
    """The tensor in this dtype; itself where it has it."""
    return x if x.dtype == dtype else tf.cast(x, dtype)


def row_of_tensors(
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


def table_of(coefficients: Coefficients) -> Any:
    """The call's table, [1, 1 or the number of leaves, K]."""
    lengths = [column.shape[0] for column in coefficients if column.shape.rank]
    if not lengths:
        return tf.reshape(tf.stack(coefficients), (1, 1, len(coefficients)))
    rows = [tf.broadcast_to(column, [lengths[0]]) for column in coefficients]
    return tf.stack(rows, axis=-1)[tf.newaxis]


def no_gradient(*_: Any) -> list[Any]:
    """For tapes that are asked for the gradient of an update."""
    raise NotImplementedError(
        "nadam_xla's update has no gradient in TensorFlow. Where none is meant, end the tape before"
        " it or put tf.stop_gradient around its results; nadam_xla.jax differentiates the step"
    )


differentiate(targets.UPDATE, no_gradient)
