"""Leaves stored in any way, on CUDA's kernels run on the host: the CPU's bits.

The CPU's threads flush numbers that are too small to be normal, so there are none.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import ml_dtypes
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_arrays import misaligned, stored
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handler
from nadam_xla import _native_testing as native

BFLOAT16 = ml_dtypes.bfloat16
NARROW = [BFLOAT16, np.float16]
WIDE = [np.float32, np.float64]
WITH_MASTER = [(BFLOAT16, np.float32), (BFLOAT16, np.uint16), (BFLOAT16, np.uint8)]
WITH_MASTER += [(np.float16, np.float32)]
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, 65519.0, 65520.0, 2.0**-24, 2.0**-25]


@dataclass(frozen=True)
class Storage:
    """How the arrays of a leaf are stored: each a dtype; those that have a default may be missing.

    So may parameters.
    """

    params: Any
    grads: Any
    mu: Any
    nu: Any
    master: Any = None
    change: Any = None  # where it is returned
    average: Any = None

    @property
    def operands(self) -> list[Any]:
        return [d for d in (self.params, self.grads, *self.states) if d]

    @property
    def states(self) -> list[Any]:
        return [d for d in (self.mu, self.nu, self.average, self.master) if d]

    @property
    def results(self) -> list[Any]:
        return [self.change or self.params, *self.states]

    @property
    def streams(self) -> int:
        average, master = self.average is not None, self.master is not None
        return 0b1110 | (self.params is not None) | average << 4 | master << 16


def numbers(rng: np.random.Generator, dtype: Any, size: int) -> np.ndarray:
    """Of all sizes whose squares are normal float32, and those at which something happens."""
    if np.issubdtype(dtype, np.unsignedinteger):
        return rng.integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)
    drawn = np.ldexp(rng.normal(size=size), rng.integers(-30, 30, size))
    values = np.where(rng.random(size) < 0.1, rng.choice(EDGES, size), drawn)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def leaf_of(rng: np.random.Generator, storage: Storage, size: int) -> list[np.ndarray]:
    arrays = [numbers(rng, dtype, size) for dtype in storage.operands]
    nu = 3 if storage.params else 2
    arrays[nu] = np.abs(arrays[nu])
    if storage.master is not None and arrays[-1].dtype.kind == "u":
        arrays[-1][arrays[0] == 0] = 0
    return arrays


def table_of(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Rows with the key of the random numbers."""
    table = oracle.rows(rng, shape, dtype)
    table[..., oracle.KEY] = rng.integers(0, 2**16, (*shape, 6))
    return table


def on_cpu(
    table: np.ndarray,
    leaves: Sequence[Sequence[np.ndarray]],
    storages: Sequence[Storage],
    *,
    stochastic: bool,
) -> list[list[np.ndarray]]:
    """The results of each leaf. A leaf's arrays lead with the batch where the table has one."""
    results = [
        jax.ShapeDtypeStruct(leaf[0].shape, storage.results[i])
        for i in range(len(storages[0].results))
        for leaf, storage in zip(leaves, storages, strict=True)
    ]
    with enable_x64(True):
        operands = [array for of_stream in zip(*leaves, strict=True) for array in of_stream]
        found = jax.ffi.ffi_call("nadam_xla_update_v2", results)(
            table,
            *operands,
            streams=np.int64(storages[0].streams),
            returns_change=np.bool_(storages[0].change is not None),
            first_row=np.int64(0),
            rounding=np.int64(stochastic),
        )
        return [[np.asarray(x) for x in found[i :: len(leaves)]] for i in range(len(leaves))]


def outputs_of(
    storage: Storage, inputs: Sequence[np.ndarray], shifts: Sequence[int], *, in_place: bool
) -> list[np.ndarray]:
    """Where they may, the inputs themselves."""
    by_result = [inputs[0 if storage.change is None else int(storage.params is not None)]]
    by_result += inputs[-len(storage.states) :]
    outputs = []
    for array, dtype, shift in zip(by_result, storage.results, shifts, strict=False):
        given = array if in_place and array.dtype == dtype else np.zeros(array.shape, dtype)
        outputs.append(given if given is array else misaligned(given, shift))
    return outputs


