"""The update on this device against the oracle, bit for bit: what the kernels get in a program.

Kernels and oracle divide and take roots as IEEE 754 says and contract nothing, so there is no
tolerance.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from compiled import CALL
from x64 import enable_x64

from nadam_xla.calls import leaves_in_call
from nadam_xla.jax import nadam_update
from nadam_xla.platforms import platform_of_jax_backend

Leaf = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

WIDE = ["float32", "float64"]
NARROW = ["bfloat16", "float16"]

# Around what a load of 16 bytes, a block's round and its chunk (4096 float32, 2048 float64) hold.
LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 511, 512, 513, 1023, 1025, 2047, 2048, 2049, 4095, 4096, 4097]
SHAPES = [(n,) for n in LENGTHS] + [(), (0, 3), (3, 5, 7), (256, 256), (256,), (1, 100_003)]


def leaves_of(rng: np.random.Generator, shapes: list[tuple[int, ...]], dtype: str) -> list[Leaf]:
    """Parameters, gradients and moments of each leaf."""
    leaves = []
    for shape in shapes:
        params, grads, mu = (np.asarray(rng.normal(size=shape), dtype) for _ in range(3))
        leaves.append((params, grads, mu, np.asarray(rng.uniform(size=shape), dtype)))
    return leaves


def expected_of(row: np.ndarray, leaf: Leaf, returns: str) -> tuple[np.ndarray, ...]:
    params, change, mu, nu = oracle.rule(row, *leaf)
    return (params if returns == "params" else change), mu, nu


def update(row: Any, leaves: list[Any], **options: Any) -> list[tuple[Any, Any, Any]]:
    """``nadam_update`` from and to a list of leaves."""
    groups = [list(group) for group in zip(*leaves, strict=True)]
    return list(zip(*nadam_update(row, *groups, **options), strict=True))


def run(row: Any, leaves: list[Leaf], *, returns: str, donated: bool) -> Any:
    """A compiled step; donated, each result takes the memory of its input."""
    params, grads, mu, nu = ([jnp.array(x) for x in group] for group in zip(*leaves, strict=True))
    first, other = (params, grads) if returns == "params" else (grads, params)

    def step(first: Any, mu: Any, nu: Any, other: Any, row: Any) -> Any:
        params, grads = (first, other) if returns == "params" else (other, first)
        return nadam_update(row, params, grads, mu, nu, returns=returns)

    compiled = jax.jit(step, donate_argnums=(0, 1, 2) if donated else ())
    aliases = 3 * len(leaves) if donated else 0
    lowered = compiled.lower(first, mu, nu, other, row)
    assert lowered.as_text().count("@nadam_xla_update_v2") == 1
    assert lowered.as_text().count("#stablehlo.output_operand_alias") == aliases
    results = compiled(first, mu, nu, other, row)
    assert {x.is_deleted() for x in (*first, *mu, *nu) if x.size} == {donated}
    if not donated:
        assert_bits(list(zip(params, grads, mu, nu, strict=True)), leaves)
    return list(zip(*results, strict=True))


def assert_bits(results: list[tuple[Any, ...]], expected: list[tuple[np.ndarray, ...]]) -> None:
    for number, (leaf, of_leaf) in enumerate(zip(results, expected, strict=True)):
        for result, value in zip(leaf, of_leaf, strict=True):
            assert result.dtype == value.dtype
            np.testing.assert_array_equal(result, value, err_msg=f"leaf {number}")


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize("rows", ["one row", "a row each"])
@pytest.mark.parametrize("donated", [True, False], ids=["donated", "kept"])
def test_every_shape_in_one_call(dtype: str, returns: str, rows: str, donated: bool) -> None:
    rng = np.random.default_rng(0)
    leaves = leaves_of(rng, SHAPES, dtype)
    each = rows == "a row each"
    table = oracle.rows(rng, (len(leaves),) if each else (), dtype)
    with enable_x64(True):
        results = run(table, leaves, returns=returns, donated=donated)
    assert_bits(
        results,
        [expected_of(table[i] if each else table, leaf, returns) for i, leaf in enumerate(leaves)],
    )


@pytest.mark.parametrize("dtype", WIDE)
def test_any_shapes(dtype: str) -> None:
    # A bare machine with a GPU may not have it.
    hypothesis = pytest.importorskip("hypothesis", reason="hypothesis chooses the shapes")
    st = pytest.importorskip("hypothesis.strategies")
    hnp = pytest.importorskip("hypothesis.extra.numpy")
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=17)

    @hypothesis.settings(max_examples=15, deadline=None)
    @hypothesis.given(st.lists(shapes, min_size=1, max_size=5), st.integers(0, 2**32 - 1))
    def check(shapes: list[tuple[int, ...]], seed: int) -> None:
        rng = np.random.default_rng(seed)
        leaves = leaves_of(rng, shapes, dtype)
        row = oracle.rows(rng, (), dtype)
        with enable_x64(True):
            results = update(row, leaves)
        assert_bits(results, [expected_of(row, leaf, "params") for leaf in leaves])

    check()


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("returns", ["params", "change"])
def test_narrow_leaves_are_widened_and_rounded_back(dtype: str, returns: str) -> None:
    rng = np.random.default_rng(1)
    narrow = jnp.dtype(dtype)
    wide = leaves_of(rng, SHAPES, "float32")
    leaves = [(p.astype(narrow), g.astype(narrow), m, v) for p, g, m, v in wide]
    row = oracle.rows(rng, (), "float32")
    expected = []
    for leaf in leaves:
        first, mu, nu = expected_of(row, tuple(x.astype(np.float32) for x in leaf), returns)
        expected.append((first.astype(narrow), mu, nu))
    assert_bits(jax.jit(partial(update, returns=returns))(row, leaves), expected)


def test_all_dtypes_in_one_step() -> None:
    rng = np.random.default_rng(2)
    dtypes = [jnp.dtype(name) for name in (*WIDE, *NARROW)] * 20
    leaves = [
        tuple(x.astype(dtype) for x in leaf)
        for dtype, leaf in zip(
            dtypes, leaves_of(rng, [(n,) for n in range(len(dtypes))], "float64"), strict=True
        )
    ]
    row = oracle.rows(rng, (), "float64")
    expected = []
    for dtype, leaf in zip(dtypes, leaves, strict=True):
        computed = np.float64 if dtype == np.float64 else np.float32
        values = expected_of(
            row.astype(computed), tuple(x.astype(computed) for x in leaf), "params"
        )
        expected.append(tuple(x.astype(dtype) for x in values))
    with enable_x64(True):
        assert_bits(jax.jit(update)(row, leaves), expected)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("each", [False, True], ids=["one row", "a row each"])
def test_a_batch_of_rows_over_leaves_of_odd_lengths(dtype: str, batch: int, each: bool) -> None:
    """Batch entries lie one after the other, so all but the first begin off a 16-byte boundary."""
    rng = np.random.default_rng(3)
    lengths = [1, 3, 5, 63, 4097, 4099, 0]
    leaves = leaves_of(rng, [(batch, n) for n in lengths], dtype)
    tables = oracle.rows(rng, (batch, len(lengths)) if each else (batch,), dtype)
    with enable_x64(True):
        results = jax.jit(jax.vmap(update))(tables, leaves)
    expected = []
    for i, leaf in enumerate(leaves):
        entries = [
            expected_of(tables[b, i] if each else tables[b], tuple(x[b] for x in leaf), "params")
            for b in range(batch)
        ]
        expected.append(tuple(np.stack(values) for values in zip(*entries, strict=True)))
    assert_bits(results, expected)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("known", [True, False], ids=["static", "dynamic"])
def test_slices_of_larger_buffers_at_any_offset(dtype: str, known: bool) -> None:
    rng = np.random.default_rng(4)
    length, room = 4099, 5000
    (buffers,) = leaves_of(rng, [(room,)], dtype)
    row = oracle.rows(rng, (), dtype)

    def step(start: Any, carried: Any, grads: Any) -> Any:
        def part(x: Any) -> Any:
            return jax.lax.dynamic_slice(x, (start,), (length,))

        params, mu, nu = carried
        updated = nadam_update(row, part(params), part(grads), part(mu), part(nu))
        return [
            jax.lax.dynamic_update_slice(x, new, (start,))
            for x, new in zip(carried, updated, strict=True)
        ]

    with enable_x64(True):
        compiled = jax.jit(step, static_argnums=(0,) if known else (), donate_argnums=(1,))
        for start in (0, 1, 2, 3, 4, 5, room - length):
            params, grads, mu, nu = buffers
            results = compiled(start, [jnp.array(x) for x in (params, mu, nu)], grads)
            part = slice(start, start + length)
            expected = [x.copy() for x in (params, mu, nu)]
            values = expected_of(row, tuple(x[part] for x in buffers), "params")
            for whole, value in zip(expected, values, strict=True):
                whole[part] = value
            assert_bits([results], [tuple(expected)])


@pytest.mark.parametrize("dtype", WIDE)
def test_infinities_nans_zeros_and_the_largest_numbers(dtype: str) -> None:
    largest = np.finfo(dtype).max
    values = np.array([0.0, -0.0, 1.0, -1.0, largest, -largest, np.inf, -np.inf, np.nan], dtype)
    leaf = tuple(x.ravel() for x in np.meshgrid(values, values, values, np.abs(values)))
    for seed in range(3):
        row = oracle.rows(np.random.default_rng(seed), (), dtype)
        with enable_x64(True), np.errstate(all="ignore"):
            assert_bits(update(row, [leaf]), [expected_of(row, leaf, "params")])


def test_numbers_too_small_to_be_normal(on_gpu: bool) -> None:
    """XLA's threads on the CPU flush them to zero; the kernels of a GPU keep them."""
    rng = np.random.default_rng(5)
    tiny = np.finfo(np.float32).smallest_subnormal
    leaf = tuple((tiny * rng.integers(1, 1000, 1000)).astype(np.float32) for _ in range(4))
    row = oracle.rows(rng, (), "float32")
    results, expected = update(row, [leaf]), expected_of(row, leaf, "params")
    if on_gpu:
        assert_bits(results, [expected])
    else:
        for result, value in zip(results[0], expected, strict=True):
            np.testing.assert_allclose(result, value, rtol=0, atol=np.finfo(np.float32).tiny)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("donated", [True, False], ids=["donated", "kept"])
