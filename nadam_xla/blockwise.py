"""Moments in codes of eight bits with a float32 scale for each block: which, and of what shapes.

A block is 256 neighbours along a leaf's last axis, or what is left of them at its end. So codes
have the leaf's shape, and scales its leading dimensions. kernels/blockwise.h has the codes, and
:mod:`nadam_xla.jax.blockwise` has them in jax.numpy.
"""

from math import prod

from nadam_xla.calls import compute_dtype

BLOCK = 256

CODES = {"mu": "int8", "nu": "uint8"}
"""The dtype of the codes of each moment: the first is signed, and the second is not negative."""

SCALES = {name: f"{name}_scales" for name in CODES}
"""The stream of the scales of each moment."""

_SHORTEST_ROW = 64
_SMALLEST = 4096


def is_quantized(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether the moments of such a leaf are worth their scales: others stay as they are computed.

    Scalars and empty leaves are not, nor are complex ones and those of float64, whose users ask
    for more than eight bits.

    Args:
        shape: the leaf's.
        dtype: the name of the parameter's.
    """
    is_real = not dtype.startswith("complex") and compute_dtype(dtype) == "float32"
    return is_real and bool(shape) and shape[-1] >= _SHORTEST_ROW and prod(shape) >= _SMALLEST


def scales_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales of a leaf of this shape, which has a last axis."""
    return (*shape[:-1], -(-shape[-1] // BLOCK))
