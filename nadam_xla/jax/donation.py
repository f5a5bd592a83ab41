"""Which operands an update may overwrite, so that XLA makes no copy that stock would not make."""

from typing import Any

from jax.interpreters import mlir

from nadam_xla.jax.dtypes import stored_dtype
from nadam_xla.streams import Streams

# What JAX writes on a donated argument: the result that takes its memory, or that XLA may choose.
_MARKS_OF_DONATION = ("tf.aliasing_output", "jax.buffer_donor")


def overwritable(ctx: Any, operands: tuple[Any, ...], streams: Streams) -> tuple[int, ...]:
    """The operands whose memory the results may take, by their numbers; the table is operand 0.

    Those that are converted for the call are always among them: it is the conversion's memory. And
    a result takes no memory of numbers that are stored in another way.
    """
    grads = set(streams.by_name(range(1, len(operands)))["grads"])
    stored = [stored_dtype(aval.dtype) for aval in ctx.avals_in]
    aliases = streams.aliases(streams.leaves(len(operands) - 1))
    return tuple(
        operand
        for operand, result in aliases.items()
        if stored[operand] == stored_dtype(ctx.avals_out[result].dtype)
        if ctx.avals_in[operand].dtype != stored[operand]
        or not (
            _belongs_to_caller(operands[operand])
            or (operand in grads and _stays_outside(operands[operand]))
        )
    )


def _belongs_to_caller(value: Any) -> bool:
    """Whether this is an argument of the whole program that was not donated.

    XLA would have to copy it before it could be overwritten; without the alias the kernel reads the
    one and writes the other, which is a pass less. Donation shows as an attribute that JAX gives to
    the program's arguments; where it cannot be seen, as inside a loop, a nested function or
    ``shard_map``, the alias stands, and XLA decides.
    """
    if not isinstance(value, mlir.ir.BlockArgument):
        return False
    owner = value.owner.owner.operation.attributes
    is_program = "sym_visibility" in owner and str(owner["sym_visibility"]) == '"public"'
    if not is_program or "arg_attrs" not in owner:
        return False
    marks = mlir.ir.DictAttr(mlir.ir.ArrayAttr(owner["arg_attrs"])[value.arg_number])
    return not any(mark in marks for mark in _MARKS_OF_DONATION)


def _stays_outside(value: Any) -> bool:
    """Whether this gradient comes from outside of the branch that the call stands in, and stays.

    So it is in ``optax.apply_if_finite``. XLA would copy it before the branch, and the change in
    its memory once more, to where the branch returns it; without the alias the kernel writes the
    change there. A gradient that the other branch returns as it is has its memory there already.
    """
    block = mlir.ir.InsertionPoint.current.block
    owner = value.owner
    # JAX 0.8 does not always tell by its type that a value is an argument.
    if block == (owner if isinstance(owner, mlir.ir.Block) else owner.operation.block):
        return False
    branches = (list(region.blocks) for region in block.owner.regions)
    finished = (list(blocks[0].operations) for blocks in branches if blocks and blocks[0] != block)
    return not any(value in operations[-1].operands for operations in finished if operations)
