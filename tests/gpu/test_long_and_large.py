"""What takes long or much memory: a million steps, and a leaf of more than 2**31 elements."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from nadam_xla.jax import nadam_update

LENGTHS = [1, 3, 4, 5, 7, 8, 33, 64]
STEPS_ON_GPU = 1_000_000
STEPS_ELSEWHERE = 20_000  # what the oracle takes a second for
STEPS_WITH_ONE_GRADIENT = 100


def row_of_long_runs() -> np.ndarray:
    """A row under which nothing runs away, however many the steps."""
    row = oracle.rows(np.random.default_rng(0), (), "float32")
    row[7:9] = 1e-3  # decay, l2
    return row


def start() -> tuple[list[np.ndarray], ...]:
    rng = np.random.default_rng(1)
    params = [rng.normal(size=n).astype(np.float32) for n in LENGTHS]
    zeros = [np.zeros(n, np.float32) for n in LENGTHS]
    return params, zeros, [x.copy() for x in zeros]


def gradients() -> list[np.ndarray]:
    """64 for each leaf, of which the steps take one after the other."""
    rng = np.random.default_rng(2)
    return [rng.normal(size=(64, n)).astype(np.float32) for n in LENGTHS]


@partial(jax.jit, static_argnums=3, donate_argnums=(0, 1, 2))
def loop(params: Any, mu: Any, nu: Any, steps: int, row: Any, grads: Any) -> Any:
    def body(step: Any, carry: Any) -> Any:
        params, mu, nu = carry
        of_step = [g[step // STEPS_WITH_ONE_GRADIENT % 64] for g in grads]
        return nadam_update(row, params, of_step, mu, nu)

    return jax.lax.fori_loop(0, steps, body, (params, mu, nu))


def after(steps: int, device: Any) -> list[np.ndarray]:
    """Parameters and moments after so many steps on the device."""
    groups, (row, grads) = (
        jax.device_put(x, device) for x in (start(), (row_of_long_runs(), gradients()))
    )
    return [np.asarray(x) for x in jax.tree.leaves(loop(*groups, steps, row, grads))]


def oracle_after(steps: int) -> list[np.ndarray]:
    row = row_of_long_runs()
    p, m, v = (np.concatenate(group) for group in start())
    grads = np.concatenate(gradients(), axis=1)
    for step in range(steps):
        p, _, m, v = oracle.rule(row, p, grads[step // STEPS_WITH_ONE_GRADIENT % 64], m, v)
    return [x for group in (p, m, v) for x in np.split(group, np.cumsum(LENGTHS)[:-1])]


def test_thousands_of_steps_of_tiny_leaves_give_the_oracles_bits() -> None:
    results = after(STEPS_ELSEWHERE, jax.local_devices()[0])
    for result, value in zip(results, oracle_after(STEPS_ELSEWHERE), strict=True):
        np.testing.assert_array_equal(result, value)


def test_a_million_steps_of_tiny_leaves_give_the_cpus_bits(on_gpu: bool) -> None:
    if not on_gpu:
        pytest.skip("there is no GPU: both sides would be the CPU's kernel")
    of_cpu = after(STEPS_ON_GPU, jax.local_devices(backend="cpu")[0])
    for result, value in zip(after(STEPS_ON_GPU, jax.local_devices()[0]), of_cpu, strict=True):
        assert np.all(np.isfinite(value))
        np.testing.assert_array_equal(result, value)


COLUMNS = 4096
STREAMS = 4  # one of them is not donated


def stream(number: int, first: Any, rows: int) -> jax.Array:
    """Rows of the stream of this number, from row `first` on: float32 from 0.5 to 1.5."""
    row = (jnp.arange(rows, dtype=jnp.uint32) + first)[:, None] * jnp.uint32(2_654_435_761)
    column = jnp.arange(COLUMNS, dtype=jnp.uint32)[None] * jnp.uint32(40_503 + 2 * number)
    return ((row + column) >> 8).astype(jnp.float32) / 2**24 + 0.5


@pytest.mark.parametrize("rows", [300, 2**19 + 3], ids=["a few rows", "2**31 + 12288 elements"])
def test_every_element_of_a_large_leaf(rows: int, free_memory: int) -> None:
    """The same as its parts give, which the oracle confirms for some."""
    needed = (STREAMS + 0.5) * 4 * COLUMNS * rows
    if rows > 2**19 and free_memory < needed:
        pytest.skip(
            f"it needs {needed / 1e9:.0f} GB of a GPU's memory; {free_memory / 1e9:.0f} are free"
        )
    row = oracle.rows(np.random.default_rng(0), (), "float32")
    make = jax.jit(stream, static_argnums=(0, 2))
    params, grads, mu, nu = (make(number, 0, rows) for number in range(STREAMS))

    def step(params: Any, mu: Any, nu: Any, grads: Any) -> Any:
        return nadam_update(row, params, grads, mu, nu)

    results = jax.jit(step, donate_argnums=(0, 1, 2))(params, mu, nu, grads)
    del grads
    part = 2**13 if rows > 2**13 else 128

    @jax.jit
    def parts_of(first: Any, results: Any) -> Any:
        params, grads, mu, nu = (stream(number, first, part) for number in range(STREAMS))
        found = [jax.lax.dynamic_slice(x, (first, 0), (part, COLUMNS)) for x in results]
        expected = nadam_update(row, params, grads, mu, nu)
        alike = [jnp.all(a == b) for a, b in zip(found, expected, strict=True)]
        return alike, [x[:2] for x in found], [x[:2] for x in (params, grads, mu, nu)]

    for first in [*range(0, rows - part, part), rows - part]:
        alike, found, inputs = parts_of(first, results)
        assert all(alike), f"rows from {first} on"
        new_params, _, new_mu, new_nu = oracle.rule(row, *(np.asarray(x) for x in inputs))
        for result, value in zip(found, (new_params, new_mu, new_nu), strict=True):
            np.testing.assert_array_equal(result, value)
