"""How a primitive is defined: from the types of its results, its meaning, and its batching."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from nadam_xla.jax.eager import run_eagerly
from nadam_xla.jax.tangents import tangents_of


def define(
    name: str,
    *,
    abstract_eval: Callable[..., Sequence[Any]],
    reference: Callable[..., list[jax.Array]],
    batch: Callable[..., tuple[Sequence[jax.Array], Sequence[int]]],
    derivative: Callable[..., list[jax.Array]] | None = None,
) -> Primitive:
    """A primitive with several results. How it is lowered is not said here.

    Where nothing is traced, it is compiled by itself. A derivative is that of the reference, at
    values that are the primitive's own.

    Args:
        name: under which programs show it.
        abstract_eval: the types of the results, of those of the operands.
        reference: the results, by JAX's own differentiable operations.
        batch: the results and their batch axes, of the operands and of theirs, None for none.
        derivative: what has the derivatives of the reference, and may have other values; None: the
            reference.
        Each takes the primitive's parameters by keyword.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    @cache
    def compiled(**parameters: Any) -> Callable[..., list[jax.Array]]:
        return jax.jit(partial(primitive.bind, **parameters))

    @cache
    def differentiable(**parameters: Any) -> Callable[..., list[jax.Array]]:
        return jax.jit(partial(derivative or reference, **parameters), inline=True)

    def run(*operands: jax.Array, **parameters: Any) -> list[jax.Array]:
        return run_eagerly(primitive, compiled(**parameters), operands)

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **parameters: Any) -> tuple[Any, Any]:
        values = primitive.bind(*primals, **parameters)
        return values, tangents_of(differentiable(**parameters), primals, tangents)

    primitive.def_impl(run)
    primitive.def_abstract_eval(abstract_eval)
    batching.primitive_batchers[primitive] = batch
    ad.primitive_jvps[primitive] = jvp
    return primitive
