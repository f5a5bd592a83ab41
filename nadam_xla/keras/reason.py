"""Why a step is not fused."""

from typing import NamedTuple


class Reason(NamedTuple):
    """Why a step is the parent's own update."""

    text: str
    is_expected: bool = False
    """Whether it is as wanted, or as nobody would have it otherwise: then no warning is due."""
