"""The fused update of some rows of a table: an embedding's step costs what its batch touches."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import tensorflow as tf

from nadam_xla import targets
from nadam_xla.coefficients import Coefficients
from nadam_xla.kinds import Kind
from nadam_xla.platforms import CPU, CUDA
from nadam_xla.storage import Rounding, check_rounding
from nadam_xla.streams import Streams
from nadam_xla.tensorflow import module_text, runtime
from nadam_xla.tensorflow.custom_call import call_module, differentiate, tensor_of
from nadam_xla.tensorflow.masters import check_masters
from nadam_xla.tensorflow.module_text import Tensor
from nadam_xla.tensorflow.update import (
    as_stored,
    cast,
    check_leaves,
    kinds_of,
    no_gradient,
    row_of_tensors,
    table_of,
)
from nadam_xla.workspace import rows_workspace_bytes

Leaf = Mapping[str, Any]
"""The indices, and for each stream its tensor: of the table, and ``"grads"`` of the rows."""


def nadam_update_rows(
    coefficients: Coefficients,
    params: Any,
    indices: Any,
    grads: Any,
    mu: Any,
    nu: Any,
    *,
    master: Any = None,
    rounding: Rounding = "nearest",
) -> tuple[Any, ...]:
    """One fused Nadam step of the rows of a table that a gradient has; all others stay.

    What :func:`nadam_update` says of memory holds here: assigned to their variables in a compiled
    function, the results are in place, and nothing of the table's size is read or written.

    Args:
        coefficients: one row of scalars.
        params: the table, ``[height, *columns]``, of static shape and any floating dtype.
        indices: ``[touched]``, int32 or int64: which rows ``grads`` has. In a graph their number
            need not be known. Rows that occur more than once are summed first; indices outside of
            the table are left out.
        grads: ``[touched, *columns]``, of any floating dtype.
        mu: the first moments, of the shape of ``params`` and any floating dtype.
        nu: the second moments, likewise.
        master: None, or the master weights, as :func:`nadam_update` has them.
        rounding: likewise. With every row once, the result has the bits of that function's.

    Returns:
        The new table, first moments and second moments, and the master weights where they are
        given. A ``tf.GradientTape`` that is asked for their gradients raises
        ``NotImplementedError``.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of such a dtype; the master is not one of the table.
        ValueError: a shape does not fit, or is unknown where it must not be; the rounding is
            unknown.
    """
    runtime.check_available()
    check_rounding(rounding)
    leaf = {
        name: tf.convert_to_tensor(x)
        for name, x in (("params", params), ("mu", mu), ("nu", nu), ("grads", grads))
    }
    check_leaves("params", [leaf["params"]])
    for name in ("mu", "nu"):
        check_leaves(name, [leaf[name]])
        if leaf[name].shape != leaf["params"].shape:
            raise ValueError(
                f"{name} has the shape {leaf[name].shape}; it must be that of params,"
                f" {leaf['params'].shape}"
            )
    leaf["indices"], leaf["grads"] = checked_rows(
        "indices", indices, "grads", leaf["grads"], "params", leaf["params"].shape
    )
    leaf["master"] = None if master is None else tf.convert_to_tensor(master)
    check_masters([leaf["master"]], [leaf["params"]])
    (kind,) = kinds_of({name: [x] for name, x in leaf.items()}, [leaf["master"]], rounding)
    return tuple(update_rows(coefficients, kind, leaf))


def checked_rows(
    indices_name: str,
    indices: Any,
    grads_name: str,
    grads: Any,
    table_name: str,
    table_shape: Any,
) -> tuple[Any, Any]:
    """The indices and the rows of a gradient, as tensors, checked as far as a graph knows them.

    Args:
        indices_name: what an error calls them.
        indices: which rows there are.
        grads_name: what an error calls them.
        grads: the rows.
        table_name: what an error calls it.
        table_shape: static.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit.
    """
    indices, grads = tf.convert_to_tensor(indices), tf.convert_to_tensor(grads)
    if indices.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            f"{indices_name} has the dtype {indices.dtype.name}; it must be int32 or int64"
        )
    if not grads.dtype.is_floating:
        raise TypeError(f"{grads_name} has the dtype {grads.dtype.name}; it must be floating")
    if table_shape.rank == 0:
        raise ValueError(f"{table_name} is a scalar; it must have rows")
    if not indices.shape.is_compatible_with([None]):
        raise ValueError(
            f"{indices_name} has the shape {indices.shape}; it must be a vector: reshape it, and"
            f" {grads_name} with it"
        )
    expected = tf.TensorShape([*indices.shape.with_rank(1), *table_shape[1:]])
    if not grads.shape.is_compatible_with(expected):
        raise ValueError(
            f"{grads_name} has the shape {grads.shape}; it must be {expected}, a row of"
            f" {table_name} for each of {indices_name}"
        )
    return tf.ensure_shape(indices, [None]), tf.ensure_shape(grads, [None, *table_shape[1:]])


def update_rows(coefficients: Coefficients, kind: Kind, leaf: Leaf) -> list[Any]:
    """:func:`nadam_update_rows` of a table of this kind that the caller has checked.

    Args:
        coefficients: scalars, or vectors of one entry.
        kind: of the table; without an average.
        leaf: the table and its gradient.

    Returns:
        The new values of each stream that is overwritten.
    """
    streams = kind.streams
    with runtime.not_instrumented():  # infinities in the table are meant
        table = table_of(row_of_tensors(coefficients, kind.dtype, [0], 1))
    given = [as_stored(leaf[name]) for name in streams.operands]
    operands = [table, leaf["indices"], *given]
    stored = dict(zip(streams.operands, map(tensor_of, given), strict=True))
    results = [stored[name] for name in streams.overwritten]
    module = _module(tuple(map(tensor_of, operands)), streams, runtime.PLATFORMS)
    updated = call_module(module, operands, results)
    pairs = zip(updated, streams.overwritten, strict=True)
    return [cast(new, leaf[name].dtype) for new, name in pairs]


def summed(indices: Any, grads: Any, height: int, dtype: str) -> tuple[Any, Any]:
    """A gradient in which each row occurs once, and none that is not in the table.

    Args:
        indices: ``[touched]``, which rows there are.
        grads: ``[touched, *columns]``.
        height: how many rows the table has.
        dtype: in which is summed.

    Returns:
        As many indices and rows. In the place of those that are summed to others, or are outside of
        the table, there are indices that are left out, and rows of zeros.
    """
    touched = tf.size(indices)
    order = tf.argsort(indices, stable=True)
    ascending = tf.gather(indices, order)
    before = tf.concat([ascending[:1] - 1, ascending[:-1]], axis=0)
    row = tf.cumsum(tf.cast(tf.not_equal(ascending, before), tf.int32)) - 1
    last = min(height - 1, indices.dtype.max)
    row = tf.where((ascending >= 0) & (ascending <= last), row, -1)  # of -1 nothing is summed
    sums = tf.math.unsorted_segment_sum(tf.cast(tf.gather(grads, order), dtype), row, touched)
    # Where there is none, the maximum is the lowest of all numbers.
    return tf.math.unsorted_segment_max(ascending, row, touched), sums


def padded(indices: Any, grads: Any) -> tuple[Any, Any]:
    """The gradient, with more rows where their number changes from call to call.

    XLA compiles anew for each number of rows. So there are only eight of them between a power of
    two and the next. Those that are added are left out of the update.

    Args:
        indices: ``[touched]``, which rows there are.
        grads: ``[touched, *columns]``.
    """
    touched = indices.shape[0]
    if touched is not None and not tf.executing_eagerly():  # the graph's own number, always
        return indices, grads
    touched = tf.size(indices) if touched is None else touched
    more = -touched % _step_of_sizes(touched)

    def with_more() -> tuple[Any, Any]:
        others = [[0, 0]] * (grads.shape.rank - 1)
        return (
            tf.pad(indices, [[0, more]], constant_values=-1),
            tf.pad(grads, [[0, more], *others]),
        )

    if isinstance(more, int):
        return with_more() if more else (indices, grads)
    return tf.cond(more > 0, with_more, lambda: (indices, grads))  # type: ignore[no-any-return]


def _step_of_sizes(touched: Any) -> Any:
    """Of which the number of rows is to be a multiple: at most an eighth of it."""
    if isinstance(touched, int):
        return 1 << max(touched.bit_length() - 4, 0)
    powers = tf.constant([1 << i for i in range(4, 31)])
    return tf.bitwise.left_shift(1, tf.math.count_nonzero(touched >= powers, dtype=tf.int32))


def _on_cpu(operands: Mapping[str, Tensor], results: Sequence[Tensor], streams: Streams) -> str:
    """The call that has memory more, in which the indices are sorted."""
    shapes = {f"%shape_{i}": ((len(shape),), "int64") for i, (shape, _) in enumerate(results)}
    constants = "".join(
        f"\n    {name} = stablehlo.constant dense<{list(shape)}> : {module_text.type_of(tensor)}"
        for (name, tensor), (shape, _) in zip(shapes.items(), results, strict=True)
    )
    shapes["%bytes"] = ((1,), "int64")
    call = module_text.custom_call(
        "%new",
        targets.UPDATE_ROWS,
        operands,
        [*results, ((None,), "uint8")],
        aliases=streams.aliases(1, first=_FIRST),
        attributes=streams.attributes_of_rows(),
        shapes=shapes,
    )
    type_of_indices = module_text.type_of(operands["%indices"])
    return f"""{constants}
    %touched = stablehlo.get_dimension_size %indices, dim = 0 : ({type_of_indices}) -> tensor<i32>
    %size = stablehlo.reshape %touched : (tensor<i32>) -> tensor<1xi32>
    %wide = stablehlo.convert %size : (tensor<1xi32>) -> tensor<1xi64>
    %bytes_of_row = stablehlo.constant dense<{rows_workspace_bytes(1)}> : tensor<1xi64>
    %bytes = stablehlo.multiply %wide, %bytes_of_row : tensor<1xi64>
    {call}"""


def _on_cuda(operands: Mapping[str, Tensor], results: Sequence[Tensor], streams: Streams) -> str:
    """The call that is told in which order the indices ascend."""
    index = module_text.type_of(((), operands["%indices"][1]))
    indices = module_text.type_of(operands["%indices"])
    call = module_text.custom_call(
        "%new",
        targets.UPDATE_ROWS,
        {**operands, "%sorted#1": ((None,), "int32")},
        results,
        aliases=streams.aliases(1, first=_FIRST),
        attributes=streams.attributes_of_rows(),
    )
    return f"""
    %touched = stablehlo.get_dimension_size %indices, dim = 0 : ({indices}) -> tensor<i32>
    %size = stablehlo.reshape %touched : (tensor<i32>) -> tensor<1xi32>
    %numbers = stablehlo.dynamic_iota %size, dim = 0 : (tensor<1xi32>) -> tensor<?xi32>
    %sorted:2 = "stablehlo.sort"(%indices, %numbers) <{{dimension = 0 : i64, is_stable = true}}> ({{
    ^bb0(%a: {index}, %b: {index}, %c: tensor<i32>, %d: tensor<i32>):
      %is_less = stablehlo.compare LT, %a, %b, SIGNED : ({index}, {index}) -> tensor<i1>
      stablehlo.return %is_less : tensor<i1>
    }}) : ({indices}, tensor<?xi32>) -> ({indices}, tensor<?xi32>)
    {call}"""


_FIRST = 2  # of the operands, that belongs to a stream
_BRANCHES = {CPU: _on_cpu, CUDA: _on_cuda}


@lru_cache(maxsize=1024)
def _module(operands: tuple[Tensor, ...], streams: Streams, platforms: tuple[str, ...]) -> str:
    """The module's text; on each platform the call has what that platform's kernel needs."""
    table, (_, of_indices), *given = operands
    of_streams = dict(zip(streams.operands, given, strict=True))
    open_grads = ((None, *of_streams["grads"][0][1:]), of_streams["grads"][1])
    named: dict[str, Tensor] = {
        "%coefficients": table,
        "%indices": ((None,), of_indices),
        **{f"%{name}": tensor for name, tensor in of_streams.items()},
        "%grads": open_grads,
    }
    results = [of_streams[name] for name in streams.overwritten]
    branches = [_BRANCHES[platform](named, results, streams) for platform in platforms]
    values = module_text.values_of("%new", len(results))
    if len(platforms) == 1:
        (branch,) = branches
        return module_text.module(named, results, branch, values)
    end = f"\n    stablehlo.return {values} : {module_text.types_of(results)}\n    "
    regions = ", ".join(f"{{{branch}{end}}}" for branch in branches)
    types = module_text.types_of(results)
    case = f'%chosen:{len(results)} = "stablehlo.case"(%platform) ({regions})'
    return module_text.module(
        named,
        results,
        f"{case} : (tensor<i32>) -> ({types})",
        module_text.values_of("%chosen", len(results)),
        platform="%platform",
    )


differentiate(targets.UPDATE_ROWS, no_gradient)
