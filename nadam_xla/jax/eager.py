"""How a primitive runs where nothing is traced: compiled by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive


def run_eagerly(
    primitive: Primitive, compiled: Callable[..., Sequence[jax.Array]], operands: Sequence[Any]
) -> list[jax.Array]:
    """The results of the compiled function, on a primitive's operands.

    Raises:
        FloatingPointError: ``jax_debug_nans`` or ``jax_debug_infs`` is on, and a result has one.
    """
    sought = [
        kind
        for kind, is_on in {
            "nan": jax.config.jax_debug_nans,  # type: ignore[attr-defined]
            "inf": jax.config.jax_debug_infs,  # type: ignore[attr-defined]
        }.items()
        if is_on
    ]
    # JAX would look for them itself, and then run the function again without compiling it; but
    # here there is no other way to run it.
    with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
        results = list(compiled(*operands))
        for kind in sought:
            is_bad = jnp.isnan if kind == "nan" else jnp.isinf
            if any(bool(is_bad(x).any()) for x in results):
                raise FloatingPointError(f"invalid value ({kind}) encountered in {primitive.name}")
    return results
