"""The update of some rows of a table, and of no other, in place."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import storage_oracle as stored
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_call import TARGET, traced_rows, update_rows
from rows_oracle import updated_rows
from update_call import row, update, with_key
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handlers
from nadam_xla import _native_testing as native

Table = dict[str, np.ndarray]


def table_of(
    rng: np.random.Generator, shape: Sequence[int], dtypes: Mapping[str, Any] | Any = np.float32
) -> Table:
    """Parameters and moments in one dtype, or each in its own."""
    names = ("params", "mu", "nu")
    of = dtypes if isinstance(dtypes, Mapping) else dict.fromkeys(names, dtypes)
    return {name: rng.uniform(0.5, 1.5, shape).astype(of[name]) for name in names}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype
        assert found[name].tobytes() == np.asarray(x).tobytes(), name


@st.composite
def touched_rows(draw: st.DrawFn) -> tuple[list[int], np.ndarray]:
    """The shape of a table of one to four axes, and numbers of which some are those of no row."""
    shape = draw(st.lists(st.integers(1, 5), max_size=3))
    height = draw(st.integers(0, 9))
    some = st.integers(-3, height + 3)
    numbers = draw(st.one_of(st.lists(some, max_size=20), some.map(lambda i: [i] * 7)))
    return [height, *shape], np.array(numbers, draw(st.sampled_from([np.int32, np.int64])))


@settings(max_examples=40, deadline=None)
@given(touched_rows(), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1))
def test_rows_that_occur_are_updated_with_their_sums_and_others_stay(
    rows: tuple[list[int], np.ndarray], dtype: Any, seed: int
) -> None:
    shape, indices = rows
    rng = np.random.default_rng(seed)
    coefficients = oracle.rows(rng, (1, 1), np.dtype(dtype).name)
    grads = rng.normal(size=(len(indices), *shape[1:])).astype(dtype)
    table = table_of(rng, shape, dtype)
    with enable_x64(True):
        found = update_rows(coefficients, indices, grads, table)
    assert_same(found, updated_rows(coefficients[0, 0], indices, grads, table))


@pytest.mark.parametrize(
    ("height", "columns", "touched"),
    [(300_000, 1, 5000), (70_000, 3, 40_000), (5000, 130, 3000), (40, 2500, 90), (2**17, 8, 2)],
)
def test_many_rows_on_many_threads(height: int, columns: int, touched: int) -> None:
    rng = np.random.default_rng(touched)
    coefficients = oracle.rows(rng, (1, 1), "float32")
    indices = rng.integers(-5, height + 5, touched)
    indices[touched // 2 :] = np.sort(indices[touched // 2 :] % 11)  # a few that occur often
    indices = rng.permutation(indices).astype(np.int32)
    grads = rng.normal(size=(touched, columns)).astype(np.float32)
    table = table_of(rng, (height, columns))
    found = update_rows(coefficients, indices, grads, table)
    assert_same(found, updated_rows(coefficients[0, 0], indices, grads, table))


def test_rows_that_do_not_occur_keep_even_bits_that_are_no_numbers() -> None:
    rng = np.random.default_rng(0)
    table = table_of(rng, (6, 33))
    for x in table.values():
        x.view(np.uint32)[[1, 4]] = 0x7F812345  # a signaling NaN
    indices = np.int32([3, 0])
    grads = rng.normal(size=(2, 33)).astype(np.float32)
    found = update_rows(row()[None, None], indices, grads, table)
    for name, x in found.items():
        assert x[[1, 4]].tobytes() == table[name][[1, 4]].tobytes()


STORAGES = {
    "float32": {"params": np.float32, "grads": np.float32, "mu": np.float32, "nu": np.float32},
    "bfloat16": dict.fromkeys(("params", "grads", "mu", "nu"), stored.BFLOAT16),
    "float16": dict.fromkeys(("params", "grads", "mu", "nu"), stored.FLOAT16),
    "mixed": {
        "params": np.float32,
        "grads": stored.FLOAT16,
        "mu": stored.BFLOAT16,
        "nu": np.float64,
    },
}
MASTERS = {None: None, "uint16": np.uint16, "uint8": np.uint8, "float32": np.float32}


@pytest.mark.parametrize("columns", [1, 31, 64, 1100])
@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize(
    ("storage", "master"),
    [*((name, None) for name in STORAGES), *(("bfloat16", name) for name in MASTERS if name)],
)
def test_with_every_row_touched_the_bits_are_those_of_the_whole_update(
    storage: str, master: str | None, stochastic: bool, columns: int
) -> None:
    rng = np.random.default_rng(columns)
    height, dtypes = 37, STORAGES[storage]
    coefficients = with_key(oracle.rows(rng, (1, 1), "float32"), seed=9, step=3)
    table = table_of(rng, (height, columns), dtypes)
    if master is not None:
        numbers = rng.uniform(0, 255, (height, columns))
        table["master"] = numbers.astype(MASTERS[master])
    grads = rng.normal(size=(height, columns)).astype(dtypes["grads"])
    order = rng.permutation(height).astype(np.int64)
    with enable_x64(True):
        found = update_rows(coefficients, order, grads[order], table, stochastic=stochastic)
        dense = update(coefficients, [{**table, "grads": grads}], stochastic=stochastic)[0]
    assert_same(found, {name: dense[name] for name in found})


def test_narrow_gradients_are_summed_in_float32() -> None:
    grads = np.full((300, 5), 1 + 2**-7, stored.BFLOAT16)
    table = {name: np.zeros((2, 5), np.float32) for name in ("params", "mu", "nu")}
    mu_is_gradient = row(b1=0, one_minus_b1=1)[None, None]
    found = update_rows(mu_is_gradient, np.ones(300, np.int32), grads, table)
    np.testing.assert_array_equal(found["mu"], [[0] * 5, [300 * (1 + 2**-7)] * 5])


def test_each_entry_of_a_batch_has_its_own_rows_and_coefficients() -> None:
    rng = np.random.default_rng(4)
    batch, height, columns, touched = 3, 7, 5, 9
    coefficients = oracle.rows(rng, (batch, 2), "float32")
    indices = rng.integers(-1, height + 1, (batch, touched)).astype(np.int32)
    grads = rng.normal(size=(batch, touched, columns)).astype(np.float32)
    table = table_of(rng, (batch, height, columns))
    found = update_rows(coefficients, indices, grads, table, first_row=1)
    for i in range(batch):
        entry = {name: x[i] for name, x in table.items()}
        expected = updated_rows(coefficients[i, 1], indices[i], grads[i], entry)
        assert_same({name: x[i] for name, x in found.items()}, expected)


def test_a_step_that_is_left_out_writes_nothing() -> None:
    rng = np.random.default_rng(5)
    table, grads = table_of(rng, (4, 3)), np.full((2, 3), np.nan, np.float32)
    found = update_rows(row(skip=1)[None, None], np.int32([1, 1]), grads, table)
    assert_same(found, table)


def test_a_donated_table_stays_where_it_is() -> None:
    rng = np.random.default_rng(6)
    table = {name: jnp.array(x) for name, x in table_of(rng, (100, 32)).items()}
    places = {name: x.unsafe_buffer_pointer() for name, x in table.items()}
    grads = rng.normal(size=(2, 32)).astype(np.float32)
    step = jax.jit(traced_rows, donate_argnums=3)
    found = step(row(learning_rate=1)[None, None], np.int32([7, 70]), grads, table)
    assert {name: x.unsafe_buffer_pointer() for name, x in found.items()} == places


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("start", ["at once", "on threads", "late"])
def test_the_number_of_threads_does_not_show(threads: int, start: str) -> None:
    rng = np.random.default_rng(7)
    coefficients = oracle.rows(rng, (1, 1), "float32")
    indices = rng.integers(0, 500, 4000).astype(np.int32)
    grads = rng.normal(size=(4000, 24)).astype(np.float32)
    table = table_of(rng, (500, 24))
    expected = updated_rows(coefficients[0, 0], indices, grads, table)
    native.update_rows(
        coefficients[0, 0], indices, grads, *table.values(), threads=threads, start=start
    )
    assert_same(table, expected)


def refused(message: str, *operands: Any, **choices: Any) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        update_rows(*operands, **choices)


def test_what_does_not_fit_is_refused_by_name() -> None:
    rng = np.random.default_rng(8)
    one, indices = row()[None, None], np.int32([0, 1])
    grads, table = np.zeros((2, 3), np.float32), table_of(rng, (4, 3))
    refused(f"{TARGET}: .*indices is F32", one, indices.astype(np.float32), grads, table)
    refused("indices is S32.1,2.; it must be", one, indices[None], grads, table)
    refused(
        "grads.0. is F32.3,3.;.*those of indices", one, indices, np.zeros((3, 3), np.float32), table
    )
    refused("grads.0. is F32.2,4.;", one, indices, np.zeros((2, 4), np.float32), table)
    refused("mu.0. is F32.4,2.;", one, indices, grads, {**table, "mu": table["mu"][:, :2]})
    refused("the workspace is U8.16.; it must be U8.32.", one, indices, grads, table, touched=1)
    refused("is not in its memory", one, indices, grads, table, aliases=False)
    refused(
        "from row 3 on",
        np.zeros((1, 2, one.shape[-1]), np.float32),
        indices,
        grads,
        table,
        first_row=3,
    )
    scalar = {name: x[0, 0] for name, x in table.items()}
    refused("params.0. has the shape ..; it must be .height", one, indices, grads, scalar)
    refused("batch", np.repeat(one, 2, axis=0), indices, grads, table)
    no_key = one[..., :15]
    refused("rounding is stochastic", no_key, indices, grads, table, stochastic=True)
