"""What the CUDA kernels do, without a GPU: their launches, blocks and threads, run on the host.

No thread of theirs waits for another (but for the sums of a block), so the host can run them one
after the other, by the very functions that the kernels call.
"""

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from any_float import any_float
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_arrays import misaligned, stored

from nadam_xla import _native_testing as native
from nadam_xla.workspace import workspace_bytes

WARP = 32
LENGTHS = st.lists(st.integers(0, 700) | st.integers(0, 40), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    lengths=LENGTHS,
    batch=st.integers(1, 5),
    tile_length=st.sampled_from([1, 64, 100, 1000]),
    capacity=st.integers(1, 5),
)
def test_the_tiles_cover_every_element_once(
    lengths: list[int], batch: int, tile_length: int, capacity: int
) -> None:
    launches = native.tiles(lengths, batch, tile_length, capacity)
    covered = [
        (leaf, entry, element)
        for launch in launches
        for tile in launch
        for leaf, entry, begin, length in tile
        for element in range(begin, begin + length)
    ]
    assert covered == [
        (leaf, entry, element)
        for leaf, length in enumerate(lengths)
        for entry in range(batch)
        for element in range(length)
    ]
    assert len(launches) == -(-len(lengths) // capacity), "each launch is full, but the last"
    for tile in (tile for launch in launches for tile in launch):
        elements = sum(length for *_, length in tile)
        of_short_entries = lengths[tile[0][0]] < WARP
        assert 0 < elements <= (4 * WARP if of_short_entries else tile_length)
        assert of_short_entries or len(tile) == 1


def test_a_leaf_beyond_2_to_the_31_elements() -> None:
    length, tile_length = 2**31 + 200_000, 4096
    ((*tiles,),) = native.tiles([100, length], 1, tile_length, 8)
    assert len(tiles) == 1 + -(-length // tile_length)
    last = (1, 0, length // tile_length * tile_length, length % tile_length)
    assert tiles[-1] == [last]


def test_launches_are_split_before_they_have_too_many_tiles() -> None:
    lengths = [3 * 2**28] * 8
    launches = native.tiles_of_launches(lengths, 1, 1, 8)
    assert [sum(of_leaf for of_leaf in launch) for launch in launches] == [6 * 2**28] * 4


def test_a_leaf_of_too_many_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="a leaf is too large for one launch"):
        native.tiles_of_launches([2**31], 1, 1, 8)


@pytest.mark.parametrize("length", [1, 2, 7, 31])
def test_short_entries_of_a_population_share_a_warp(length: int) -> None:
    for population in (10**6, 2**31):
        ((tiles,),) = native.tiles_of_launches([length], population, 512, 8)
        assert tiles == -(-population * length // (4 * WARP))


def run(
    rng: np.random.Generator,
    dtype: str,
    lengths: list[int],
    *,
    batch: int = 1,
    rows: int = 1,
    shifts: tuple[int, ...] = (0,) * 7,
    returns_change: bool = False,
    in_place: bool = True,
    skip: float = 0.0,
    any_floats: bool = False,
) -> int:
    """Runs an update as a GPU would, and checks every element and what must not change."""
    table = oracle.rows(rng, (batch, rows), dtype)
    if any_floats:
        table = oracle.with_parts_off(rng, table)
    table[..., oracle.SKIP] = skip
    leaves, expected = [], []
    for leaf, length in enumerate(lengths):
        shape = (4, batch, length)
        values = (any_float(rng, shape) if any_floats else rng.normal(size=shape)).astype(dtype)
        with np.errstate(over="ignore"):
            values[3] = values[3] ** 2
        params, grads, mu, nu = (
            misaligned(v.ravel(), s) for v, s in zip(values, shifts, strict=False)
        )
        outputs = (grads if returns_change else params, mu, nu)
        if not in_place:
            outputs = tuple(
                misaligned(np.full(batch * length, np.nan, dtype), s) for s in shifts[4:]
            )
        leaves.append(((params, grads, mu, nu), outputs))
        for entry in range(batch):
            row = table[entry, leaf if rows > 1 else 0]
            new_params, change, new_mu, new_nu = oracle.rule(row, *values[:, entry])
            if skip:
                new_params, new_mu, new_nu = values[0, entry], values[2, entry], values[3, entry]
                change = np.zeros_like(new_params)
            expected.append((change if returns_change else new_params, new_mu, new_nu))
    given_leaves = [(stored(inputs), stored(outputs)) for inputs, outputs in leaves]
    launches: int = native.update_as_on_gpu(
        table.ravel(), batch, rows, returns_change, given_leaves
    )
    for number, (leaf, entry) in enumerate(itertools.product(range(len(lengths)), range(batch))):
        part = slice(entry * lengths[leaf], (entry + 1) * lengths[leaf])
        for output, value in zip(leaves[leaf][1], expected[number], strict=True):
            np.testing.assert_array_equal(output[part], value)
    return launches


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    lengths=st.lists(st.integers(0, 300) | st.integers(0, 40), min_size=1, max_size=5),
    batch=st.integers(1, 3) | st.just(70),
    a_row_each=st.booleans(),
    shift=st.integers(0, 3),
    alike=st.booleans(),
    returns_change=st.booleans(),
    in_place=st.booleans(),
    skip=st.sampled_from([0.0, 0.0, 0.0, 1.0]),
    any_floats=st.booleans(),
)
def test_the_update_is_the_oracles_to_the_bit(
    seed: int,
    dtype: str,
    lengths: list[int],
    batch: int,
    a_row_each: bool,
    shift: int,
    alike: bool,
    returns_change: bool,
    in_place: bool,
    skip: float,
    any_floats: bool,
) -> None:
    run(
        np.random.default_rng(seed),
        dtype,
        lengths,
        batch=batch,
        rows=len(lengths) if a_row_each else 1,
        shifts=(shift,) * 7 if alike else (shift, *(i % 4 for i in range(6))),
        returns_change=returns_change,
        in_place=in_place,
        skip=skip,
        any_floats=any_floats,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [31, 32, 33, 255, 256, 257, 511, 512, 513, 20_000])
def test_stretches_of_several_tiles_and_blocks(dtype: str, length: int) -> None:
    for shift in (0, 1):
        run(np.random.default_rng(length), dtype, [length, 3], shifts=(shift,) * 7)


def test_hundreds_of_leaves_are_several_launches_here() -> None:
    """The tests take the small parameters: some 50 leaves a launch, as before CUDA 12.1."""
    assert run(np.random.default_rng(0), "float32", [5, 0, 7] * 40, rows=120) == 2


def test_leaves_without_elements_start_nothing() -> None:
    assert run(np.random.default_rng(0), "float32", [0, 0]) == 0


def parts(sums: int) -> int:
    return workspace_bytes(sums) // 8


def sums_of(leaves: list[np.ndarray], batch: int) -> np.ndarray:
    wide = [leaf.astype(np.float64).reshape(batch, -1) for leaf in leaves]
    return np.stack([np.sum(leaf**2, axis=1) for leaf in wide], axis=-1).ravel()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtypes=st.just(["float64"])
    | st.lists(st.sampled_from(["float32", "bfloat16", "float16"]), min_size=1, max_size=3),
    lengths=st.lists(st.integers(0, 9000) | st.integers(0, 40), min_size=1, max_size=4),
    batch=st.integers(1, 3) | st.just(70),
    shift=st.integers(0, 7),
    spare=st.sampled_from([0, 1, 7, 4096]),
)
def test_sums_of_squares_with_any_workspace(
    seed: int, dtypes: list[str], lengths: list[int], batch: int, shift: int, spare: int
) -> None:
    rng = np.random.default_rng(seed)
    leaves = [
        misaligned(
            rng.normal(size=batch * n).astype(ml_dtypes.bfloat16 if d == "bfloat16" else d), shift
        )
        for n, d in zip(lengths, itertools.cycle(dtypes))
    ]
    sum_squares = (
        native.sum_squares_as_on_gpu_f64
        if dtypes == ["float64"]
        else native.sum_squares_as_on_gpu_f32
    )
    # Without one part to spare there is room for entries of one tile each only.
    least = len(lengths) * batch + 1
    sums = sum_squares(stored(leaves), batch, least + spare)
    np.testing.assert_allclose(sums, sums_of(leaves, batch), rtol=5e-7)


@pytest.mark.parametrize("size", [1_000_000, 20_000_000])
def test_the_sum_of_squares_of_a_large_leaf(size: int) -> None:
    leaf = np.random.default_rng(0).normal(size=size).astype(np.float32)
    (total,) = native.sum_squares_as_on_gpu_f32(stored([leaf]), 1, parts(1))
    np.testing.assert_allclose(total, np.sum(leaf.astype(np.float64) ** 2), rtol=1e-7)


@pytest.mark.parametrize("length", [1, 40, 5000])
@pytest.mark.parametrize("value", [3e-3, 3e30, 3.4e38, np.inf, np.nan])
def test_a_norm_is_finite_where_all_numbers_are(value: float, length: int) -> None:
    """Though the squares of a pack, which are added in float32, overflow."""
    leaf = np.ones(length, np.float32)
    leaf[::7] = value
    (norm,) = native.sum_squares_as_on_gpu_f32(stored([leaf]), 1, parts(1), norms=True)
    expected = np.sqrt(np.sum(leaf.astype(np.float64) ** 2))
    largest = np.finfo(np.float32).max
    wanted = min(expected, largest) if np.isfinite(expected) else expected
    np.testing.assert_allclose(norm, wanted, rtol=5e-7)


def test_a_workspace_without_room_is_refused() -> None:
    leaf: Any = np.ones(100, np.float32)
    with pytest.raises(ValueError, match=r"the workspace has 8 bytes; it must have at least 24"):
        native.sum_squares_as_on_gpu_f32(stored([leaf, leaf]), 1, 1)
