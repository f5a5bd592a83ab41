"""The arguments of the Keras optimizer that stock does not know: how numbers are stored."""

from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from keras.backend import standardize_dtype

from nadam_xla.blockwise import CODES, is_quantized
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

SCALES = {"momentum_scales": "momentum", "velocity_scales": "velocity"}
"""For each name of variables that hold scales, the name of those that hold the codes."""

_STREAMS = {"momentum": "mu", "velocity": "nu"}


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

    @property
    def is_drawn(self) -> bool:
        """Whether random numbers may decide how something is rounded; of codes they always do."""
        has_codes = BLOCKWISE in (self.momentum_dtype, self.velocity_dtype)
        return has_codes or self.rounding == "stochastic"

    def is_in_codes(self, moment: str, variable: Any) -> bool:
        """Whether a moment of a variable of the model is in codes of eight bits.

        Args:
            moment: ``"momentum"`` or ``"velocity"``.
            variable: of which it is.
        """
        if getattr(self, f"{moment}_dtype") != BLOCKWISE:
            return False
        return is_quantized(tuple(variable.shape), standardize_dtype(variable.dtype))

    def dtype_of_added(self, name: str | None, reference: Any) -> str | None:
        """The dtype of an optimizer's variable that is added; None: not chosen.

        Args:
            name: under which it is added.
            reference: the variable of the model that it belongs to.
        """
        if name == "master" and self.master is not None:
            return MASTER_DTYPES[self.master]
        if name not in _STREAMS:
            return None
        chosen: str | None = getattr(self, f"{name}_dtype")
        if chosen != BLOCKWISE:
            return chosen
        return CODES[_STREAMS[name]] if self.is_in_codes(name, reference) else None


def _checked_dtype(name: str, dtype: Any) -> str | None:
    """The name of a dtype, which may be one of Keras's, its backend's or numpy's."""
    if dtype is None or (isinstance(dtype, str) and dtype == BLOCKWISE):
        return dtype
    try:
        standardized: str = standardize_dtype(dtype)
    except ValueError:
        standardized = ""
    if standardized not in STORED:
        known = ", ".join((*STORED, BLOCKWISE))
        raise ValueError(f"{name} is {dtype!r}; it must be None or one of {known}")
    return standardized
