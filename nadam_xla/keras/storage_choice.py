"""The arguments of the Keras optimizer that stock does not know: how numbers are stored."""

from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from keras.backend import standardize_dtype

from nadam_xla.storage import (
    BLOCKWISE,
    MASTER_DTYPES,
    STORED,
    Master,
    Rounding,
    check_master,
    check_rounding,
    check_seed,
)


@dataclass(frozen=True, kw_only=True)
class StorageChoice:
    """These arguments, checked; see :class:`nadam_xla.keras.Nadam` for their meaning.

    Raises:
        TypeError: the seed is no whole number.
        ValueError: it has more than 32 bits; a dtype, a rounding or a kind of masters is unknown.
    """

    momentum_dtype: str | None = None
    velocity_dtype: str | None = None
    rounding: Rounding = "nearest"
    seed: int = 0
    master: Master | None = None

    def __post_init__(self) -> None:  # noqa: D105
        for name in ("momentum_dtype", "velocity_dtype"):
            object.__setattr__(self, name, _checked_dtype(name, getattr(self, name)))
        check_rounding(self.rounding)
        check_master(self.master)
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise TypeError(f"seed is {self.seed!r}; it must be a whole number")
        check_seed(self.seed)
        object.__setattr__(self, "seed", int(self.seed))

    def config(self) -> dict[str, Any]:
        """Those that are not at their defaults."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in given.items() if value != defaults[name]}

    def dtype_of_added(self, name: str | None) -> str | None:
        """The dtype of an optimizer's variable that is added under this name; None: not chosen."""
        dtypes = {"momentum": self.momentum_dtype, "velocity": self.velocity_dtype}
        if self.master is not None:
            dtypes["master"] = MASTER_DTYPES[self.master]
        return dtypes.get(name) if name is not None else None


def _checked_dtype(name: str, dtype: Any) -> str | None:
    """The name of a dtype, which may be one of Keras's, its backend's or numpy's."""
    if dtype is None:
        return None
    try:
        standardized: str = standardize_dtype(dtype)
    except ValueError:
        standardized = ""
    if dtype == BLOCKWISE:
        raise ValueError(
            f"{name} is {dtype!r}; moments in codes of eight bits are those of nadam_xla.jax.nadam:"
            " a variable of Keras's has one array, and these are two"
        )
    if standardized not in STORED:
        raise ValueError(f"{name} is {dtype!r}; it must be None or one of {', '.join(STORED)}")
    return standardized