def check(
    rng: np.random.Generator,
    dtype: Any,
    lengths: Sequence[int],
    storages: Sequence[Storage],
    *,
    batch: int = 1,
    a_row_each: bool = True,
    stochastic: bool = False,
    in_place: bool = True,
    skip: float = 0.0,
    shifts: Sequence[int] = (0,) * 11,
) -> None:
    """Runs an update both ways, and compares every result of every leaf."""
    table = table_of(rng, (batch, len(lengths) if a_row_each else 1), dtype)
    table[..., oracle.SKIP] = skip * rng.integers(0, 2, table.shape[:-1])
    leaves = [
        leaf_of(rng, storage, batch * n) for storage, n in zip(storages, lengths, strict=True)
    ]
    batched = [[x.reshape(batch, -1) for x in leaf] for leaf in leaves]
    expected = on_cpu(table, batched, storages, stochastic=stochastic)
    arrays = []
    for leaf, storage in zip(leaves, storages, strict=True):
        inputs = [misaligned(x, shift) for x, shift in zip(leaf, shifts, strict=False)]
        arrays.append((inputs, outputs_of(storage, inputs, shifts[6:], in_place=in_place)))
    native.update_as_on_gpu(
        table.ravel(),
        batch,
        table.shape[1],
        storages[0].change is not None,
        [(stored(inputs), stored(outputs)) for inputs, outputs in arrays],
        streams=storages[0].streams,
        stochastic=stochastic,
    )
    for (_, outputs), of_leaf, storage in zip(arrays, expected, storages, strict=True):
        for output, value in zip(outputs, of_leaf, strict=True):
            assert_same_bits(output, value.ravel(), str(storage))


def assert_same_bits(found: np.ndarray, expected: np.ndarray, message: str) -> None:
    """But for the payload of a NaN."""
    assert found.dtype == expected.dtype
    nan = np.isnan(expected) if found.dtype.kind != "u" else np.zeros(found.shape, bool)
    np.testing.assert_array_equal(np.isnan(found) if found.dtype.kind != "u" else nan, nan)
    bits = f"u{found.dtype.itemsize}"
    np.testing.assert_array_equal(
        np.where(nan, 0, found.view(bits)), np.where(nan, 0, expected.view(bits)), err_msg=message
    )


@st.composite
def calls(draw: Any) -> tuple[Any, list[Storage]]:
    """The dtype of the arithmetic, and the storage of some leaves with the same streams."""
    dtype = draw(st.sampled_from([np.float32, np.float32, np.float64]))
    kind = draw(st.sampled_from(["params", "master", "none"]))
    returns_change = kind == "none" or draw(st.booleans())
    averages = kind != "none" and draw(st.booleans())
    any_dtype = st.sampled_from([*NARROW, *WIDE])
    storages = []
    for _ in range(draw(st.integers(1, 4))):
        params, master = None, None
        if kind == "params":
            params = draw(st.sampled_from([*NARROW, np.float32, dtype]))
        elif kind == "master":
            params, master = draw(st.sampled_from(WITH_MASTER))
        change = draw(any_dtype) if returns_change else None
        grads, mu, nu = draw(any_dtype), draw(any_dtype), draw(any_dtype)
        average = draw(any_dtype) if averages else None
        storages.append(Storage(params, grads, mu, nu, master, change, average))
    return dtype, storages


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    call=calls(),
    length=st.lists(
        st.integers(0, 40) | st.integers(0, 300) | st.integers(0, 2100), min_size=4, max_size=4
    ),
    batch=st.integers(1, 3) | st.just(20),
    a_row_each=st.booleans(),
    stochastic=st.booleans(),
    in_place=st.booleans(),
    skip=st.sampled_from([0.0, 0.0, 1.0]),
    shifts=st.integers(0, 7).map(lambda shift: (shift,) * 11)
    | st.lists(st.integers(0, 7), min_size=11, max_size=11),
)
def test_any_mixture_has_the_cpus_bits(
    seed: int,
    call: tuple[Any, list[Storage]],
    length: list[int],
    batch: int,
    a_row_each: bool,
    stochastic: bool,
    in_place: bool,
    skip: float,
    shifts: list[int],
) -> None:
    dtype, storages = call
    check(
        np.random.default_rng(seed),
        dtype,
        length[: len(storages)],
        storages,
        batch=batch,
        a_row_each=a_row_each or stochastic,
        stochastic=stochastic,
        in_place=in_place,
        skip=skip,
        shifts=shifts,
    )


