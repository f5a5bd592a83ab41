"""The average of the parameters as a stream of the custom call."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import oracle
import pytest
import storage_oracle as stored
from any_float import any_float
from hypothesis import given, settings
from hypothesis import strategies as st
from update_call import K, Leaf, update
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handler

RULE_STREAMS = ("params", "grads", "mu", "nu")
STREAMS = (*RULE_STREAMS, "average")
F32 = np.dtype(np.float32)


def leaf_of(rng: np.random.Generator, dtype: Any, *shape: int) -> Leaf:
    numbers = rng.normal(size=(5, *shape))
    numbers[3] = numbers[3] ** 2
    return {name: x.astype(dtype) for name, x in zip(STREAMS, numbers, strict=True)}


def expected_of(row: np.ndarray, leaf: Leaf) -> dict[str, np.ndarray]:
    """By the rule, in the dtype of the row."""
    wide = {name: leaf[name].astype(row.dtype) for name in STREAMS}
    params, change, mu, nu = oracle.rule(row, *(wide[name] for name in RULE_STREAMS))
    average = oracle.averaged(row, wide["average"], params)
    return {"params": params, "change": change, "mu": mu, "nu": nu, "average": average}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    lengths=st.lists(st.integers(0, 300) | st.integers(0, 40), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    returns_change=st.booleans(),
    skip=st.sampled_from([0.0, 0.0, 1.0]),
    any_floats=st.booleans(),
)
def test_the_average_is_the_oracles_to_the_bit(
    seed: int,
    dtype: str,
    lengths: list[int],
    batch: int,
    returns_change: bool,
    skip: float,
    any_floats: bool,
) -> None:
    rng = np.random.default_rng(seed)
    table = oracle.with_parts_off(rng, oracle.rows(rng, (batch, len(lengths)), dtype))
    table[..., oracle.SKIP] = skip
    leaves = [leaf_of(rng, dtype, batch, length) for length in lengths]
    if any_floats:
        for leaf in leaves:
            leaf["average"][:] = any_float(rng, leaf["average"].shape).astype(dtype)
    with enable_x64(True):
        found = update(table, leaves, change=np.dtype(dtype) if returns_change else None)
    for i, (leaf, results) in enumerate(zip(leaves, found, strict=True)):
        assert "average" in results
        for entry in range(batch):
            expected = expected_of(table[entry, i], {k: x[entry] for k, x in leaf.items()})
            for name, result in results.items():
                np.testing.assert_array_equal(result[entry], expected[name], err_msg=name)


@pytest.mark.parametrize("params", [stored.BFLOAT16, np.dtype(np.float16)], ids=str)
@pytest.mark.parametrize("average", [F32, stored.BFLOAT16, np.dtype(np.float64)], ids=str)
@pytest.mark.parametrize("length", [1, 127, 128, 5001])
def test_of_narrow_parameters_it_is_that_of_what_is_rounded_to_them(
    params: np.dtype, average: np.dtype, length: int
) -> None:
    rng = np.random.default_rng(length)
    leaf = leaf_of(rng, params, length)
    leaf = {**leaf, "average": rng.normal(size=length).astype(average)}
    table = oracle.rows(rng, (1, 1), "float32")
    with enable_x64(True):
        (found,) = update(table, [leaf])
    expected = expected_of(table[0, 0], leaf)
    np.testing.assert_array_equal(found["params"], stored.nearest(expected["params"], params))
    np.testing.assert_array_equal(found["average"], stored.nearest(expected["average"], average))


@pytest.mark.parametrize("kind", ["float32", "remainder"])
def test_of_parameters_with_masters_it_is_that_of_the_masters(kind: str) -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=3001).astype(np.float32)
    leaf = leaf_of(rng, F32, 3001)
    if kind == "float32":
        params, master = stored.nearest(wide, stored.BFLOAT16), wide
    else:
        params, master = stored.split(wide, 16)
    table = oracle.rows(rng, (1, 1), "float32")
    (found,) = update(table, [{**leaf, "params": params, "master": master}])
    expected = expected_of(table[0, 0], {**leaf, "params": wide})
    full = found["master"] if kind == "float32" else stored.joined(found["params"], found["master"])
    np.testing.assert_array_equal(full, expected["params"])
    np.testing.assert_array_equal(found["average"], expected["average"])


def test_stochastic_rounding_does_not_touch_it() -> None:
    rng = np.random.default_rng(0)
    leaf = {**leaf_of(rng, stored.BFLOAT16, 999), "average": rng.normal(size=999).astype(F32)}
    table = oracle.rows(rng, (1, 1), "float32")
    (drawn,), (nearest,) = (update(table, [leaf], stochastic=drawn) for drawn in (True, False))
    assert (drawn["params"] != nearest["params"]).any()
    np.testing.assert_array_equal(drawn["average"], nearest["average"])


def test_all_else_has_the_bits_that_it_has_without_it() -> None:
    rng = np.random.default_rng(0)
    leaf = leaf_of(rng, F32, 70_001)
    table = oracle.rows(rng, (1, 1), "float32")
    (found,) = update(table, [leaf])
    (without,) = update(table, [{name: leaf[name] for name in RULE_STREAMS}])
    for name, result in without.items():
        np.testing.assert_array_equal(found[name], result)


def refused(
    operands: Sequence[np.ndarray], results: Sequence[np.ndarray], message: str, **attributes: Any
) -> None:
    attributes = {
        "streams": np.int64(0b11111),
        "returns_change": np.bool_(False),
        "first_row": np.int64(0),
        **attributes,
    }
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results]
    with pytest.raises(Exception, match=f"nadam_xla_update_v2: {message}"):
        jax.block_until_ready(
            jax.ffi.ffi_call("nadam_xla_update_v2", types)(*operands, **attributes)
        )


def test_what_does_not_fit_is_refused_by_name() -> None:
    x, row = np.zeros(3, np.float32), np.zeros((1, 1, K), np.float32)
    short = row[..., : K - 2]
    refused([short, *[x] * 5], [x] * 4, r"coefficients is F32\[1,1,21\]; where there is an average")
    refused([row, *[x] * 5], [x] * 3, r"got 5 buffers .* \(params, grads, mu, nu, average\)")
    half = x.astype(np.float16)
    refused([row, *[x] * 4, half], [x] * 4, r"result average\[0\] is F32; it must be F16")
    whole = x.astype(np.int32)
    refused([row, *[x] * 4, whole], [x] * 4, r"average\[0\] is S32\[3\]; it must be F32, F64")