def test_a_skipped_step_changes_nothing_whatever_the_gradient(dtype: str, donated: bool) -> None:
    rng = np.random.default_rng(6)
    leaves = leaves_of(rng, SHAPES, dtype)
    for _, grads, _, _ in leaves:
        grads[...] = np.nan
    row = oracle.rows(rng, (), dtype)
    row[-1] = 1
    for returns in ("params", "change"):
        with enable_x64(True):
            results = run(row, leaves, returns=returns, donated=donated)
        assert_bits(results, [expected_of(row, leaf, returns) for leaf in leaves])


def test_some_rows_skip_and_others_do_not() -> None:
    rng = np.random.default_rng(7)
    leaves = leaves_of(rng, SHAPES, "float32")
    rows = oracle.rows(rng, (len(leaves),), "float32")
    rows[::2, -1] = 1
    assert_bits(
        jax.jit(update)(rows, leaves),
        [expected_of(row, leaf, "params") for row, leaf in zip(rows, leaves, strict=True)],
    )


def test_a_thousand_leaves() -> None:
    rng = np.random.default_rng(8)
    leaves = leaves_of(rng, [(n % 130,) for n in range(1000)], "float32")
    rows = oracle.rows(rng, (1000,), "float32")
    compiled = jax.jit(update).lower(rows, leaves).compile()
    calls = -(-1000 // leaves_in_call(platform_of_jax_backend(jax.default_backend())))
    assert compiled.as_text().count(CALL) == calls
    results = compiled(rows, leaves)
    assert_bits(
        results, [expected_of(row, leaf, "params") for row, leaf in zip(rows, leaves, strict=True)]
    )


@pytest.mark.parametrize("dtype", WIDE)
def test_donated_leaves_are_updated_where_they_are(dtype: str) -> None:
    rng = np.random.default_rng(9)
    row = oracle.rows(rng, (), dtype)

    def step(params: Any, mu: Any, nu: Any, grads: Any) -> Any:
        return nadam_update(row, params, grads, mu, nu)

    with enable_x64(True):
        groups = [
            [jnp.array(x) for x in group]
            for group in zip(*leaves_of(rng, [(64, n) for n in range(1, 40)], dtype), strict=True)
        ]
        params, grads, mu, nu = groups
        before = [x.unsafe_buffer_pointer() for x in (*params, *mu, *nu)]
        results = jax.jit(step, donate_argnums=(0, 1, 2))(params, mu, nu, grads)
        assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(results)] == before
