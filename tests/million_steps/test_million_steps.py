"""A million steps of a tiny leaf, in one compiled loop, for every storage.

The judge is float64. How far a run may be from it follows from what is rounded, and how often.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import long_run
import numpy as np
import pytest
from x64 import enable_x64

from nadam_xla.jax import full_params, nadam

STEPS = 1_000_000
RATE = 1e-3
TABLE = long_run.gradients()
START = np.resize([1.0, -0.5, 0.25, 2.0, 0.0], TABLE.shape[1])
SCHEDULED = 0.004  # PyTorch's momentum decay


def after(tx: Any, start: Any, table: Any, **replaced: Any) -> Any:
    """Parameters and state, of trees of parameters and of their gradients of each step.

    ``replaced``: of the state, before the first step.
    """

    @jax.jit
    def loop(params: Any, state: Any, table: Any) -> Any:
        def step(t: Any, carry: Any) -> Any:
            place = t // long_run.STEPS_WITH_ONE_GRADIENT % long_run.GRADIENTS
            grads = jax.tree.map(lambda x: x[place], table)
            return tx.apply(grads, carry[1], carry[0])

        return jax.lax.fori_loop(0, STEPS, step, (params, state))

    start = jax.tree.map(jnp.asarray, start)
    return loop(start, tx.init(start)._replace(**replaced), table)


@cache
def expected(momentum_decay: float | None = None, roundoff: float = 2.0**-24) -> long_run.Run:
    return long_run.run(
        START, TABLE, STEPS, learning_rate=RATE, momentum_decay=momentum_decay, roundoff=roundoff
    )


@cache
def of_float32() -> Any:
    tx = nadam(RATE, average_decay=0.999)
    return after(tx, START.astype(np.float32), TABLE.astype(np.float32))


def test_float32_is_float64_within_what_its_roundings_add_up_to() -> None:
    params, state = of_float32()
    exact = expected()
    assert np.all(np.abs(params - exact.params) <= exact.bound)
    assert np.all(np.abs(state.average - exact.average) <= exact.bound)
    assert state.count == STEPS


def test_so_is_float64_with_a_product_of_a_million_momenta() -> None:
    """Both runs are rounded."""
    with enable_x64(True):
        params, state = after(nadam(RATE, momentum_decay=SCHEDULED), START, TABLE)
        exact = expected(SCHEDULED, roundoff=2.0**-53)
        assert np.all(np.abs(params - exact.params) <= 2 * exact.bound)
        assert state.momentum_product < 1e-300


def test_bfloat16_with_a_remainder_has_the_bits_of_float32() -> None:
    tx = nadam(RATE, master="remainder", average_decay=0.999)
    params, state = after(tx, START.astype(jnp.bfloat16), TABLE.astype(np.float32))
    wide, wide_state = of_float32()
    np.testing.assert_array_equal(full_params(params, state.master), wide)
    np.testing.assert_array_equal(state.average, wide_state.average)


def test_a_correction_is_float32s_but_for_an_unbiased_walk() -> None:
    """Its place is 2**-15 of a parameter at most, and a draw at most half of that from the mean.

    Within six standard deviations of the sum of all draws.
    """
    tx = nadam(RATE, master="correction", rounding="stochastic", seed=1)
    params, state = after(tx, START.astype(jnp.bfloat16), TABLE.astype(np.float32))
    exact = expected()
    error = np.abs(full_params(params, state.master) - exact.params)
    assert np.all(error <= exact.bound + 6 * 2.0**-16 * exact.largest)


# Of a parameter from 1 to 2: less than half a place of it, in either narrow dtype; and eight places
# of float32, so that the sum, which is rounded to that before anything is drawn, takes nothing.
LITTLE = 2.0**-20
WALKERS = 64
# What a place is from 2 on, where a walk may come to.
PLACES = {"bfloat16": 2.0**-6, "float16": 2.0**-9}


@cache
def of_little_steps(rounding: Any) -> Any:
    """Leaves that go the same way in each dtype; one that turns; and one without gradients."""
    same = np.full((long_run.GRADIENTS, WALKERS), -1, np.float32)
    turning = np.repeat(TABLE[:, :4].astype(np.float32), WALKERS, axis=1)
    start = {dtype: jnp.ones(WALKERS, dtype) for dtype in PLACES}
    start |= {"turning": jnp.zeros(turning.shape[1]), "resting": jnp.ones(8)}
    table = dict.fromkeys(PLACES, same) | {"turning": turning, "resting": 0 * turning[:, :8]}
    tx = nadam(LITTLE, mu_dtype="bfloat16", nu_dtype="bfloat16", rounding=rounding)
    nu = tx.init(start).nu | {"resting": jnp.ones(8, "bfloat16")}
    return after(tx, start, table, nu=nu)


@pytest.mark.parametrize("dtype", PLACES)
def test_what_is_narrow_stands_still_or_walks_with_float64(dtype: str) -> None:
    """A step is less than half a place. To the nearest it is lost, a million times.

    Drawn, a step of x of a place is taken with the probability x: the variance of all is no more
    than the sum of the steps, times a place. The mean of so many parameters is within five standard
    errors, and a hundredth of the way for the moments, see below.
    """
    (stands, _), (walks, _) = (of_little_steps(rounding) for rounding in ("nearest", "stochastic"))
    table = np.full((1, 1), -1.0)
    exact = long_run.run(np.ones(1), table, STEPS, learning_rate=LITTLE)
    assert np.all(stands[dtype] == 1)
    error = np.mean(np.asarray(walks[dtype]).astype(np.float64)) - exact.params
    deviation = np.sqrt(exact.path * PLACES[dtype])
    assert abs(error) <= 5 * deviation / WALKERS**0.5 + 0.01 * exact.path


def test_a_second_moment_without_gradients_falls_where_it_is_drawn() -> None:
    """To the nearest, a thousandth less is the same number in bfloat16."""
    (_, nearest), (_, drawn) = (of_little_steps(rounding) for rounding in ("nearest", "stochastic"))
    assert np.all(nearest.nu["resting"] == 1)
    assert np.all(drawn.nu["resting"] < 1e-4)


def test_drawn_moments_lead_where_float64_leads() -> None:
    """Their noise is unbiased, but not the inverse of a root: by less than a hundredth of the way.

    A second moment changes by a thousandth a step, an eighth of a place at the least: over the 500
    steps that it remembers, the variance of what is drawn is 0.004 of its square, and the mean of
    the inverse root too large by three eighths of that. What is left is chance.
    """
    params, _ = of_little_steps("stochastic")
    exact = long_run.run(np.zeros(4), TABLE[:, :4], STEPS, learning_rate=LITTLE)
    found = np.reshape(np.asarray(params["turning"]), (4, WALKERS)).mean(axis=1, dtype=np.float64)
    assert np.all(np.abs(found - exact.params) <= 0.01 * exact.path)