LENGTHS = [1, 7, 8, 31, 32, 33, 255, 257, 1023, 1024, 1025, 2057, 9001]


@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("returns_change", [False, True], ids=["params", "change"])
@pytest.mark.parametrize(
    ("params", "master"),
    [*WITH_MASTER, (BFLOAT16, None), (np.float16, None), (np.float32, None)],
    ids=str,
)
@pytest.mark.parametrize("others", NARROW, ids=str)
def test_stretches_of_several_tiles(
    params: Any, master: Any, others: Any, returns_change: bool, stochastic: bool
) -> None:
    storage = Storage(params, others, others, others, master, params if returns_change else None)
    for shift in (0, 3):
        check(
            np.random.default_rng(shift),
            np.float32,
            LENGTHS,
            [storage] * len(LENGTHS),
            stochastic=stochastic,
            shifts=(shift,) * 11,
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("returns_change", [False, True], ids=["params", "change"])
def test_averages_of_leaves_that_are_stored_as_computed(dtype: Any, returns_change: bool) -> None:
    storage = Storage(
        dtype, dtype, dtype, dtype, change=dtype if returns_change else None, average=dtype
    )
    for shift in (0, 1):
        rng = np.random.default_rng(shift)
        check(rng, dtype, LENGTHS, [storage] * len(LENGTHS), shifts=(shift,) * 11)


@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("length", [5, 40, 1032])
def test_a_large_batch(length: int, stochastic: bool) -> None:
    storage = Storage(BFLOAT16, BFLOAT16, np.float16, BFLOAT16, np.uint8)
    rng = np.random.default_rng(0)
    check(rng, np.float32, [length, 8], [storage] * 2, batch=33, stochastic=stochastic)


def test_some_leaves_as_computed_and_others_not() -> None:
    """They share launches."""
    wide = Storage(np.float32, np.float32, np.float32, np.float32)
    narrow = Storage(BFLOAT16, np.float16, np.float64, np.float32)
    lengths = [5, 0, 700] * 30
    check(np.random.default_rng(0), np.float32, lengths, [wide, narrow, wide] * 30)


@pytest.mark.parametrize("index", [-1, 0, 2, 9])
@pytest.mark.parametrize("length", [7, 33, 1200])
def test_an_entry_of_stacks(index: int, length: int) -> None:
    entries, rng = 3, np.random.default_rng(0)
    storages = [
        Storage(BFLOAT16, BFLOAT16, np.float16, np.float32, np.uint16),
        Storage(np.float16, np.float32, BFLOAT16, np.float16, np.float32),
    ]
    table = table_of(rng, (1, len(storages)), np.float32)
    chosen = min(max(index, 0), entries - 1)
    part = slice(chosen * length, (chosen + 1) * length)
    stacks = [leaf_of(rng, storage, entries * length) for storage in storages]
    leaves = [[p, g[:length], *states] for p, g, *states in stacks]
    entry = [[p[part], g, *(x[part] for x in states)] for p, g, *states in leaves]
    found = on_cpu(table, entry, storages, stochastic=True)
    expected = [[p.copy(), *(x.copy() for x in states)] for p, _, *states in leaves]
    for arrays, results in zip(expected, found, strict=True):
        for array, result in zip(arrays, results, strict=True):
            array[part] = result
    arrays = [(stored(leaf), stored([leaf[0], *leaf[2:]])) for leaf in leaves]
    native.update_as_on_gpu(
        table.ravel(),
        1,
        len(leaves),
        False,
        arrays,
        streams=1 << 16 | 0b1111,
        stochastic=True,
        index=index,
    )
    for (p, _, *states), of_leaf in zip(leaves, expected, strict=True):
        for array, value in zip([p, *states], of_leaf, strict=True):
            assert_same_bits(array, value, "")


def test_every_pair_of_storages() -> None:
    """Of gradients and moments; they all share one call."""
    storages = [
        Storage(params, grads, moments, moments)
        for params, grads, moments in itertools.product(
            [*NARROW, np.float32], [*NARROW, *WIDE], [*NARROW, *WIDE]
        )
    ]
    for stochastic in (False, True):
        rng = np.random.default_rng(0)
        check(rng, np.float32, [300] * len(storages), storages, stochastic=stochastic)
