"""Moments in codes of eight bits, on CUDA's kernels run on the host: the bits of the CPU's, and of
numpy's.

The CPU's threads flush numbers that are too small to be normal, so there are none.
"""

from collections.abc import Sequence
from typing import Any

import blockwise_oracle as blockwise
import numpy as np
import oracle
import pytest
import storage_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_arrays import misaligned, stored
from update_call import BITS, STATES, STREAMS, Leaf, update, with_key
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handler
from nadam_xla import _native_testing as native

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
BF16, F16 = storage_oracle.BFLOAT16, storage_oracle.FLOAT16
FLOATS = [F32, BF16, F16, F64]
MOMENTS = {"mu": blockwise.encoded_signed, "nu": blockwise.encoded_unsigned}
BOTH = ("mu", "nu")
Dtypes = dict[str, np.dtype | None]
MASTERS = [(BF16, F32), (F16, F32), (BF16, np.dtype(np.uint16)), (BF16, np.dtype(np.uint8))]

# Whole blocks; a part of one; rows that begin and end anywhere, alike or not to boundaries.
SHAPES = [(1024,), (3, 256), (7, 100), (5, 300), (2, 3, 513), (40, 64), (1, 1), (9, 255)]
SHAPES += [(3, 1285), (70, 3), (2, 264), (5, 7), (33, 260), (1, 9001)]


def numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of many magnitudes, and of either sign."""
    return (rng.normal(size=shape) * 10.0 ** rng.uniform(-5, 2, shape)).astype(np.float32)


def leaf_of(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtypes: Dtypes | None = None,
    in_codes: tuple[str, ...] = BOTH,
) -> dict[str, np.ndarray]:
    """Parameters, gradients and moments are float32, or have the dtype that is given.

    Averages and masters are there if they have one; parameters are not, if theirs is None.
    """
    dtypes = {"params": F32, "grads": F32, "mu": F32, "nu": F32} | (dtypes or {})
    x = {name: numbers(rng, shape) for name in ("params", "grads", "mu", "average")}
    x["nu"] = np.square(numbers(rng, shape))
    with np.errstate(over="ignore"):
        leaf = {
            name: array.astype(dtype) for name, array in x.items() if (dtype := dtypes.get(name))
        }
    if of_master := dtypes.get("master"):
        leaf["master"] = (
            leaf["params"].astype(np.float32) * np.float32(1 + 2.0**-12)
            if of_master == F32
            else rng.integers(0, 2 ** (8 * of_master.itemsize), shape, of_master)
        )
    for name in in_codes:
        leaf[name], leaf[f"{name}_scales"] = MOMENTS[name](x[name])
    return leaf


def table_of(rng: np.random.Generator, leaves: int, batch: int = 1) -> np.ndarray:
    table = oracle.with_parts_off(rng, oracle.rows(rng, (batch, leaves), "float32"))
    return with_key(table, seed=int(rng.integers(2**32)), step=int(rng.integers(2**32)))


def update_as_on_gpu(
    table: np.ndarray,
    leaves: Sequence[Leaf],
    *,
    change: np.dtype | None = None,
    stochastic: bool = False,
    in_place: bool = True,
    shifts: Sequence[int] = (0,) * 15,
) -> list[dict[str, np.ndarray]]:
    """As ``update``. `shifts`: by how many elements arrays stand beyond a boundary of 16 bytes."""
    streams = [name for name in STREAMS if name in leaves[0]]
    names = ["params" if change is None else "change", *(n for n in STATES if n in streams)]
    batch = table.shape[0]
    arrays, found = [], []
    for leaf in leaves:
        inputs = {
            name: misaligned(leaf[name].ravel(), shift)
            for name, shift in zip(streams, shifts, strict=False)
        }
        outputs = {}
        for name, shift in zip(names, shifts[8:], strict=False):
            of = "grads" if name == "change" else name
            dtype = change if name == "change" else leaf[name].dtype
            alike = in_place and dtype == inputs[of].dtype
            empty = np.zeros(inputs[of].size, dtype)
            outputs[name] = inputs[of] if alike else misaligned(empty, shift)
        arrays.append((stored(list(inputs.values())), stored(list(outputs.values()))))
        shape = leaf["grads"].shape
        of_scales = (*shape[:-1], -(-shape[-1] // blockwise.BLOCK))
        found.append(
            {n: x.reshape(of_scales if "scales" in n else shape) for n, x in outputs.items()}
        )
    native.update_as_on_gpu(
        table.ravel(),
        batch,
        table.shape[1],
        change is not None,
        arrays,
        streams=sum(1 << BITS[name] for name in streams),
        stochastic=stochastic,
        columns=[leaf["grads"].shape[-1] for leaf in leaves],
    )
    return found


def assert_same_bits(found: Leaf, expected: Leaf) -> None:
    """But for the payload of a NaN, which a processor is free to choose."""
    assert set(found) == set(expected)
    for name, x in found.items():
        y = expected[name]
        assert x.dtype == y.dtype
        nan = np.isnan(y) if x.dtype.kind not in "iu" else np.zeros(x.shape, bool)
        np.testing.assert_array_equal(np.isnan(x) if x.dtype.kind not in "iu" else nan, nan)
        bits = f"u{x.dtype.itemsize}"
        np.testing.assert_array_equal(
            np.where(nan, 0, x.view(bits)), np.where(nan, 0, y.view(bits)), err_msg=name
        )


def check(table: np.ndarray, leaves: Sequence[Leaf], **how: Any) -> None:
    """Every result of every leaf has the bits that the CPU gives."""
    of_call = {name: how[name] for name in ("change", "stochastic") if name in how}
    with enable_x64(True):
        expected = update(table, leaves, **of_call)
    found = update_as_on_gpu(table, leaves, **how)
    for of_leaf, of_cpu in zip(found, expected, strict=True):
        assert_same_bits(of_leaf, of_cpu)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("in_codes", [BOTH, ("mu",), ("nu",)], ids=str)
def test_codes_and_scales_are_the_oracles(
    in_codes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    leaf = leaf_of(rng, shape, in_codes=in_codes)
    table = with_key(table_of(rng, 1), seed=5, step=70_001)
    (found,) = update_as_on_gpu(table, [leaf])
    moments = {
        name: blockwise.decoded(blockwise.Blockwise(leaf[name], leaf[f"{name}_scales"]))
        if name in in_codes
        else leaf[name]
        for name in BOTH
    }
    wide = [leaf["params"], leaf["grads"], *moments.values()]
    params, _, *new = oracle.rule(table[0, 0], *wide)
    expected = {"params": params} | dict(zip(BOTH, new, strict=True))
    draws = blockwise.draws_of(shape, seed=5, step=70_001)
    for name in in_codes:
        expected[name], expected[f"{name}_scales"] = MOMENTS[name](expected[name], draws[name])
    assert_same_bits(found, expected)


@st.composite
def calls(draw: Any) -> tuple[list[Dtypes], tuple[str, ...], np.dtype | None]:
    """The dtypes of some leaves with the same streams, what is in codes, and of the change."""
    kind = draw(st.sampled_from(["params", "master", "none"]))
    change = None
    if kind == "none" or draw(st.booleans()):
        change = draw(st.sampled_from(FLOATS))
    averages = kind != "none" and draw(st.booleans())
    any_float = st.sampled_from(FLOATS)
    leaves = []
    for _ in range(draw(st.integers(1, 4))):
        dtypes: Dtypes = {name: draw(any_float) for name in ("grads", *BOTH)}
        dtypes["average"] = draw(any_float) if averages else None
        dtypes["params"] = None
        if kind == "params":
            dtypes["params"] = draw(st.sampled_from([F32, BF16, F16]))
        elif kind == "master":
            dtypes["params"], dtypes["master"] = draw(st.sampled_from(MASTERS))
        leaves.append(dtypes)
    return leaves, draw(st.sampled_from([BOTH, BOTH, ("mu",), ("nu",)])), change


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    call=calls(),
    rows=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    columns=st.lists(
        st.integers(0, 40)
        | st.integers(1, 300)
        | st.integers(1, 1300)
        | st.integers(1, 64).map(lambda of_eight: 8 * of_eight),
        min_size=4,
        max_size=4,
    ),
    batch=st.sampled_from([1, 1, 2, 3]),
    stochastic=st.booleans(),
    in_place=st.booleans(),
    skip=st.sampled_from([0.0, 0.0, 1.0]),
    shifts=st.integers(0, 7).map(lambda shift: (shift,) * 15)
    | st.lists(st.integers(0, 7), min_size=15, max_size=15),
)
def test_any_mixture_has_the_cpus_bits(
    seed: int,
    call: tuple[list[Dtypes], tuple[str, ...], np.dtype | None],
    rows: list[int],
    columns: list[int],
    batch: int,
    stochastic: bool,
    in_place: bool,
    skip: float,
    shifts: list[int],
) -> None:
    of_leaves, in_codes, change = call
    rng = np.random.default_rng(seed)
    leaves = []
    for dtypes, m, n in zip(of_leaves, rows, columns, strict=False):
        shape = (batch, m, n) if batch > 1 else (m, n)
        leaves.append(leaf_of(rng, shape, dtypes, in_codes))
    table = table_of(rng, len(leaves), batch)
    table[..., oracle.SKIP] = skip * rng.integers(0, 2, table.shape[:-1])
    check(table, leaves, change=change, stochastic=stochastic, in_place=in_place, shifts=shifts)


@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("change", [None, F32, BF16], ids=str)
@pytest.mark.parametrize(("params", "master"), [*MASTERS, (BF16, None), (F32, None)], ids=str)
def test_many_rows_of_every_kind(
    params: np.dtype, master: np.dtype | None, change: np.dtype | None, stochastic: bool
) -> None:
    """More of them than one launch holds."""
    rng = np.random.default_rng(2)
    dtypes: Dtypes = {"params": params, "master": master, "grads": BF16}
    leaves = [leaf_of(rng, shape, dtypes) for shape in [*SHAPES, *SHAPES, (0, 64), (3, 0)]]
    table = table_of(rng, len(leaves))
    for shift in (0, 3):
        check(table, leaves, change=change, stochastic=stochastic, shifts=(shift,) * 15)


@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("shape", [(33, 5, 300), (20, 1032), (9, 3, 256)], ids=str)
def test_a_large_batch(shape: tuple[int, ...], stochastic: bool) -> None:
    rng = np.random.default_rng(3)
    dtypes: Dtypes = {"params": BF16, "master": np.dtype(np.uint16), "average": F32}
    leaves = [leaf_of(rng, shape, dtypes) for _ in range(2)]
    check(table_of(rng, 2, shape[0]), leaves, stochastic=stochastic)


EDGES = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, 2.0**-120]


@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize("shape", [(2, 768), (3, 300), (4, 65)], ids=str)
def test_blocks_of_all_sorts(shape: tuple[int, ...], value: float) -> None:
    """Of one such gradient, of a whole row, and of what becomes of them in the next step."""
    rng = np.random.default_rng(4)
    table = table_of(rng, 1)
    table[..., 13] = 0  # no clipping
    for places in [(1, 40), (1,)]:
        leaf = leaf_of(rng, shape)
        for name in BOTH:
            leaf[name][1], leaf[f"{name}_scales"][1] = 0, 0
        leaf["grads"][1:] = 0
        leaf["grads"][places] = value
        check(table, [leaf])
        (found,) = update(table, [leaf])
        check(table, [leaf | found])
