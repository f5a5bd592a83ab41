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


def check_variables(optimizer: Any, variables: Sequence[Any]) -> None:
    """Checks that they can have masters of the optimizer's kind, where they need them.

    Raises:
        TypeError: a variable cannot have such a master.
        RuntimeError: a variable has no value yet, and its master would begin at it.
    """
    for variable in variables:
        if _needs_master(optimizer, variable):
            dtype = standardize_dtype(variable.dtype)
            reason = why_no_master(optimizer.master, dtype)
            if reason is not None:
                raise TypeError(f"the variable {_name_of(variable)} is {dtype}: {reason}")
            if optimizer.master == "float32":
                with backend_step.eagerly():
                    _value_of(variable)


def add_masters(optimizer: Any, variables: Sequence[Any]) -> list[Any | None] | None:
    """Adds a master for each of these that needs one.

    Returns:
        The masters, with None in the place of variables that need none; None where the optimizer
        has no kind of masters.
    """
    if optimizer.master is None:
        return None
    masters = [
        optimizer.add_variable_from_reference(v, name="master")
        if _needs_master(optimizer, v)
        else None
        for v in variables
    ]
    if optimizer.master == "float32":  # others begin at zero, as they are added
        renew(variables, masters)
    return masters


def renew(variables: Sequence[Any], masters: Sequence[Any | None]) -> None:
    """Makes the masters those of the variables as they stand now.

    Raises:
        RuntimeError: a variable has no value yet.
    """
    with backend_step.eagerly():
        for variable, master in zip(variables, masters, strict=True):
            if master is not None:
                master.assign(_as_new(_value_of(variable), master))


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
    if optimizer.master is None or optimizer._overwrite_variable_with_gradient(variable):
        return False
    return standardize_dtype(variable.dtype) in NARROW


def _value_of(variable: Any) -> Any:
    value = backend_step.to_tensor(variable)
    # What a function of TensorFlow's makes while it is traced, it gives a value behind that.
    if tuple(value.shape) != tuple(variable.shape):
        raise RuntimeError(
            f"the variable {_name_of(variable)} has no value yet, at which its master would begin;"
            " build model and optimizer outside of the function that trains them"
        )
    return value


def _name_of(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _as_new(value: Any, master: Any) -> Any:
    """The master of a variable that has just this value."""
    dtype = standardize_dtype(master.dtype)
    # Of the bits that the variable lacks none is there.
    return ops.cast(value, dtype) if dtype == "float32" else ops.zeros(value.shape, dtype)
