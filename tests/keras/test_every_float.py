"""What huge, tiny and infinite numbers become: where stock Keras is finite, so are we."""

from typing import Any

import keras
import numpy as np
import pytest
from any_float import any_float
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import ops

from nadam_xla.keras import Nadam

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="there it is the parent's own update"
)
ELEMENTS = 1003  # of the one variable
ORDINARY = {"learning_rate": 0.1}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "defaults": ORDINARY,
    "large rate": {"learning_rate": 30.0},
    "no memory": {**ORDINARY, "beta_1": 0.0, "beta_2": 0.0},
    "little memory": {**ORDINARY, "beta_1": 1e-6, "beta_2": 1e-6},
    "long memory": {**ORDINARY, "beta_1": 0.999, "beta_2": 0.99999},
    "weight decay": {**ORDINARY, "weight_decay": 0.01},
    "clipvalue": {**ORDINARY, "clipvalue": 1e30},
    "clipnorm": {**ORDINARY, "clipnorm": 1.0},
    "global clipnorm": {**ORDINARY, "global_clipnorm": 1.0},
    "loss scale": {**ORDINARY, "loss_scale_factor": 2.0**-10},
}


@pytest.mark.parametrize("arguments", [{}, {"loss_scale_factor": 8.0}, {"clipvalue": 1.0}], ids=str)
def test_an_infinite_parameter_that_does_not_decay_stays(arguments: dict[str, Any]) -> None:
    trained = []
    for make in (keras.optimizers.Nadam, Nadam):
        variable = keras.Variable([1.0, -np.inf, np.inf])
        optimizer = make(0.1, **arguments)
        for _ in range(3):
            optimizer.apply([ops.convert_to_tensor([1.0, 0.0, 0.0])], [variable])
        trained.append(ops.convert_to_numpy(variable))
    np.testing.assert_allclose(trained[1], trained[0], rtol=1e-6)
    np.testing.assert_array_equal(trained[1][1:], [-np.inf, np.inf])


def test_one_that_is_excluded_from_weight_decay_stays() -> None:
    trained = []
    for make in (keras.optimizers.Nadam, Nadam):
        variables = [keras.Variable([1.0, 2.0]), keras.Variable([-np.inf, 1.0])]
        optimizer = make(0.1, weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_list=variables[1:])
        for _ in range(3):
            optimizer.apply([ops.ones(2), ops.convert_to_tensor([0.0, 1.0])], variables)
        trained.append([ops.convert_to_numpy(v) for v in variables])
    np.testing.assert_allclose(trained[1], trained[0], rtol=1e-6)
    assert trained[1][1][0] == -np.inf


def test_a_gradient_whose_square_overflows_stops_a_parameter_and_no_more() -> None:
    """With stock it is NaN from the second step on: infinity less infinity."""
    variable = keras.Variable([1.0, 1.0])
    optimizer = Nadam(0.1)
    for grad in ([2e19, 0.1], [0.1, 0.1], [0.1, 0.1]):
        optimizer.apply([ops.convert_to_tensor(grad)], [variable])
    alone = keras.Variable([1.0])
    stock = keras.optimizers.Nadam(0.1)
    for _ in range(3):
        stock.apply([ops.convert_to_tensor([0.1])], [alone])
    expected = [1.0, ops.convert_to_numpy(alone)[0]]
    np.testing.assert_allclose(ops.convert_to_numpy(variable), expected, rtol=1e-6)


class Trained:
    """A variable with its optimizer, which are set to any values without being built anew."""

    def __init__(self, optimizer: Any) -> None:
        self.variable = keras.Variable(np.zeros(ELEMENTS, np.float32))
        self.optimizer = optimizer
        self.optimizer.build([self.variable])
        self.at_first = [ops.convert_to_numpy(v) for v in optimizer.variables]
        self.moments = [v for v in optimizer.variables if tuple(v.shape) == (ELEMENTS,)][:2]

    def set(self, params: np.ndarray, *moments: np.ndarray) -> None:
        for variable, value in zip(self.optimizer.variables, self.at_first, strict=True):
            variable.assign(value)
        for variable, value in zip((self.variable, *self.moments), (params, *moments), strict=True):
            variable.assign(value)

    def step(self, grads: np.ndarray) -> list[np.ndarray]:
        self.optimizer.apply([ops.convert_to_tensor(grads)], [self.variable])
        return [ops.convert_to_numpy(v) for v in (self.variable, *self.moments)]


def a_part_overflows(rate: float, mu: np.ndarray, grads: np.ndarray) -> np.ndarray:
    """Where a rate above one makes the momentum's or the gradient's part of a step infinite.

    Stock multiplies their sum by the rate, and is finite where one cancels most of the other. Ours
    multiplies each, for they are coefficients of the row.
    """
    largest = np.maximum(np.abs(mu), np.abs(grads)).astype(np.float64)
    return (rate > 1) & (rate * largest > np.finfo(np.float32).max)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_where_stock_is_finite_so_are_we(arguments: str) -> None:
    stock = Trained(keras.optimizers.Nadam(**ARGUMENTS[arguments]))
    ours = Trained(Nadam(**ARGUMENTS[arguments]))
    rate = ARGUMENTS[arguments]["learning_rate"]

    @settings(max_examples=10, deadline=None)
    @example(seed=337, begins_at_zero=False)  # where such a part overflows
    @given(seed=st.integers(0, 2**32 - 1), begins_at_zero=st.booleans())
    def check(seed: int, begins_at_zero: bool) -> None:
        rng = np.random.default_rng(seed)
        params, mu, nu, *steps = any_float(rng, (8, ELEMENTS))
        moments = (np.zeros_like(mu),) * 2 if begins_at_zero else (mu, np.abs(nu))
        for trained in (stock, ours):
            trained.set(params, *moments)
        excused = np.zeros(ELEMENTS, bool)
        for grads in steps:
            expected_of, found_of = stock.step(grads), ours.step(grads)
            excused |= a_part_overflows(rate, found_of[1], grads)
            results = zip(expected_of, found_of, strict=True)
            for name, (expected, found) in zip(("param", "mu", "nu"), results, strict=True):
                lost = np.isfinite(expected) & ~np.isfinite(found) & ~excused
                assert not lost.any(), (name, expected[lost], np.flatnonzero(lost))

    check()
