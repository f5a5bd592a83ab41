"""The dtypes in which leaves are computed, and those in which the kernels read and write them."""

from typing import Any

import jax
import jax.numpy as jnp

from nadam_xla.blockwise import CODES
from nadam_xla.calls import compute_dtype
from nadam_xla.storage import MASTER_DTYPES, STORED


def is_complex(leaf: Any) -> bool:
    """Whether an array, or what stands for one, or a dtype, is complex."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating))


def computed_dtype(stored: Any, dtype: Any = None) -> Any:
    """The dtype in which an array is computed.

    Args:
        stored: the array, or its dtype.
        dtype: that of real numbers and of the parts of complex ones; None: what an array that is
            stored so asks for.
    """
    part = compute_dtype(str(jnp.result_type(stored))) if dtype is None else dtype
    return jnp.promote_types(part, jnp.complex64) if is_complex(stored) else jnp.dtype(part)


def stored_dtype(dtype: Any) -> Any:
    """The dtype in which the kernels get an array: its own, where they read and write that."""
    known = str(dtype) in (*STORED, *CODES.values(), *MASTER_DTYPES.values())
    return jnp.dtype(dtype if known else compute_dtype(str(dtype)))


def as_stored(x: jax.Array) -> jax.Array:
    """The array as the kernels get it."""
    return x.astype(stored_dtype(x.dtype))


def cast(x: jax.Array, dtype: Any) -> jax.Array:
    """The array in another dtype: a real one takes the real part."""
    return (x.real if is_complex(x) and not is_complex(dtype) else x).astype(dtype)
