"""The update of some rows of a table on this device against the oracle, bit for bit."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from rows_oracle import updated_rows
from update_call import BITS

import nadam_xla.jax  # noqa: F401 - registers the handlers
from nadam_xla.targets import UPDATE_ROWS
from nadam_xla.workspace import rows_workspace_bytes

STATES = ("params", "mu", "nu")


def call(
    coefficients: Any, indices: Any, grads: Any, table: Mapping[str, Any], *, on_gpu: bool
) -> dict[str, jax.Array]:
    """A GPU is told the order of the indices; the CPU finds it in memory that it is given."""
    order = [jnp.argsort(indices, stable=True).astype(np.int32)] if on_gpu else []
    results = [jax.ShapeDtypeStruct(table[name].shape, table[name].dtype) for name in STATES]
    if not on_gpu:
        results.append(jax.ShapeDtypeStruct((rows_workspace_bytes(indices.size),), np.uint8))
    found = jax.ffi.ffi_call(UPDATE_ROWS, results, input_output_aliases={2: 0, 4: 1, 5: 2})(
        coefficients,
        indices,
        table["params"],
        grads,
        table["mu"],
        table["nu"],
        *order,
        streams=np.int64(sum(1 << BITS[name] for name in (*STATES, "grads"))),
        first_row=np.int64(0),
        rounding=np.int64(0),
    )
    return dict(zip(STATES, found, strict=False))


def drawn(
    shape: tuple[int, ...], touched: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Coefficients, indices, gradients and table; a quarter of the indices is of one row."""
    rng = np.random.default_rng(touched)
    indices = rng.integers(-2, shape[0] + 2, touched).astype(np.int32)
    indices[: touched // 4] = shape[0] // 2
    table = {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name in STATES}
    grads = rng.normal(size=(touched, *shape[1:])).astype(np.float32)
    return oracle.rows(rng, (1, 1), "float32"), rng.permutation(indices), grads, table


@pytest.mark.parametrize(
    ("shape", "touched"), [((7,), 3), ((50, 33), 200), ((300, 64), 900), ((30, 3, 5), 0)]
)
def test_rows_that_occur_are_the_oracles_and_all_others_stay(
    shape: tuple[int, ...], touched: int, on_gpu: bool
) -> None:
    coefficients, indices, grads, table = drawn(shape, touched)

    @jax.jit
    def update(*operands: Any) -> dict[str, jax.Array]:
        return call(*operands, on_gpu=on_gpu)

    found = update(coefficients, indices, grads, table)
    expected = updated_rows(coefficients[0, 0], indices, grads, table)
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)


def test_in_a_loop_the_table_stays_where_it_is(on_gpu: bool) -> None:
    """Each turn with rows of its own."""
    coefficients, indices, grads, table = drawn((400, 16), 600)
    turns = 3

    def update(table: Any, coefficients: Any, indices: Any, grads: Any) -> Any:
        def turn(i: Any, table: Any) -> Any:
            return call(coefficients, (indices + i) % 400, grads, table, on_gpu=on_gpu)

        return jax.lax.fori_loop(0, turns, turn, table)

    donated = {name: jnp.array(x) for name, x in table.items()}
    places = {name: x.unsafe_buffer_pointer() for name, x in donated.items()}
    found = jax.jit(update, donate_argnums=0)(donated, coefficients, indices, grads)
    assert {name: x.unsafe_buffer_pointer() for name, x in found.items()} == places
    for i in range(turns):
        table = updated_rows(coefficients[0, 0], (indices + i) % 400, grads, table)
    for name, x in table.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
