"""A ``scan`` taken apart, and one that updates stacks entry by entry put in its place."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun
from jax.extend.core.primitives import scan_p

from nadam_xla.jax.entry import bind_entry, entry_of
from nadam_xla.jax.fusion.block import Atom, Block, type_of


class Scan(NamedTuple):
    """What an equation of a ``scan`` consists of.

    Attributes:
        body: from constants, carries and one entry of each stack to carries and entries.
        consts: what every turn takes.
        carries: what the first turn takes, and each hands on.
        stacks: of which each turn takes an entry.
        length: the number of turns.
        reverse: whether the first turn takes the last entries.
        unroll: how many turns stand in one of the compiled loop.
    """

    body: ClosedJaxpr
    consts: list[Atom]
    carries: list[Atom]
    stacks: list[Atom]
    length: int
    reverse: bool
    unroll: Any


def scan_of(eqn: JaxprEqn) -> Scan:
    """The parts of the equation; JAX's versions number them in different ways."""
    body: ClosedJaxpr = eqn.params["jaxpr"]
    stacked = [
        type_of(outer).ndim > type_of(inner).ndim
        for outer, inner in zip(eqn.invars, body.jaxpr.invars, strict=True)
    ]
    carries = carries_of(eqn)
    consts = len(eqn.invars) - sum(stacked) - carries
    return Scan(
        body,
        list(eqn.invars[:consts]),
        list(eqn.invars[consts : consts + carries]),
        list(eqn.invars[consts + carries :]),
        eqn.params["length"],
        eqn.params["reverse"],
        eqn.params["unroll"],
    )


def carries_of(eqn: JaxprEqn) -> int:
    """How many of the results of a ``scan`` are carries; all others are stacks."""
    body: ClosedJaxpr = eqn.params["jaxpr"]
    pairs = zip(eqn.outvars, body.jaxpr.outvars, strict=True)
    return sum(type_of(outer).ndim == type_of(inner).ndim for outer, inner in pairs)


def is_stack(block: Block, value: Atom) -> bool:
    """Whether a scan of this block returns the value as a stack."""
    maker = block.maker(value)
    if maker is None or maker.primitive is not scan_p:
        return False
    return maker.outvars.index(value) >= carries_of(maker)


class Woven(NamedTuple):
    """The leaves of an update that a ``scan`` makes the gradients of.

    Attributes:
        grads: for each leaf, which of the results of the body, behind the carries, it is.
        changed: for each leaf, what makes its gradient of that result and of its scalars.
        read_as: for each of the scan's stacks the leaf whose parameters it is, or None.
    """

    grads: Sequence[int]
    changed: Sequence[Callable[[jax.Array, Sequence[jax.Array]], jax.Array]]
    read_as: Sequence[int | None]


def woven_scan(
    scan: Scan, woven: Woven, operands: Sequence[Any], scalars: Sequence[Any]
) -> list[Any]:
    """The scan, in which each turn also updates its entry of the parameters and moments.

    Args:
        scan: what it was.
        woven: the leaves.
        operands: the arrays in the place of the scan's constants, carries and those of its stacks
            that are no parameters; then the table of coefficients; then the parameters, first and
            second moments of all leaves.
        scalars: for each leaf, those that its ``woven.changed`` takes.

    Returns:
        The carries and stacks that the scan returned, but for the gradients; then the parameters,
        first and second moments.
    """
    given = iter(operands)
    consts = [next(given) for _ in scan.consts]
    carries = [next(given) for _ in scan.carries]
    stacks = [next(given) for leaf in woven.read_as if leaf is None]
    table, *updated = given
    leaves = len(woven.grads)
    read_by_body = scan.body.jaxpr.invars[len(consts) + len(carries) :]
    shapes = [type_of(var).shape for var in read_by_body]

    def turn(carried: Any, taken: Any) -> Any:
        (carries, updated), (index, entries) = carried, taken
        rest = iter(entries)
        read = [
            next(rest) if leaf is None else entry_of(updated[leaf], index).reshape(shape)
            for leaf, shape in zip(woven.read_as, shapes, strict=True)
        ]
        results = jaxpr_as_fun(scan.body)(*consts, *carries, *read)
        carries, made = results[: len(carries)], results[len(carries) :]
        grads = [
            changed(_as_stored(made[i]), own)
            for i, changed, own in zip(woven.grads, woven.changed, scalars, strict=True)
        ]
        params, moments = updated[:leaves], updated[leaves:]
        # The update must come after all that reads the entry, of which the carries are made.
        updated = bind_entry(index, table, *params, *grads, *moments, *carries, leaves=leaves)
        kept = [x for i, x in enumerate(made) if i not in woven.grads]
        return (carries, updated), kept

    numbers = jnp.arange(scan.length, dtype=jnp.int32)
    (carries, updated), kept = jax.lax.scan(
        turn,
        (carries, updated),
        (numbers, stacks),
        length=scan.length,
        reverse=scan.reverse,
        unroll=scan.unroll,
    )
    return [*carries, *kept, *updated]


def _as_stored(grad: jax.Array) -> jax.Array:
    """The gradient with the rounding that a stack of bfloat16 would have forced on it.

    XLA computes such in float32, and leaves out conversions there and back within one loop.
    """
    if grad.dtype != jnp.bfloat16:
        return grad
    bits: Any = jnp.finfo(jnp.bfloat16)  # type: ignore[no-untyped-call]
    wide = grad.astype(jnp.float32)
    return jax.lax.reduce_precision(wide, bits.nexp, bits.nmant).astype(grad.dtype)
