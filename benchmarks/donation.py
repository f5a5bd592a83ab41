"""Jitted steps that give up their parameters and state, and get them back updated."""

from collections.abc import Callable, Iterable
from typing import Any

import jax


def carrying(compiled: Any, carry: Any, calls: Iterable[tuple[Any, ...]]) -> Callable[[], None]:
    """A contender that calls ``carry = compiled(*carry, *call)`` for each call, and waits.

    Args:
        compiled: returns the next carry; it may donate the one that it is given.
        carry: the first.
        calls: the other arguments of each call.
    """
    calls = list(calls)

    def contender() -> None:
        nonlocal carry
        for call in calls:
            carry = compiled(*carry, *call)
        jax.block_until_ready(carry)

    return contender
