"""Hard numbers and hyperparameters through `nadam_xla.keras`: what stock Keras makes of them, so do
we. NaN where stock has NaN, the same infinities, and finite numbers that are close.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import hard_numbers as hard
import keras
import numpy as np
import pytest
from keras import ops
from keras_steps import WAYS as ALL_WAYS
from keras_steps import step_of

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()
Stock = keras.optimizers.Nadam

if BACKEND == "torch":
    pytest.skip("trains by the parent's update, which is stock's", allow_module_level=True)

WAYS = ALL_WAYS[BACKEND]
INF, NAN, LARGEST = hard.INF, hard.NAN, hard.LARGEST
RATE = 1e-2
ROOT = LARGEST**0.5  # from which on a square overflows

# Each with a parameter, and every pair of gradients of two steps.
PARAMS, *GRADS = hard.combinations_with(*[hard.numbers(np.float32)] * 3)
GRADS.append(GRADS[0][::-1].copy())

CHANGED: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "beta_1 0": {"beta_1": 0.0},
    "beta_1 just under 1": {"beta_1": hard.UNDER_1},
    "beta_2 0": {"beta_2": 0.0},
    "beta_2 just under 1": {"beta_2": hard.UNDER_1},
    "both 0": {"beta_1": 0.0, "beta_2": 0.0},
    "rate 0": {"learning_rate": 0.0},
    "infinite rate": {"learning_rate": INF},
    "NaN rate": {"learning_rate": NAN},
    "epsilon 0": {"epsilon": 0.0},
    "infinite epsilon": {"epsilon": INF},
    "weight decay": {"weight_decay": 0.1},
    "averages": {"use_ema": True, "ema_momentum": 0.75},
    "loss scale 2**126": {"loss_scale_factor": 2.0**126},
    "loss scale 2**-126": {"loss_scale_factor": 2.0**-126},
    "clipvalue smallest": {"clipvalue": hard.TINY},
    "clipvalue 1": {"clipvalue": 1.0},
    "clipvalue infinite": {"clipvalue": INF},
}
WITH_WAYS = [
    (name, way)
    for name in CHANGED
    for way in WAYS
    if way == "eager" or name in ("ordinary", "weight decay", "averages")
]


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(v) for v in variables]


def state_of(optimizer: Any) -> list[np.ndarray]:
    """The moments, and the averages where there are some."""
    averages = optimizer._model_variables_moving_average if optimizer.use_ema else []
    return values_of([*optimizer._momentums, *optimizer._velocities, *averages])


@pytest.mark.parametrize(("name", "way"), WITH_WAYS)
def test_every_number_becomes_what_stock_makes_of_it(name: str, way: str) -> None:
    """But where stock's form of a moment, what it was and a share of the difference, is at its end.

    It is NaN or infinite of infinite numbers, and of finite ones whose difference or whose square
    overflows; and small beside what it was, a gradient is lost. Here a moment that was infinite
    stays so, which is NaN in the parameter all the same; where a gradient is finite and its square
    is not, the parameter stands still. An infinite rate makes parameters infinite or NaN in both.
    """
    arguments = {"learning_rate": RATE, **CHANGED[name]}
    found, expected = (after_each_step(kind, arguments, way) for kind in (Nadam, Stock))
    scale = np.float32(arguments.get("loss_scale_factor", 1.0))
    limit = np.float32(arguments.get("clipvalue", INF))
    rate, decay = arguments["learning_rate"], arguments.get("weight_decay", 0.0)
    before, largest = PARAMS, np.zeros_like(PARAMS)
    for grads, (params, *states), (stock_params, *stock_states) in zip(
        GRADS, found, expected, strict=True
    ):
        with np.errstate(all="ignore"):
            largest = np.maximum(largest, np.abs(np.clip(grads / scale, -limit, limit)))
            stands_at = before * np.float32(1 - rate * decay)
        is_large = (largest >= ROOT) & np.isfinite(largest)
        stands = is_large & np.isnan(stock_params) & ~np.isnan(params)
        # What is too small to be normal may be zero in every thread, stock's and ours.
        np.testing.assert_allclose(params[stands], stands_at[stands], rtol=1e-6, atol=hard.TINY)
        if not np.isfinite(rate):
            stands |= ~np.isfinite(params) & ~np.isfinite(stock_params)
        wanted = np.where(stands, params, stock_params)
        np.testing.assert_allclose(params, wanted, rtol=1e-5, atol=1e-8)
        with np.errstate(over="ignore"):
            rounded = [largest, largest**2, 1e-2]
        for x, y, of in zip(states, stock_states, rounded, strict=False):
            is_finite = np.isfinite(y)
            atol = np.broadcast_to(2.0**-22 * of + hard.TINY, x.shape)[is_finite]
            error = np.abs(x[is_finite] - y[is_finite])
            assert np.all(error <= 1e-5 * np.abs(y[is_finite]) + atol)
            assert np.all(~np.isfinite(x) | is_finite | is_large)
        before = params


def after_each_step(kind: type, arguments: dict[str, Any], way: str) -> list[list[np.ndarray]]:
    """The parameters, the moments, and the averages where there are some."""
    variable = keras.Variable(PARAMS)
    optimizer = kind(**arguments)
    optimizer.build([variable])
    step = step_of(optimizer, [variable], way)
    seen = []
    for grads in GRADS:
        step([ops.convert_to_tensor(grads)])
        seen.append([*values_of([variable]), *state_of(optimizer)])
    return seen


# ---- limits --------------------------------------------------------------------------------------

GRADIENTS: dict[str, list[float]] = {
    "zero": [0.0, -0.0, 0.0],
    "ordinary": [0.3, -4.0, 0.0],
    "too small to be normal": [1e-42, -1e-45, 0.0],
    "squares underflow": [1e-25, -1e-25, 0.0],
    "squares overflow": [2 * ROOT, -1.0, 0.0],
    "largest": [LARGEST, -LARGEST, LARGEST],
    "infinite": [INF, 1.0, 0.0],
    "infinities": [INF, -INF, 1.0],
    "NaN": [1.0, NAN, 0.0],
    "NaN and infinity": [-INF, NAN, 1e-42],
}
LIMITS = {
    "smallest": hard.TINY,
    "1": 1.0,
    "largest": LARGEST,
    "infinite": INF,
    "NaN": NAN,
    "0": 0.0,
}


@cache
def of_limit(kind: type, name: str, limit: str, way: str) -> Any:
    """Two variables, and the first moments after a first step with these gradients."""
    variables = [keras.Variable(np.zeros(3, "f")) for _ in range(2)]
    optimizer = kind(RATE, **{name: LIMITS[limit]})
    optimizer.build(variables)
    step = step_of(optimizer, variables, way)
    at_first = values_of([*variables, *optimizer.variables])

    def after(grads: list[list[float]]) -> list[np.ndarray]:
        for variable, value in zip([*variables, *optimizer.variables], at_first, strict=True):
            variable.assign(value)
        step([ops.convert_to_tensor(g, "float32") for g in grads])
        return values_of([*optimizer._momentums, *variables])

    return after


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_every_gradient_is_limited_as_stock_limits_it(name: str, limit: str) -> None:
    """Eagerly each kind of gradient beside an ordinary one; compiled, the worst under one limit.

    Stock multiplies by a `clipnorm` before it divides, and may leave the range of float32 between;
    compiled by XLA it may multiply by the inverse, too.
    The largest gradients are NaN in stock's parameters, for its correction of them overflows.
    """
    for way in WAYS if limit == "1" else WAYS[:1]:
        for kind in GRADIENTS if way == "eager" else ("squares overflow", "infinities"):
            grads = np.float32([GRADIENTS["ordinary"], GRADIENTS[kind]])
            found, expected = (of_limit(k, name, limit, way)(grads) for k in (Nadam, Stock))
            for i, g in enumerate(grads):
                is_out, right = out_of_range(g, limit) if name == "clipnorm" else (False, 0.0)
                wanted = np.where(is_out, right, expected[i])
                np.testing.assert_allclose(found[i], wanted, rtol=2e-6, atol=3e-38, err_msg=kind)
                is_nan, of_stock = np.isnan(found[2 + i]), np.isnan(expected[2 + i])
                is_largest = np.isfinite(expected[i]) & (np.abs(expected[i]) > 0.05 * LARGEST)
                is_right = (is_nan == of_stock) | is_out | is_largest & ~is_nan
                assert np.all(is_right), kind


def out_of_range(grads: np.ndarray, limit: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a product or quotient of stock's with the limit leaves the range; what is right."""
    by, wide = np.float64(LIMITS[limit]), grads.astype(np.float64)
    with np.errstate(all="ignore"):
        norm = np.sqrt(np.float64(np.float32(np.sum(wide**2))))
        product = np.abs(wide * by)
        leaves = np.isfinite(grads) & np.isfinite(by) & (by > 0) & (grads != 0)
        return (
            leaves & ((product > LARGEST) | (product < hard.TINY) | (1 / by < hard.TINY)),
            0.1 * wide * by / np.maximum(norm, by),
        )


