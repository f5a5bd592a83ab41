"""Master weights of tensors: what is kept beside parameters that are narrower than float32."""

from collections.abc import Sequence
from typing import Any

from nadam_xla.storage import MASTER_DTYPES, MASTERS, why_no_master


def check_masters(masters: Sequence[Any | None], params: Sequence[Any]) -> None:
    """Checks that each parameter has a master that can be one of it, or none.

    Args:
        masters: tensors or variables; None of each parameter that has none.
        params: tensors.

    Raises:
        ValueError: there are more or fewer masters than parameters, or one has another shape.
        TypeError: a master is not one of its parameter.
    """
    if len(masters) != len(params):
        raise ValueError(f"master has {len(masters)} tensors; it must have {len(params)}")
    for i, (master, param) in enumerate(zip(masters, params, strict=True)):
        if master is not None:
            check_master(f"master[{i}]", master, f"params[{i}]", param.dtype, param.shape)


def check_master(name: str, master: Any, of_name: str, of_dtype: Any, of_shape: Any) -> None:
    """Checks that it can be the master of a parameter.

    Args:
        name: of the master.
        master: a tensor or a variable.
        of_name: of the parameter.
        of_dtype: its dtype.
        of_shape: its shape.

    Raises:
        ValueError: the master has another shape.
        TypeError: it is not one of parameters of this dtype.
    """
    kind = next((kind for kind in MASTERS if MASTER_DTYPES[kind] == master.dtype.name), None)
    if kind is None:
        known = ", ".join(MASTER_DTYPES.values())
        raise TypeError(f"{name} has the dtype {master.dtype.name}; it must be one of {known}")
    reason = why_no_master(kind, of_dtype.name)
    if reason is not None:
        raise TypeError(
            f"{name} has the dtype {master.dtype.name}; it cannot be the master of {of_name},"
            f" which has the dtype {of_dtype.name}: {reason}"
        )
    if master.shape != of_shape:
        raise ValueError(
            f"{name} has the shape {master.shape}; it must be that of {of_name}, {of_shape}"
        )
