"""JAX's means of debugging: NaNs and infinities are blamed on our primitives, by name."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from nadam_xla.jax import nadam, nadam_update, nadamw, sum_squares

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
GRADS = jax.tree.map(lambda p: 0.5 * p, PARAMS)
BAD = {**GRADS, "b": jnp.array([1.0, jnp.nan, 1.0])}


def update(tx: Any, grads: Any) -> Any:
    return tx.update(grads, tx.init(PARAMS), PARAMS)


def apply(tx: Any, grads: Any) -> Any:
    return tx.apply(grads, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("take", [update, apply])
@pytest.mark.parametrize("make", [nadam, nadamw])
def test_debug_nans_names_the_update(
    make: Callable[..., Any], take: Callable[..., Any], compiled: bool
) -> None:
    def step(grads: Any) -> Any:
        return take(make(1e-2), grads)

    step = jax.jit(step) if compiled else step
    with jax.debug_nans(True):
        step(GRADS)
        with pytest.raises(FloatingPointError, match=r"\(nan\) encountered in nadam_xla_update"):
            jax.block_until_ready(step(BAD))


def test_debug_nans_finds_the_sum_of_squares() -> None:
    with jax.debug_nans(True):
        sum_squares(GRADS)
        for function in (sum_squares, jax.jit(sum_squares)):
            with pytest.raises(FloatingPointError, match="encountered in nadam_xla_sum_squares"):
                jax.block_until_ready(function(BAD))


def test_debug_nans_in_a_loop_and_in_a_population() -> None:
    tx = nadam(1e-2)

    def two_steps(grads: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            return tx.apply(grads, carry[1], carry[0]), None

        return jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), length=2)

    def population(grads: Any) -> Any:
        return jax.vmap(lambda rate: update(nadam(rate), grads))(jnp.array([1e-3, 1e-2]))

    with jax.debug_nans(True):
        for steps in (two_steps, population):
            steps(GRADS)
            with pytest.raises(FloatingPointError, match="nan"):
                jax.block_until_ready(jax.jit(steps)(BAD))


@pytest.mark.parametrize("compiled", [False, True])
def test_debug_infs_lets_finite_steps_pass(compiled: bool) -> None:
    for make in (nadam, nadamw, lambda rate: nadam(rate, momentum_decay=1.0)):
        for take in (update, apply):

            def step(grads: Any, take: Any = take, make: Any = make) -> Any:
                return take(make(1e-2), grads)

            with jax.debug_infs(True), jax.debug_nans(True):
                (jax.jit(step) if compiled else step)(GRADS)


def test_debug_infs_lets_finite_calls_pass() -> None:
    from nadam_xla.coefficients import Coefficients  # noqa: PLC0415

    row = Coefficients(1.0, 1.0, 1.0, 0.9, 0.1, 0.999, 0.001, 1e-2, 1e-8)
    with jax.debug_infs(True):
        nadam_update(row, PARAMS, GRADS, GRADS, GRADS)
        sum_squares(GRADS)


def test_debug_infs_finds_a_square_that_overflows() -> None:
    huge = jax.tree.map(lambda g: 2e19 * g / g, GRADS)
    huge["b"] *= 2
    stock = optax.nadam(1e-2)
    with jax.debug_infs(True):
        with pytest.raises(FloatingPointError):
            update(stock, huge)
        with pytest.raises(FloatingPointError, match=r"\(inf\) encountered in nadam_xla_update"):
            update(nadam(1e-2), huge)


def test_without_it_nothing_is_looked_for() -> None:
    change, _ = update(nadam(1e-2), BAD)
    assert jnp.isnan(change["b"][1])
    assert jnp.isfinite(change["b"][0])
