"""The update of some rows of a table, on CUDA's kernels run on the host."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_call import Table, order_of, streams_of, update_rows_as_on_gpu
from rows_oracle import summed_rows, updated_rows
from stored_arrays import stored
from update_call import with_key

from nadam_xla import _native_testing as native

BFLOAT16 = ml_dtypes.bfloat16
ANY = [np.float32, np.float64, BFLOAT16, np.float16]
WITH_MASTER = [(BFLOAT16, np.float32), (BFLOAT16, np.uint16), (BFLOAT16, np.uint8)]
WITH_MASTER += [(np.float16, np.float32)]
THREADS = 256  # of a block


def update_all(
    coefficients: np.ndarray, grads: np.ndarray, table: Table, *, stochastic: bool
) -> dict[str, np.ndarray]:
    """The table behind a step with a gradient for each row, by the kernels of all leaves."""
    new = {name: x.copy().ravel() for name, x in table.items()}
    inputs = [new["params"], grads.ravel(), *list(new.values())[1:]]
    native.update_as_on_gpu(
        coefficients.ravel(),
        len(coefficients),
        1,
        False,
        [(stored(inputs), stored(list(new.values())))],
        streams=streams_of(table),
        stochastic=stochastic,
    )
    return {name: x.reshape(table[name].shape) for name, x in new.items()}


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if np.issubdtype(dtype, np.unsignedinteger):
        return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return np.ldexp(rng.normal(size=shape), rng.integers(-8, 8, shape)).astype(dtype)


def table_of(
    rng: np.random.Generator, shape: tuple[int, ...], dtypes: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    table = {name: numbers(rng, shape, dtype) for name, dtype in dtypes.items()}
    table["nu"] = np.abs(table["nu"])
    return table


def assert_same(found: Table, expected: Table) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name].view(np.uint8), x.view(np.uint8), err_msg=name)


@st.composite
def touched_rows(draw: st.DrawFn) -> tuple[int, int, np.ndarray]:
    """Height, columns and ``[batch, touched]`` indices, of which some are those of no row."""
    height = draw(st.integers(0, 9))
    columns = draw(st.sampled_from([0, 1, 3, 7, 8, 16, 37, 64, 300, 520]))
    batch, touched = draw(st.integers(1, 3)), draw(st.integers(0, 24))
    some = st.integers(-3, height + 3)
    drawn = draw(
        st.lists(some, min_size=batch * touched, max_size=batch * touched)
        | some.map(lambda i: [i] * (batch * touched))
    )
    dtype = draw(st.sampled_from([np.int32, np.int64]))
    return height, columns, np.array(drawn, dtype).reshape(batch, touched)


@settings(max_examples=150, deadline=None)
@given(
    rows=touched_rows(),
    dtype=st.sampled_from([np.float32, np.float64]),
    skips=st.booleans(),
    shift=st.integers(0, 3),
    most_blocks=st.sampled_from([1, 2, 2**31 - 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_that_occur_are_updated_with_their_sums_and_others_stay(
    rows: tuple[int, int, np.ndarray],
    dtype: Any,
    skips: bool,
    shift: int,
    most_blocks: int,
    seed: int,
) -> None:
    height, columns, indices = rows
    batch, touched = indices.shape
    rng = np.random.default_rng(seed)
    coefficients = oracle.rows(rng, (batch, 2), np.dtype(dtype).name)
    coefficients[0, :, oracle.SKIP] = skips
    table = table_of(rng, (batch, height, columns), dict.fromkeys(("params", "mu", "nu"), dtype))
    grads = numbers(rng, (batch, touched, columns), dtype)
    found, launches = update_rows_as_on_gpu(
        coefficients, indices, grads, table, first_row=1, shift=shift, most_blocks=most_blocks
    )
    for i in range(batch):
        entry = {name: x[i] for name, x in table.items()}
        expected = updated_rows(coefficients[i, 1], indices[i], grads[i], entry)
        assert_same({name: x[i] for name, x in found.items()}, expected)
    in_groups = columns % 8 == 0 and shift * np.dtype(dtype).itemsize % 16 == 0
    items = batch * touched * columns // (8 if in_groups else 1) if height else 0
    assert launches == -(-items // (THREADS * most_blocks))


@settings(max_examples=150, deadline=None)
@given(
    rows=touched_rows(),
    computed=st.sampled_from([np.float32, np.float32, np.float64]),
    parameters=st.sampled_from([*WITH_MASTER, *((dtype, None) for dtype in ANY)]),
    others=st.tuples(*[st.sampled_from(ANY)] * 3),
    stochastic=st.booleans(),
    shift=st.integers(0, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_however_it_is_stored_it_has_the_bits_of_an_update_of_all_rows(
    rows: tuple[int, int, np.ndarray],
    computed: Any,
    parameters: tuple[Any, Any],
    others: tuple[Any, Any, Any],
    stochastic: bool,
    shift: int,
    seed: int,
) -> None:
    height, columns, indices = rows
    (batch, touched), (params, master), (of_grads, mu, nu) = indices.shape, parameters, others
    if params == np.float64:
        computed = params  # what the parameters are stored as, or wider
    rng = np.random.default_rng(seed)
    coefficients = oracle.rows(rng, (batch, 1), np.dtype(computed).name)
    coefficients = with_key(coefficients, seed=seed, step=seed // 3)
    dtypes = {"params": params, "mu": mu, "nu": nu} | ({"master": master} if master else {})
    table = table_of(rng, (batch, height, columns), dtypes)
    grads = numbers(rng, (batch, touched, columns), of_grads)
    sums = np.zeros((batch, height, columns), computed)
    occurs = np.zeros((batch, height), bool)
    for i in range(batch):
        for number, of_row in summed_rows(indices[i], grads[i], height, computed).items():
            sums[i, number], occurs[i, number] = of_row, True
    found, _ = update_rows_as_on_gpu(
        coefficients, indices, grads, table, stochastic=stochastic, shift=shift
    )
    dense = update_all(coefficients, sums, table, stochastic=stochastic)
    expected = {name: np.where(occurs[..., None], x, table[name]) for name, x in dense.items()}
    assert_same(found, expected)


@pytest.mark.parametrize("columns", [5, 8])
def test_an_order_that_is_none_leaves_places_out_and_reads_nothing_else(columns: int) -> None:
    rng = np.random.default_rng(0)
    coefficients = oracle.rows(rng, (2, 1), "float32")
    indices = np.int32([[0, 1, 2, 3], [3, 2, 1, 0]])
    order = np.int32([[-1, 1, 4, 3], [-(2**31), 2**31 - 1, 1, 0]])
    grads = numbers(rng, (2, 4, columns), np.float32)
    table = table_of(rng, (2, 4, columns), dict.fromkeys(("params", "mu", "nu"), np.float32))
    found, _ = update_rows_as_on_gpu(coefficients, indices, grads, table, order=order)
    for i, places in enumerate([[1, 3], [1, 0]]):
        entry = {name: x[i] for name, x in table.items()}
        expected = updated_rows(coefficients[i, 0], indices[i, places], grads[i, places], entry)
        assert_same({name: x[i] for name, x in found.items()}, expected)


def test_rows_beyond_2_to_the_31_elements() -> None:
    """They take no memory: nothing is written to the others."""
    height, columns = 2**28 + 5, 8
    indices = np.array([height - 1, 2**28, 0, height - 1, height, -1, 2**32, -(2**32)])
    rng = np.random.default_rng(0)
    coefficients = with_key(oracle.rows(rng, (1, 1), "float32"), seed=1)
    dtypes = dict.fromkeys(("params", "mu", "nu"), BFLOAT16)
    table = {name: np.zeros((1, height, columns), dtype) for name, dtype in dtypes.items()}
    grads = numbers(rng, (1, len(indices), columns), BFLOAT16)
    inputs = [table["params"], grads, table["mu"], table["nu"]]
    native.update_rows_as_on_gpu(
        coefficients.ravel(),
        1,
        1,
        0,
        stored([x.ravel() for x in inputs]),
        streams_of(table),
        False,
        indices,
        order_of(indices),
        columns,
    )
    small = {name: np.zeros((3, columns), np.float32) for name in table}
    few = np.int32([2, 1, 0, 2])
    expected = updated_rows(coefficients[0, 0], few, grads[0, :4], small)
    for name, x in table.items():
        found = x[0, [0, 2**28, height - 1]]
        np.testing.assert_array_equal(found, expected[name].astype(BFLOAT16))
        assert not x[0, [1, 5, 2**28 - 1, 2**28 + 1, height - 2]].any()
