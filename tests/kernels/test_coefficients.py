"""From a convention to the row, with Python's own numbers: the row drives the oracle's rule."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nadam_xla.coefficients import (
    Coefficients,
    Momentum,
    adam,
    check_decay_rate,
    check_not_nan,
    check_not_negative,
    constant_momentum,
    nadam,
    rate_before_division,
    scheduled_momentum,
    with_random_key,
    with_unbiased_average,
)

RNG = np.random.default_rng(0)
PARAM = RNG.normal(size=7)
GRADS = list(RNG.normal(size=(6, 7)))
RATE, B1, B2, EPS = 1e-2, 0.8, 0.95, 1e-3


def momentum_of(count: int, momentum_decay: float | None, before: float) -> Momentum:
    if momentum_decay is None:
        return constant_momentum(B1, count)
    return scheduled_momentum(B1, count, momentum_decay, before)


def rows(momentum_decay: float | None, **options: float) -> list[Coefficients]:
    """Those of the steps, one after the other."""
    made, product = [], 1.0
    for count in range(1, len(GRADS) + 1):
        momentum = momentum_of(count, momentum_decay, product)
        product = momentum.product
        known = {"learning_rate": RATE, "b1": B1, "b2": B2, "b2_power": B2**count, "eps": EPS}
        made.append(nadam(momentum=momentum, **known, **options))
    return made


def train(rows: list[Coefficients]) -> list[np.ndarray]:
    """The parameters after each step."""
    p, m, v = PARAM, np.zeros_like(PARAM), np.zeros_like(PARAM)
    params = []
    for row, g in zip(rows, GRADS, strict=True):
        p, _, m, v = oracle.rule(np.array(row, np.float64), p, g, m, v)
        params.append(p)
    return params


@pytest.mark.parametrize("momentum_decay", [None, 0.004, 1.0])
def test_the_row_is_that_of_the_papers(momentum_decay: float | None) -> None:
    options: dict[str, Any] = {
        "b1": B1,
        "b2": B2,
        "eps": EPS,
        "eps_root": 1e-2,
        "momentum_decay": momentum_decay,
    }
    expected = oracle.nadam(PARAM, GRADS, learning_rate=RATE, weight_decay=0.5, **options)
    found = train(rows(momentum_decay, eps_root=1e-2, decay=RATE * 0.5))
    np.testing.assert_allclose(found[-1], expected, rtol=1e-12)


def test_what_is_not_given_is_off() -> None:
    off = dict.fromkeys(Coefficients._fields[9:], 0.0) | {"grad_scale": 1.0}
    for row in (Coefficients(*range(9)), rows(None)[0], rows(1.0)[0]):
        assert row._asdict().items() >= off.items()


def test_l2_stands_in_its_place() -> None:
    assert rows(None, l2=0.25)[0].l2 == 0.25


def test_the_base_of_the_schedule_is_the_framework_s() -> None:
    momentum = scheduled_momentum(0.8, 3, 2.0, 0.5, base=0.5)
    current, following = 0.8 * (1 - 0.5 * 0.5**6), 0.8 * (1 - 0.5 * 0.5**8)
    np.testing.assert_allclose(momentum, (current, following, 0.5 * current), rtol=1e-15)


def test_adam_has_no_nesterov_momentum() -> None:
    """Kingma & Ba 2015, algorithm 1."""
    made = [adam(row, b1_power=B1**t) for t, row in enumerate(rows(None), start=1)]
    p, m, v = PARAM, np.zeros_like(PARAM), np.zeros_like(PARAM)
    for t, g in enumerate(GRADS, start=1):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        p = p - RATE * (m / (1 - B1**t)) / (np.sqrt(v / (1 - B2**t)) + EPS)
    np.testing.assert_allclose(train(made)[-1], p, rtol=1e-12)


def test_the_rate_may_come_before_the_division() -> None:
    """Where the quotient overflows without it."""
    made = [rate_before_division(row) for row in rows(1.0)]
    np.testing.assert_allclose(train(made)[-1], train(rows(1.0))[-1], rtol=1e-12)
    huge = [np.array([x], np.float32) for x in (0, 0, 3e38, 0)]
    row = rows(1.0)[2]._replace(eps=1e-2)
    before, after = (np.array(row, np.float32) for row in (rate_before_division(row), row))
    assert np.isfinite(oracle.rule(before, *huge)[0])
    assert not np.isfinite(oracle.rule(after, *huge)[0])


def test_an_unbiased_average_weighs_the_steps_alone() -> None:
    decay = 0.7
    average = np.full_like(PARAM, 100.0)  # which the first step does not know
    for t, params in enumerate(train(rows(None)), start=1):
        power = 1 - decay**t
        row = with_unbiased_average(rows(None)[0], decay=decay, one_minus_power=power)
        average = oracle.averaged(np.array(row, np.float64), average, params)
    weights = decay ** np.arange(len(GRADS))[::-1]
    expected = np.average(train(rows(None)), axis=0, weights=weights)
    np.testing.assert_allclose(average, expected, rtol=1e-12)


words = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(seed=words, step=words, leaf=st.integers(0, 2**24 - 1), shard=st.integers(0, 2**24 - 1))
def test_the_key_goes_in_halves_that_a_float32_holds(
    seed: int, step: int, leaf: int, shard: int
) -> None:
    row = with_random_key(rows(None)[0], seed=seed, step=step, leaf=leaf, shard=shard)
    high, low, step_high, step_low, *of_leaf = np.array(row[oracle.KEY], np.float32).tolist()
    assert (high * 2**16 + low, step_high * 2**16 + step_low) == (seed, step)
    assert of_leaf == [leaf, shard]
    assert max(high, low, step_high, step_low) < 2**16


def test_a_seed_of_more_than_32_bits_is_cut() -> None:
    row = with_random_key(rows(None)[0], seed=2**40 + 3, step=2**33 + 2)
    assert row[oracle.KEY] == (0, 3, 0, 2, 0, 0)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("check", "allowed", "refused"),
    [
        (check_decay_rate, [0, 0.0, 0.5, np.float32(0.999)], [1, 1.0, -0.1, NAN, INF, 2]),
        (check_not_nan, [0, -1.0, INF, -INF], [NAN, np.float32(NAN)]),
        (check_not_negative, [0, 0.0, -0.0, 3, INF], [-1, -1e-9, -INF, NAN, np.float64(NAN)]),
    ],
)
def test_a_number_out_of_range_is_refused(
    check: Callable[[str, object], None], allowed: list[Any], refused: list[Any]
) -> None:
    for value in [*allowed, np.array([NAN, -1.0]), lambda count: -1.0]:
        check("b1", value)
    for value in refused:
        with pytest.raises(ValueError, match=r"^b1 is .*; it must "):
            check("b1", value)
