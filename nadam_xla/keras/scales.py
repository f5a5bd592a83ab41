"""Moments in codes of eight bits: their scales, and what is read from a file in their place."""

from collections.abc import Sequence
from typing import Any

from keras.backend import is_float_dtype, standardize_dtype

from nadam_xla.blockwise import CODES
from nadam_xla.keras.storage_choice import SCALES
from nadam_xla.storage import BLOCKWISE


def add_scales(optimizer: Any, variables: Sequence[Any]) -> dict[str, list[Any | None] | None]:
    """Adds the scales of each moment that is in codes.

    Returns:
        By the name of the variables the scales, with None in the place of variables whose moment is
        not in codes; None where no such moments were chosen.
    """
    added: dict[str, list[Any | None] | None] = {}
    for name, moment in SCALES.items():
        is_chosen = getattr(optimizer, f"{moment}_dtype") == BLOCKWISE
        added[name] = [_added(optimizer, v, name) for v in variables] if is_chosen else None
    return added


def moment_in_codes(optimizer: Any, variable: Any) -> str | None:
    """Which moment of a variable is in codes, in words; None where neither is."""
    index = optimizer._get_variable_index(variable)
    for moment, scales in (
        ("momentum", optimizer._momentum_scales),
        ("velocity", optimizer._velocity_scales),
    ):
        if scales is not None and scales[index] is not None:
            return moment
    return None


def check_stored(optimizer: Any, store: Any) -> None:
    """Checks that a file has whole numbers where the optimizer has them, and no others.

    Args:
        optimizer: built.
        store: its variables in the file, by their numbers.

    Raises:
        ValueError: codes would be taken for numbers, or numbers for codes; or likewise the bits of
            master weights.
    """
    for i, variable in enumerate(optimizer.variables):
        if variable is optimizer._iterations:  # of 32 bits or 64, by the backend
            continue
        own, found = standardize_dtype(variable.dtype), standardize_dtype(store[str(i)].dtype)
        if _kind(own) != _kind(found):
            raise ValueError(
                f"{optimizer.name} keeps {variable.path} as {own}, and the file has {found} in its"
                " place: it was saved with another momentum_dtype, velocity_dtype or master"
            )


def _kind(dtype: str) -> str:
    """Within which one dtype may be read as another."""
    if is_float_dtype(dtype):
        return "float"
    # Wider ones are the bits of a master, which torch keeps as int32.
    return dtype if dtype in CODES.values() else "int"


def _added(optimizer: Any, variable: Any, name: str) -> Any | None:
    has_moments = not optimizer._overwrite_variable_with_gradient(variable)
    if has_moments and optimizer._storage.is_in_codes(SCALES[name], variable):
        return optimizer.add_variable_from_reference(variable, name=name)
    return None
