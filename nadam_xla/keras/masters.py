"""Master weights: the optimizer's variables beside narrow ones of the model.

The fused step updates both. What else writes to a variable of the model has to let its master
follow, for a step begins at the master.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops
from keras.backend import standardize_dtype

from nadam_xla.keras import backend_step
from nadam_xla.keras.optimizer_state import master_of
from nadam_xla.storage import NARROW, why_no_master


def add_masters(optimizer: Any, variables: Sequence[Any]) -> list[Any | None]:
    """Adds a master for each of these that needs one; None in the place of all others.

    Args:
        optimizer: ours, with a kind of master weights.
        variables: of the model.

    Raises:
        TypeError: a variable cannot have such a master.
    """
    needy = [_needs_master(optimizer, v) for v in variables]
    for variable in (v for v, needs in zip(variables, needy, strict=True) if needs):
        stored = standardize_dtype(variable.dtype)
        reason = why_no_master(optimizer.master, stored)
        if reason is not None:
            raise TypeError(f"the variable {_name_of(variable)} is {stored}: {reason}")
    masters = [
        optimizer.add_variable_from_reference(v, name="master") if needs else None
        for v, needs in zip(variables, needy, strict=True)
    ]
    renew(variables, masters)
    return masters


def renew(variables: Sequence[Any], masters: Sequence[Any | None]) -> None:
    """Makes the masters those of the variables as they stand now."""
    with backend_step.eagerly():
        for variable, master in zip(variables, masters, strict=True):
            if master is not None:
                master.assign(_as_new(backend_step.to_tensor(variable), master))


def overwrite(optimizer: Any, variable: Any, value: Any) -> None:
    """Writes to a variable of the model, and where that changes it, to its master.

    Where it stays what it is, so does the master, which knows it better.
    """
    master = master_of(optimizer, variable)
    if master is None:
        optimizer.assign(variable, value)
        return
    before = backend_step.to_tensor(variable)
    optimizer.assign(variable, value)
    after = backend_step.to_tensor(variable)
    kept = backend_step.to_tensor(master)
    optimizer.assign(master, ops.where(ops.equal(before, after), kept, _as_new(after, master)))


def _needs_master(optimizer: Any, variable: Any) -> bool:
    is_narrow = standardize_dtype(variable.dtype) in NARROW
    return is_narrow and not optimizer._overwrite_variable_with_gradient(variable)


def _as_new(value: Any, master: Any) -> Any:
    """The master of a variable that has just this value."""
    dtype = standardize_dtype(master.dtype)
    # Of the bits that the variable lacks none is there.
    return ops.cast(value, dtype) if dtype == "float32" else ops.zeros(value.shape, dtype)


def _name_of(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))
