"""The arguments of the Keras optimizer, checked where it is made."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from keras.backend import standardize_dtype

from nadam_xla.coefficients import check_decay_rate, check_not_negative
from nadam_xla.keras.step_hyperparameters import check_is_number
from nadam_xla.storage import STORED, check_master, check_rounding, check_seed

_NUMBERS = ("beta_1", "beta_2", "epsilon", "ema_momentum")
_NUMBERS_OR_NONE = (
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)
_MAY_BE_CALLABLE = ("beta_1", "beta_2")


def check_arguments(given: Mapping[str, Any]) -> None:
    """Checks those that stock leaves to the first step, or to nobody.

    Args:
        given: the arguments by their names.

    Raises:
        TypeError: what should be a number is none.
        ValueError: a number is out of its range.
    """
    for name in _NUMBERS:
        if not (name in _MAY_BE_CALLABLE and callable(given[name])):
            check_is_number(name, given[name])
    for name in _NUMBERS_OR_NONE:
        if given[name] is not None:
            check_is_number(name, given[name])
    for name in _MAY_BE_CALLABLE:
        check_decay_rate(name, given[name])
    check_not_negative("epsilon", given["epsilon"])
    check_rounding(given["rounding"])
    check_master(given["master"])
    check_seed(given["seed"])
    if isinstance(given["seed"], bool) or not isinstance(given["seed"], Integral):
        raise TypeError(f"seed is {given['seed']!r}; it must be a whole number")
    loss_scale = given["loss_scale_factor"]
    if isinstance(loss_scale, Real) and loss_scale == 0:
        raise ValueError(f"loss_scale_factor is {loss_scale!r}; it must not be zero")


def checked_dtype(name: str, dtype: Any) -> str | None:
    """The name of a dtype in which moments may be kept; None where none was given.

    Args:
        name: of the argument.
        dtype: as Keras and its backend know dtypes.

    Raises:
        ValueError: it is another.
    """
    if dtype is None:
        return None
    try:
        standardized: str = standardize_dtype(dtype)
    except ValueError:
        standardized = ""
    if standardized not in STORED:
        raise ValueError(f"{name} is {dtype!r}; it must be None or one of {', '.join(STORED)}")
    return standardized
