"""Arrays from and for libraries that this package does not import."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nadam_xla.calls import compute_dtype
from nadam_xla.jax.blockwise import Moment, as_numbers
from nadam_xla.jax.blockwise_state import moments_like
from nadam_xla.jax.checks import PyTree, check_alike, describe
from nadam_xla.jax.dtypes import is_complex
from nadam_xla.jax.state import NadamState


def moment_from(value: Any) -> jax.Array:
    """A copy of a moment, in the dtype in which it is computed.

    Args:
        value: what numpy can convert, or else what speaks DLPack (as a bfloat16 tensor of PyTorch).

    Raises:
        TypeError: it is complex.
    """
    try:
        array: Any = np.asarray(value)
    except TypeError:
        array = jnp.from_dlpack(value)
    _check_real(array)
    return jnp.array(array, compute_dtype(str(array.dtype)), copy=True)


def moment_to(value: Any) -> np.ndarray:
    """A copy of a moment, in the dtype in which it is computed: every library knows it.

    Raises:
        TypeError: it is complex.
    """
    array = np.asarray(value)
    _check_real(array)
    return array.astype(compute_dtype(str(array.dtype)))


def state_like(state: NadamState, like: NadamState | None) -> NadamState:
    """The state, its moments stored as those of another are; None: as they are.

    Raises:
        TypeError: the other is not a ``NadamState``.
        ValueError: the moments of the two differ in structure or shape.
    """
    if like is None:
        return state
    if not isinstance(like, NadamState):
        raise TypeError(f"like is {describe(like)}; it must be a NadamState")
    return state._replace(mu=stored_like(state, like, "mu"), nu=stored_like(state, like, "nu"))


def stored_like(state: Any, like: Any, moment: Moment) -> PyTree:
    """One of the moments of a state, stored as that of another state is.

    Raises:
        ValueError: they differ in structure or shape.
    """
    tree, like_tree = getattr(state, moment), getattr(like, moment)
    numbers = {f"like.{moment}": as_numbers(like_tree), f"state.{moment}": as_numbers(tree)}
    check_alike(numbers)
    return moments_like(tree, like_tree, moment)


def _check_real(moment: Any) -> None:
    if is_complex(moment):
        raise TypeError(
            f"a moment is {describe(moment)}; only real ones convert, for of a complex parameter"
            " PyTorch squares real and imaginary part apart, and Keras trains none"
        )


def check_has_only_moments(state: NadamState) -> None:
    """Raises ``ValueError`` for a state that holds what the state of no other optimizer does."""
    if state.master is not None:
        raise ValueError(
            "state.master is given, and no other optimizer has such: what it holds of the"
            " parameters would be lost (state._replace(master=None) leaves it out)"
        )
    if state.average is not None:
        raise ValueError(
            "state.average is given, and the states of other optimizers hold no average of the"
            " parameters: it would be lost (state._replace(average=None) leaves it out)"
        )


def carried_product(state: NadamState) -> float:
    """The product of the momenta, for a library whose momentum follows a schedule.

    Raises:
        TypeError: the state is not a ``NadamState``.
        ValueError: the state carries no product, or master weights or averages.
    """
    if not isinstance(state, NadamState):
        raise TypeError(f"state is {describe(state)}; it must be a NadamState")
    check_has_only_moments(state)
    if state.momentum_product is None:
        raise ValueError(
            "state.momentum_product is None: its momentum was constant (momentum_decay=None), and"
            " theirs follows a schedule"
        )
    return float(state.momentum_product)
