"""A step of a leaf whose arrays are stored in any way, by the oracles: every bit of the results."""

from collections.abc import Mapping

import blockwise_oracle as blockwise
import numpy as np
import oracle
import storage_oracle as stored

Leaf = Mapping[str, np.ndarray]
NARROW = (stored.BFLOAT16, stored.FLOAT16)
MOMENTS = {"mu": blockwise.encoded_signed, "nu": blockwise.encoded_unsigned}
CLIP_VALUE = 13  # its place in a row


class Flushed(np.ndarray):
    """Numbers of a thread that takes those too small to be normal for zeros, and gives zeros."""

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: object, **options: object
    ) -> np.ndarray:
        result = getattr(ufunc, method)(*map(flushed, inputs), **options)
        return flushed(result).view(Flushed)


def flushed(x: object) -> np.ndarray:
    """The numbers, zeros of their sign where they are too small to be normal."""
    values = np.asarray(x)
    if values.dtype.kind != "f":
        return values
    is_small = np.abs(values) < np.finfo(values.dtype).tiny
    return np.where(is_small, np.copysign(values.dtype.type(0), values), values)


def number_of(leaf: Leaf, dtype: np.dtype) -> np.ndarray:
    """The parameter that is computed with: what its master says, where it has one."""
    master = leaf.get("master")
    if master is None:
        return leaf["params"].astype(dtype)
    whole = stored.joined(leaf["params"], master) if master.dtype.kind == "u" else master
    return whole.astype(dtype)


def moment_of(leaf: Leaf, name: str, dtype: np.dtype) -> np.ndarray:
    """A moment, decoded where it is in codes."""
    scales = leaf.get(f"{name}_scales")
    if scales is None:
        return leaf[name].astype(dtype)
    return blockwise.decoded(blockwise.Blockwise(leaf[name], scales)).astype(dtype)


def after_step(
    row: np.ndarray,
    leaf: Leaf,
    /,
    *,
    stochastic: bool = False,
    flushes: bool = False,
    **key: int,
) -> dict[str, np.ndarray]:
    """What a call returns that returns parameters.

    Args:
        row: of coefficients, in the dtype that is computed in.
        leaf: each stream's array.
        stochastic: how what is narrow is rounded.
        flushes: whether the thread does, see :class:`Flushed`.
        key: of the random numbers.
    """
    if row[oracle.SKIP] != 0:
        return {name: x for name, x in leaf.items() if name != "grads"}
    dtype, shape = row.dtype, leaf["grads"].shape
    given = [number_of(leaf, dtype), leaf["grads"].astype(dtype)]
    given += [moment_of(leaf, name, dtype) for name in MOMENTS]
    if flushes:
        given = [x.view(Flushed) for x in given]
    params, _, *moments = oracle.rule(row, *given)
    new = {"params": params, **dict(zip(MOMENTS, moments, strict=True))}
    if "average" in leaf:
        average = leaf["average"].astype(dtype)
        new["average"] = oracle.averaged(row, average.view(Flushed) if flushes else average, params)
    plain = {name: np.asarray(x) for name, x in new.items()}

    def draws_of(which: int) -> np.ndarray:
        return stored.draws(int(np.prod(shape)), which, **key).reshape(shape)

    results = {}
    for name, x in plain.items():
        if f"{name}_scales" in leaf:
            draws = blockwise.draws_of(shape, **key)[name]
            results[name], results[f"{name}_scales"] = MOMENTS[name](x, draws)
        elif stochastic and name in MOMENTS and leaf[name].dtype in NARROW:
            draws = draws_of(stored.OF_STATES)
            draws = stored.swapped_bytes(draws) if name == "nu" else draws
            results[name] = stored.stochastic(x, leaf[name].dtype, draws)
        else:
            results[name] = stored.nearest(x, leaf[name].dtype)
    of_params = draws_of(stored.OF_PARAMS) if stochastic else None
    return results | _stored_params(plain["params"], leaf, of_params)


def _stored_params(x: np.ndarray, leaf: Leaf, draws: np.ndarray | None) -> dict[str, np.ndarray]:
    dtype, master = leaf["params"].dtype, leaf.get("master")
    if master is None:
        is_drawn = draws is not None and dtype in NARROW
        return {
            "params": stored.stochastic(x, dtype, draws) if is_drawn else stored.nearest(x, dtype)
        }
    if master.dtype.kind != "u":
        return {"params": stored.nearest(x, dtype), "master": stored.nearest(x, master.dtype)}
    bits = 8 * master.itemsize
    params, remainder = stored.split(stored.to_24_bits(x, draws) if bits == 8 else x, bits)
    return {"params": params, "master": remainder}


def assert_same_bits(found: np.ndarray, expected: np.ndarray, message: str) -> None:
    """But for the sign and the payload of a NaN, which are no promise."""
    assert found.dtype == expected.dtype, message
    is_nan = np.isnan(expected) if expected.dtype.kind not in "iu" else np.zeros(found.shape, bool)
    if found.dtype.kind not in "iu":
        np.testing.assert_array_equal(np.isnan(found), is_nan, err_msg=message)
    of = f"u{found.dtype.itemsize}"
    bits = (np.where(is_nan, 0, np.ascontiguousarray(x).view(of)) for x in (found, expected))
    np.testing.assert_array_equal(*bits, err_msg=message)
