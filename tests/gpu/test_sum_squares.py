"""The sums of squares on this device: against float64, and the same bits every time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from nadam_xla.jax import nadam, sum_squares

RUNS = 20

# Of float32, a GPU adds four squares as they are, which rounds up to four times; all else is added
# up in float64. The host adds in another order, which shows in float64.
TOLERANCE = {"float64": 1e-14, "float32": 3e-7, "bfloat16": 3e-7, "float16": 3e-7}

LENGTHS = [0, 1, 3, 4, 5, 1023, 1024, 1025, 4095, 4097, 65_537, 1_000_003]


def expected(leaf: Any) -> np.ndarray:
    return np.sum(np.square(np.asarray(leaf).astype(np.float64)))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_every_length_in_one_call(dtype: str) -> None:
    rng = np.random.default_rng(0)
    with enable_x64(True):
        tree = [jnp.asarray(rng.normal(size=n), dtype) for n in LENGTHS]
        compiled = jax.jit(sum_squares).lower(tree)
        assert compiled.as_text().count("@nadam_xla_sum_squares_v1") == 1
        for leaf, total in zip(tree, compiled.compile()(tree), strict=True):
            assert total.dtype == ("float64" if dtype == "float64" else "float32")
            np.testing.assert_allclose(total, expected(leaf), rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("batch", [1, 3])
def test_entries_of_odd_lengths(batch: int) -> None:
    rng = np.random.default_rng(1)
    tree = [jnp.asarray(rng.normal(size=(batch, n)), jnp.float32) for n in (1, 3, 5, 4099, 0)]
    for leaf, sums in zip(tree, jax.jit(jax.vmap(sum_squares))(tree), strict=True):
        for entry, total in zip(leaf, sums, strict=True):
            np.testing.assert_allclose(total, expected(entry), rtol=TOLERANCE["float32"])


def test_a_thousand_leaves() -> None:
    rng = np.random.default_rng(2)
    tree = [rng.normal(size=n % 130).astype(np.float32) for n in range(1000)]
    sums = np.asarray(jax.jit(lambda tree: jnp.stack(sum_squares(tree)))(tree))
    np.testing.assert_allclose(sums, [expected(x) for x in tree], rtol=TOLERANCE["float32"])


def test_the_same_bits_every_time() -> None:
    rng = np.random.default_rng(3)
    tree = [jnp.asarray(rng.normal(size=n), jnp.float32) for n in (3_000_001, 65_537, 7)]
    compiled = jax.jit(lambda tree: jnp.stack(sum_squares(tree)))
    runs = [np.asarray(compiled(tree)).tobytes() for _ in range(RUNS)]
    assert len(set(runs)) == 1


def test_a_step_is_left_out_where_a_gradient_is_not_finite_and_not_where_squares_are() -> None:
    tx = nadam(1e-2, max_norm=1.0, skip_nonfinite=True)
    step = jax.jit(lambda grads: tx.apply([grads], tx.init([grads]), [grads])[1].count)
    for length in (5, 5000):
        grads = np.full(length, 1e30, np.float32)
        assert step(grads) == 1
        for bad in (np.inf, np.nan):
            grads[-1] = bad
            assert step(grads) == 0


def test_what_is_not_finite_shows() -> None:
    tree = [np.float32([1e30, 1]), np.float32([np.nan, 1.0]), np.float32([-np.inf, 0])]
    overflown, nan, infinite = sum_squares(tree)
    assert np.isposinf(overflown)
    assert np.isnan(nan)
    assert np.isposinf(infinite)
