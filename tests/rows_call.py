"""The custom call that updates some rows of a table, on arrays of numpy, and the same on a GPU's
kernels run on the host.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from stored_arrays import misaligned, stored
from update_call import BITS

from nadam_xla import _native_testing as native
from nadam_xla.workspace import rows_workspace_bytes

TARGET = "nadam_xla_update_rows_v1"
Table = Mapping[str, np.ndarray]


def traced_rows(
    coefficients: Any,
    indices: Any,
    grads: Any,
    table: Mapping[str, Any],
    *,
    stochastic: bool = False,
    first_row: int = 0,
    touched: int | None = None,
    aliases: bool = True,
) -> dict[str, jax.Array]:
    """The call inside of a program; ``table`` has parameters, mu, nu and perhaps a master."""
    names = [
        name for name in ("params", "grads", "mu", "nu", "master") if name in table | {"grads": 0}
    ]
    states = [name for name in names if name != "grads"]
    workspace = rows_workspace_bytes(indices.shape[-1] if touched is None else touched)
    results = [jax.ShapeDtypeStruct(table[name].shape, table[name].dtype) for name in states]
    results.append(jax.ShapeDtypeStruct((workspace,), np.uint8))
    operands = [grads if name == "grads" else table[name] for name in names]
    call = jax.ffi.ffi_call(
        TARGET,
        results,
        input_output_aliases=(
            {2 + names.index(name): i for i, name in enumerate(states)} if aliases else None
        ),
    )
    made = call(
        coefficients,
        indices,
        *operands,
        streams=np.int64(sum(1 << BITS[name] for name in names)),
        first_row=np.int64(first_row),
        rounding=np.int64(stochastic),
    )
    return dict(zip(states, made[:-1], strict=True))


def update_rows(*operands: Any, **choices: Any) -> dict[str, np.ndarray]:
    """The same, of arrays that the caller keeps."""
    made = jax.jit(partial(traced_rows, **choices))(*operands)
    return {name: np.asarray(x) for name, x in made.items()}


def order_of(indices: np.ndarray) -> np.ndarray:
    """The order in which they ascend, as a GPU's call is told it."""
    return np.argsort(indices, axis=-1, kind="stable").astype(np.int32)


def streams_of(table: Table) -> int:
    """The attribute ``streams`` of a call on this table."""
    return sum(1 << BITS[name] for name in [*table, "grads"])


def update_rows_as_on_gpu(
    coefficients: np.ndarray,
    indices: np.ndarray,
    grads: np.ndarray,
    table: Table,
    *,
    order: np.ndarray | None = None,
    first_row: int = 0,
    stochastic: bool = False,
    shift: int = 0,
    **choices: Any,
) -> tuple[dict[str, np.ndarray], int]:
    """A table behind the step, and the number of launches.

    Args:
        coefficients: ``[batch, rows, K]``.
        indices: ``[batch, touched]``.
        grads: ``[batch, touched, columns]``.
        table: parameters, mu, nu and perhaps a master, each ``[batch, height, columns]``. It stays.
        order: of the indices; None: the one that there must be.
        first_row: of the coefficients.
        stochastic: how what is narrow is rounded.
        shift: so many elements beyond a boundary of 16 bytes each array stands.
        choices: of the launch.
    """
    new = {name: misaligned(x.ravel(), shift) for name, x in table.items()}
    inputs = [new["params"], misaligned(grads.ravel(), shift), *list(new.values())[1:]]
    launches = native.update_rows_as_on_gpu(
        coefficients.ravel(),
        len(coefficients),
        coefficients.shape[1],
        first_row,
        stored(inputs),
        streams_of(table),
        stochastic,
        indices.ravel(),
        (order_of(indices) if order is None else order).ravel(),
        grads.shape[-1],
        **choices,
    )
    return {name: x.reshape(table[name].shape) for name, x in new.items()}, launches
