"""The cut of an update into calls that run while the gradients of the others are still made.

One call for all leaves needs all their gradients at once. Stock updates each leaf as its gradient
is born: from the cache, and in memory that the next gradient can then have.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from jax.interpreters import mlir

from nadam_xla.calls import in_order_of_birth
from nadam_xla.jax.primitive import Call
from nadam_xla.jax.program_order import ProgramOrder
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
    overwritten = [i for i in sorted(is_aliased) if avals[i].dtype == table_aval.dtype]
    order = _Order(ctx, streams.by_name(leaves)["grads"], {i: leaves[i] for i in overwritten})
    sizes = [_bytes(x) for x in streams.by_name(avals)["grads"]]
    calls = in_order_of_birth(order.births, sizes, platform)
    has_rows = table_aval.shape[1] != 1
    if has_rows:
        table = _rows_in_order(ctx, table, [leaf for call in calls for leaf in call])
    results: list[Any] = [None] * len(ctx.avals_out)
    first_row = 0
    for call in calls:
        own = of_leaves(len(streams.operands), call, n)
        made = of_leaves(len(streams.overwritten), call, n)
        awaited = [streams.operands.index("grads") * n + leaf for leaf in order.awaited_by(call)]
        context = ctx.replace(
            avals_in=[table_aval, *(avals[i] for i in (*own, *awaited))],
            avals_out=[ctx.avals_out[i] for i in made],
        )
        aliased = tuple(1 + k for k, i in enumerate(own) if i in is_aliased)
        static = whole._replace(aliased=aliased, first_row=first_row if has_rows else 0)
        operands = (leaves[i] for i in (*own, *awaited))
        lowered = _widened(lower, context, table, *operands, call=static)
        for i, result in zip(made, lowered, strict=True):
            results[i] = result
        first_row += len(call)
    return results


def _widened(
    lower: Callable[..., Sequence[Any]], ctx: Any, table: Any, *operands: Any, call: Call
) -> list[Any]:
    """The results of one call, which is made in the dtype of the table."""
    table_aval, *avals = ctx.avals_in
    own = len(avals) - len(call.streams.awaited(avals))
    wide = [x.update(dtype=table_aval.dtype) for x in avals[:own]]
    context = ctx.replace(
        avals_in=[table_aval, *wide, *avals[own:]],
        avals_out=[x.update(dtype=table_aval.dtype) for x in ctx.avals_out],
    )
    given = [_converted(*of) for of in zip(operands, avals[:own], wide, strict=False)]
    results = lower(context, table, *given, *operands[own:], call=call)
    made = zip(results, context.avals_out, ctx.avals_out, strict=True)
    return [_converted(*of) for of in made]


def _converted(value: Any, aval: Any, to: Any) -> Any:
    if aval.dtype == to.dtype:
        return value
    shape = mlir.ir.RankedTensorType(value.type).shape
    type_ = mlir.ir.RankedTensorType.get(shape, mlir.dtype_to_ir_type(to.dtype))
    convert = mlir.ir.Operation.create("stablehlo.convert", results=[type_], operands=[value])
    return convert.results[0]


class _Order:
    """The order in which the gradients of an update are made, where the block shows it.

    Args:
        ctx: the context in which the primitive is lowered.
        grads: the gradient of each leaf.
        overwritten: the operands that calls overwrite, by their numbers.
    """

    def __init__(self, ctx: Any, grads: Sequence[Any], overwritten: Mapping[int, Any]) -> None:
        self._n = len(grads)
        self._grads = grads
        self._overwritten = list(overwritten)
        self._program: ProgramOrder | None = None
        if not all(isinstance(grad, mlir.ir.BlockArgument) for grad in self._grads):
            block = mlir.ir.InsertionPoint.current.block
            self._program = ProgramOrder(block, list(overwritten.values()), _functions(ctx))
        births = [-1 if self._program is None else self._program.birth(g) for g in self._grads]
        self.births = births
        self._first_born = sorted(range(self._n), key=lambda leaf: births[leaf])

    def awaited_by(self, call: Sequence[int]) -> list[int]:
        """The leaf whose gradient shows that all has been read that the call overwrites.

        There is none where the call's own gradients show it, and where none does: then XLA copies
        what it must, as it does for stock.
        """
        if self._program is None:
            return []
        own = set(call)
        at_risk = [k for k, i in enumerate(self._overwritten) if i % self._n in own]
        for leaf in (*call, *self._first_born):
            if self._program.proves(self._grads[leaf], at_risk):
                return [] if leaf in own else [leaf]
        return []


def _functions(ctx: Any) -> dict[str, Any]:
    """The functions that the program has so far, by name."""
    operations = [view.operation for view in ctx.module_context.module.body.operations]
    return {
        mlir.ir.StringAttr(operation.attributes["sym_name"]).value: operation
        for operation in operations
        if "sym_name" in operation.attributes
    }


def _rows_in_order(ctx: Any, table: Any, rows: list[int]) -> Any:
    if rows == sorted(rows):
        return table
    context = ctx.replace(avals_in=ctx.avals_in[:1], avals_out=None)
    take = mlir.lower_fun(lambda table: table[:, rows], multiple_results=False)
    (in_order,) = take(context, table)
    return in_order


def _bytes(aval: Any) -> int:
    """Zero where a dimension is left open."""
    known = all(isinstance(size, int) for size in aval.shape)
    return prod(aval.shape) * aval.dtype.itemsize if known else 0
