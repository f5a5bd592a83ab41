"""For the backends that have no fused step."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

eagerly = nullcontext
after = nullcontext


def serves(optimizer: Any, trainable_variables: Sequence[Any]) -> bool:
    """No variables."""
    del optimizer, trainable_variables
    return False


def step(optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
    """Never called, for ``serves`` says no."""
    raise NotImplementedError
