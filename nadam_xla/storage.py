"""How numbers may be stored; kernels/storage.h has the same.

A leaf's arrays may each be stored in a dtype of its own. Parameters narrower than float32 may have
master weights beside them, in which small changes add up that they themselves are too coarse for.
"""

from numbers import Integral
from typing import Literal, TypeAlias, get_args

Rounding: TypeAlias = Literal["nearest", "stochastic"]
Master: TypeAlias = Literal["float32", "remainder", "correction"]

ROUNDINGS: tuple[str, ...] = get_args(Rounding)
MASTERS: tuple[Master, ...] = get_args(Master)

NARROW = ("bfloat16", "float16")
"""The dtypes of stored numbers that the kernels widen to float32 themselves."""

STORED = ("float32", "float64", *NARROW)
"""The dtypes that the kernels read and write."""

BLOCKWISE = "blockwise8"
"""What stands for a moment's dtype where it is stored in codes of eight bits."""

MASTER_DTYPES = {"float32": "float32", "remainder": "uint16", "correction": "uint8"}
"""The dtype of the master weights of each kind."""


def check_rounding(rounding: object) -> None:
    """Raises ``ValueError`` for what is no kind of rounding."""
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding is {rounding!r}; it must be one of {', '.join(ROUNDINGS)}")


def check_seed(seed: object) -> None:
    """Raises ``ValueError`` for a number of more than 32 bits. Arrays pass unseen."""
    if isinstance(seed, Integral) and not 0 <= int(seed) < 1 << 32:
        raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to 2**32 - 1")


def check_master(master: object) -> None:
    """Raises ``ValueError`` for what is neither None nor a kind of master weights."""
    if master is not None and master not in MASTERS:
        raise ValueError(f"master is {master!r}; it must be None or one of {', '.join(MASTERS)}")


def why_no_master(master: Master, dtype: str) -> str | None:
    """What keeps parameters of this dtype from having such master weights; None: nothing.

    Args:
        master: the kind.
        dtype: of parameters narrower than float32.
    """
    if dtype not in NARROW:
        return f"master weights are those of {' and '.join(NARROW)} parameters"
    if master == "float32" or dtype == "bfloat16":
        return None
    return (
        f"a {master} completes a bfloat16, which has the exponents of a float32; float16 has fewer,"
        ' and no such bits complete it (use master="float32")'
    )
