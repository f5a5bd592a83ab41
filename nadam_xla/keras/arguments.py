"""The arguments of the Keras optimizer, checked where it is made."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

from nadam_xla.coefficients import check_decay_rate, check_not_negative
from nadam_xla.keras.step_hyperparameters import check_is_number

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
    loss_scale = given["loss_scale_factor"]
    if isinstance(loss_scale, Real) and loss_scale == 0:
        raise ValueError(f"loss_scale_factor is {loss_scale!r}; it must not be zero")
