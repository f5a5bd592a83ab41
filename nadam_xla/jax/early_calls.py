"""How an update is split into calls that run while the gradients of the others are still made."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from jax.interpreters import mlir

from nadam_xla.jax.awaited import gradients_of_rows
from nadam_xla.jax.dtypes import stored_dtype
from nadam_xla.jax.primitive import Call
from nadam_xla.jax.program_order import add_operations
from nadam_xla.program_order import PlannedCall, ProgramOrder, plan
from nadam_xla.streams import of_leaves


def lower_in_calls(
    lower: Callable[..., Sequence[Any]],
    ctx: Any,
    table: Any,
    *leaves: Any,
    whole: Call,
    platform: str,
) -> list[Any]:
    """The results of the primitive, by as many calls as the order of the gradients makes worth it.

    Args:
        lower: makes one call; it takes a context, operands and a ``call``.
        ctx: the context in which the primitive is lowered.
        table: the primitive's first operand.
        *leaves: all others.
        whole: what would be static if there were one call alone.
        platform: as :func:`nadam_xla.calls.in_order_of_birth` names it.
    """
    streams, n = whole.streams, whole.streams.leaves(len(leaves))
    table_aval, *avals = ctx.avals_in
    is_aliased = {operand - 1 for operand in whole.aliased}  # counted without the table
    overwritten = [i for i in sorted(is_aliased) if avals[i].dtype == stored_dtype(avals[i].dtype)]
    sizes = [bytes_of(x) for x in streams.by_name(avals)["grads"]]
    grads = streams.by_name(leaves)["grads"]
    also = gradients_of_rows(table_aval)
    values = [*grads, *(value for value, _ in also)]
    calls = _planned(ctx, values, {i: leaves[i] for i in overwritten}, sizes, platform)
    first_grad = streams.operands.index("grads") * n
    may_be_awaited = [*zip(grads, avals[first_grad : first_grad + n], strict=True), *also]
    has_rows = table_aval.shape[1] != 1
    if has_rows:
        table = rows_in_order(
            ctx, table_aval, table, [leaf for call in calls for leaf in call.leaves]
        )
    results: list[Any] = [None] * len(ctx.avals_out)
    first_row = 0
    for call in calls:
        own = of_leaves(len(streams.operands), call.leaves, n)
        made = of_leaves(len(streams.overwritten), call.leaves, n)
        awaited = [] if call.awaited is None else [may_be_awaited[call.awaited]]
        context = ctx.replace(
            avals_in=[table_aval, *(avals[i] for i in own), *(aval for _, aval in awaited)],
            avals_out=[ctx.avals_out[i] for i in made],
        )
        aliased = tuple(1 + k for k, i in enumerate(own) if i in is_aliased)
        static = whole._replace(aliased=aliased, first_row=first_row if has_rows else 0)
        operands = (*(leaves[i] for i in own), *(value for value, _ in awaited))
        lowered = widened(lower, context, table, *operands, call=static)
        for i, result in zip(made, lowered, strict=True):
            results[i] = result
        first_row += len(call.leaves)
    return results


def widened(
    lower: Callable[..., Sequence[Any]], ctx: Any, table: Any, *operands: Any, call: Call
) -> list[Any]:
    """The results of one call, for which dtypes that the kernels do not know are widened."""
    table_aval, *avals = ctx.avals_in
    own = len(avals) - len(call.streams.awaited(avals))
    wide = [x.update(dtype=stored_dtype(x.dtype)) for x in avals[:own]]
    context = ctx.replace(
        avals_in=[table_aval, *wide, *avals[own:]],
        avals_out=[x.update(dtype=stored_dtype(x.dtype)) for x in ctx.avals_out],
    )
    given = [converted(*of) for of in zip(operands, avals[:own], wide, strict=False)]
    results = lower(context, table, *given, *operands[own:], call=call)
    made = zip(results, context.avals_out, ctx.avals_out, strict=True)
    return [converted(*of) for of in made]


def converted(value: Any, aval: Any, to: Any) -> Any:
    """The lowered value of one type, in the dtype of another."""
    if aval.dtype == to.dtype:
        return value
    shape = mlir.ir.RankedTensorType(value.type).shape
    type_ = mlir.ir.RankedTensorType.get(shape, mlir.dtype_to_ir_type(to.dtype))
    convert = mlir.ir.Operation.create("stablehlo.convert", results=[type_], operands=[value])
    return convert.results[0]


def _planned(
    ctx: Any,
    values: Sequence[Any],
    overwritten: Mapping[int, Any],
    sizes: Sequence[int],
    platform: str,
) -> list[PlannedCall]:
    """The calls, in the order in which the gradients are made, where the block shows it.

    Args:
        ctx: the context in which the primitive is lowered.
        values: the gradient of each leaf, and behind them what else may be awaited.
        overwritten: the operands that calls overwrite, by their numbers.
        sizes: the bytes of each gradient.
        platform: as :func:`nadam_xla.calls.in_order_of_birth` names it.
    """
    order = ProgramOrder(list(overwritten.values()))
    if not all(isinstance(value, mlir.ir.BlockArgument) for value in values):
        add_operations(order, mlir.ir.InsertionPoint.current.block, functions_of(ctx))
    return plan(order, values, [i % len(sizes) for i in overwritten], sizes, platform)


def functions_of(ctx: Any) -> dict[str, Any]:
    """The functions that the program has so far, by name."""
    operations = [view.operation for view in ctx.module_context.module.body.operations]
    return {
        mlir.ir.StringAttr(operation.attributes["sym_name"]).value: operation
        for operation in operations
        if "sym_name" in operation.attributes
    }


def rows_in_order(ctx: Any, aval: Any, table: Any, rows: list[int]) -> Any:
    """The lowered table with its rows in this order."""
    if rows == sorted(rows):
        return table
    context = ctx.replace(avals_in=[aval], avals_out=None)
    take = mlir.lower_fun(lambda table: table[:, rows], multiple_results=False)
    (in_order,) = take(context, table)
    return in_order


def bytes_of(aval: Any) -> int:
    """Zero where a dimension is left open."""
    known = all(isinstance(size, int) for size in aval.shape)
    return prod(aval.shape) * aval.dtype.itemsize if known else 0