# ---- rows ----------------------------------------------------------------------------------------


def of_rows(indices: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> Any:
    """The gradient of these rows, as the backend has it."""
    if BACKEND == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        return tf.IndexedSlices(tf.constant(values), tf.constant(indices), tf.constant(shape))
    from jax.experimental.sparse import BCOO  # noqa: PLC0415

    return BCOO(
        (ops.convert_to_tensor(values), ops.convert_to_tensor(indices)[:, None]), shape=shape
    )


@pytest.mark.parametrize("arguments", [{}, {"clipnorm": 1.0}, {"clipvalue": 1.0}], ids=str)
def test_rows_of_hard_numbers_are_those_of_the_whole_table(arguments: dict[str, float]) -> None:
    """Each row is touched once."""
    shape = len(PARAMS) // 20, 20
    table, grads = PARAMS.reshape(shape), GRADS[0].reshape(shape)
    order = np.random.default_rng(0).permutation(len(table)).astype(np.int32)
    results = []
    for sparse, grad in (
        (None, ops.convert_to_tensor(grads)),
        ("lazy", of_rows(order, grads[order], shape)),
    ):
        variable = keras.Variable(table)
        optimizer = Nadam(RATE, **arguments, **({} if sparse is None else {"sparse": sparse}))
        optimizer.apply([grad], [variable])
        results.append([*values_of([variable]), *state_of(optimizer)])
    for dense, rows in zip(*results, strict=True):
        np.testing.assert_array_equal(rows, dense)


# ---- counts --------------------------------------------------------------------------------------


def after_counts(kind: type, iterations: int, steps: int, **arguments: Any) -> tuple[Any, int]:
    """The parameters and the count after steps that begin at this one."""
    variable = keras.Variable(np.float32([0.5, -1.0, 2.0]))
    optimizer = kind(**{"learning_rate": RATE, **arguments})
    optimizer.build([variable])
    optimizer._iterations.assign(iterations)
    optimizer._u_product.assign(0.0)  # as it is after a thousand steps
    for _ in range(steps):
        optimizer.apply([ops.convert_to_tensor([1.0, -0.5, 1e-3])], [variable])
    return values_of([variable])[0], int(optimizer.iterations)


LONG = keras.optimizers.schedules.InverseTimeDecay(RATE, decay_steps=2**30, decay_rate=1.0)


@pytest.mark.parametrize(
    "iterations",
    [
        2**24 - 2,
        2**31 - 5,
        pytest.param(
            2**31 - 2,
            marks=pytest.mark.skipif(BACKEND == "jax", reason="there it is an int32, see below"),
        ),
    ],
)
@pytest.mark.parametrize(
    "arguments", [{}, {"beta_2": hard.UNDER_1}, {"learning_rate": LONG}], ids=str
)
def test_large_counts_are_stocks(iterations: int, arguments: dict[str, Any]) -> None:
    found, ours = after_counts(Nadam, iterations, 3, **arguments)
    expected, stocks = after_counts(Stock, iterations, 3, **arguments)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert ours == stocks == iterations + 3


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere Keras counts in 64 bits")
def test_beyond_the_last_count_of_keras_on_jax_both_are_nan() -> None:
    """Its `iterations` wrap, and 0.96 to the power of such a number is infinite."""
    for kind in (Nadam, Stock):
        found, count = after_counts(kind, hard.LAST_COUNT, 1)
        assert np.isnan(found).all()
        assert count == -(2**31)
