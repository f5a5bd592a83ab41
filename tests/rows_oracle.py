"""What the update of some rows must do to a table, written in numpy; no code is shared with it."""

from collections.abc import Mapping

import numpy as np
import oracle


def summed_rows(
    indices: np.ndarray, grads: np.ndarray, height: int, dtype: np.dtype
) -> dict[int, np.ndarray]:
    """Of each row that occurs, the sum of its gradients in the order in which they occur."""
    sums: dict[int, np.ndarray] = {}
    for place, index in enumerate(indices.tolist()):
        if 0 <= index < height:
            grad = grads[place].astype(dtype)
            sums[index] = sums[index] + grad if index in sums else grad
    return sums


def updated_rows(
    row: np.ndarray, indices: np.ndarray, grads: np.ndarray, table: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The table, of parameters, mu and nu in the row's dtype, behind the step."""
    new = {name: x.copy() for name, x in table.items()}
    sums = summed_rows(indices, grads, len(table["params"]), row.dtype)
    for i, grad in sums.items():
        params, _, mu, nu = oracle.rule(
            row, table["params"][i], grad, table["mu"][i], table["nu"][i]
        )
        new["params"][i], new["mu"][i], new["nu"][i] = params, mu, nu
    return new
