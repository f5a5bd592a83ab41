"""The custom call of the update, on arrays of numpy, without the package's Python."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

STREAMS = ("params", "grads", "mu", "nu", "average", "master", "mu_scales", "nu_scales")
BITS = {
    "params": 0,
    "grads": 1,
    "mu": 2,
    "nu": 3,
    "average": 4,
    "master": 16,
    "mu_scales": 17,
    "nu_scales": 18,
}
STATES = ("mu", "nu", "average", "master", "mu_scales", "nu_scales")
Leaf = Mapping[str, np.ndarray]

K = 23
SEED_HIGH, SEED_LOW, STEP_HIGH, STEP_LOW, LEAF, SHARD = range(15, 21)


def with_key(
    table: np.ndarray, *, seed: int = 0, step: int = 0, first_leaf: int = 0, shard: int = 0
) -> np.ndarray:
    """The table, with the key of the random numbers in each row."""
    keyed = table.copy()
    halves = [seed >> 16, seed & 0xFFFF, step >> 16, step & 0xFFFF]
    keyed[..., SEED_HIGH : STEP_LOW + 1] = halves
    keyed[..., LEAF] = first_leaf + np.arange(table.shape[-2])
    keyed[..., SHARD] = shard
    return keyed


def update(
    table: np.ndarray,
    leaves: Sequence[Leaf],
    *,
    change: np.dtype | None = None,
    stochastic: bool = False,
    first_row: int = 0,
) -> list[dict[str, np.ndarray]]:
    """Of each leaf the results, by the streams that they are of.

    Args:
        table: ``[batch, rows, K]``.
        leaves: each with the same streams.
        change: the dtype in which the change of the parameters is returned in their place, under
            the name ``change``; None: it is not.
        stochastic: how what is narrow is rounded.
        first_row: of the leaves.
    """
    found = traced_update(table, leaves, change=change, stochastic=stochastic, first_row=first_row)
    return [{name: np.asarray(x) for name, x in of_leaf.items()} for of_leaf in found]


def traced_update(
    table: Any,
    leaves: Sequence[Mapping[str, Any]],
    *,
    change: np.dtype | None = None,
    stochastic: bool = False,
    first_row: int = 0,
) -> list[dict[str, jax.Array]]:
    """The same inside of a program."""
    streams = [name for name in STREAMS if name in leaves[0]]
    states = [name for name in STATES if name in streams]
    operands = [leaf[name] for name in streams for leaf in leaves]
    results = [
        *((leaf["grads"].shape, change or leaf["params"].dtype) for leaf in leaves),
        *((leaf[name].shape, leaf[name].dtype) for name in states for leaf in leaves),
    ]
    attributes = {
        "streams": np.int64(sum(1 << BITS[name] for name in streams)),
        "returns_change": np.bool_(change is not None),
        "first_row": np.int64(first_row),
    }
    if stochastic:
        attributes["rounding"] = np.int64(1)
    types = [jax.ShapeDtypeStruct(*result) for result in results]
    found = jax.ffi.ffi_call("nadam_xla_update_v2", types)(table, *operands, **attributes)
    n, names = len(leaves), ["params" if change is None else "change", *states]
    return [dict(zip(names, found[i::n], strict=True)) for i in range(n)]


def row(**coefficients: float) -> np.ndarray:
    """A row that leaves the states and the parameters as they are, but for these."""
    names = ("c_m", "c_g", "c_v", "b1", "one_minus_b1", "b2", "one_minus_b2", "learning_rate")
    names += ("eps", "eps_root", "decay", "l2", "grad_scale", "clip_value", "skip")
    made = np.zeros(K, np.float32)
    for name, value in {"b1": 1, "b2": 1, "eps": 1, "grad_scale": 1, **coefficients}.items():
        made[names.index(name)] = value
    return made


# The new first moment is the gradient; the parameters stay.
MU_IS_GRADIENT = row(b1=0, one_minus_b1=1)
# The new parameter is the first moment, where the old one is zero; the states stay.
PARAM_IS_MU = row(c_m=1, learning_rate=-1)
# The new first moment is the parameter, where the gradient is zero.
MU_IS_PARAM = row(b1=0, one_minus_b1=1, l2=1)
