"""The derivative of a primitive by its reference rule."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.interpreters import ad


def tangents_of(
    rule: Callable[..., list[jax.Array]], primals: Sequence[Any], tangents: Sequence[Any]
) -> list[jax.Array]:
    """The tangents of the rule's results.

    What has no tangent is a constant of the rule: zeros in its place would have to have its
    sharding, and would meet derivatives that are infinite.

    Args:
        rule: of all operands; jitted, for what is closed over shows its sharding only to what is.
        primals: the operands.
        tangents: of the operands, as JAX gives them to a primitive's rule: symbolic zeros among
            them.
    """
    varied = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

    def rule_of_varied(*operands: jax.Array) -> list[jax.Array]:
        given = list(primals)
        for i, operand in zip(varied, operands, strict=True):
            given[i] = operand
        return rule(*given)

    points = tuple(primals[i] for i in varied)
    results: list[jax.Array]
    _, results = jax.jvp(rule_of_varied, points, tuple(tangents[i] for i in varied))
    return results
