"""Hard numbers and hyperparameters through `nadam_xla.jax`: what optax makes of them, so do we.

By the kernel and by the rule that platforms without one run. NaN where optax has NaN, the same
infinities, and finite numbers that are close.
"""

from functools import cache, partial
from typing import Any

import hard_numbers as hard
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from nadam_xla.jax import RowGradient, nadam, nadamw

pytestmark = pytest.mark.usefixtures("path")

INF, NAN = hard.INF, hard.NAN
NUMBERS = hard.numbers(np.float32)
RATE = 1e-2

# Each with a parameter, and every pair of gradients of two steps.
PARAMS, *GRADS = hard.combinations_with(NUMBERS, NUMBERS, NUMBERS)
GRADS.append(GRADS[0][::-1].copy())

ORDINARY = {"learning_rate": RATE, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0}
CHANGED: dict[str, dict[str, float]] = {
    "ordinary": {},
    "b1 0": {"b1": 0.0},
    "b1 just under 1": {"b1": hard.UNDER_1},
    "b2 0": {"b2": 0.0},
    "b2 just under 1": {"b2": hard.UNDER_1},
    "both 0": {"b1": 0.0, "b2": 0.0},
    "rate 0": {"learning_rate": 0.0},
    "infinite rate": {"learning_rate": INF},
    "NaN rate": {"learning_rate": NAN},
    "eps 0": {"eps": 0.0},
    "infinite eps": {"eps": INF},
    "eps 0, smallest eps_root": {"eps": 0.0, "eps_root": 1e-37},
}


def moments(state: Any) -> list[np.ndarray]:
    return [np.asarray(optax.tree_utils.tree_get(state, name)) for name in ("mu", "nu")]


def initial(tx: Any) -> Any:
    return tx.init(jnp.asarray(PARAMS))


@cache
def steps_of(decay: float | None) -> Any:
    """A step of ours and one of optax's, of hyperparameters that are traced."""

    def ours(given: Any, params: Any, state: Any, grads: Any) -> Any:
        tx = nadam(**given) if decay is None else nadamw(**given, weight_decay=decay)
        return tx.apply(grads, state, params)

    def stock(given: Any, params: Any, state: Any, grads: Any) -> Any:
        make = optax.nadam if decay is None else partial(optax.nadamw, weight_decay=decay)
        tx = make(**given)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(ours), jax.jit(stock)


@pytest.mark.parametrize("decay", [None, 0.1])
@pytest.mark.parametrize("name", CHANGED)
def test_every_number_becomes_what_optax_makes_of_it(name: str, decay: float | None) -> None:
    """But for three things.

    A finite gradient may overflow in optax's bias correction, and is NaN there. Its square is
    infinite: here the parameter stands still. An infinite parameter of which a rate of zero takes
    nothing stays, and is NaN with optax. And an infinite rate beside a decay makes parameters
    infinite or NaN in both, as it falls.
    """
    given = {key: jnp.float32(value) for key, value in (ORDINARY | CHANGED[name]).items()}
    ours, stock = steps_of(decay)
    found, state = PARAMS, initial(nadam(RATE))
    expected, stock_state = (
        PARAMS,
        initial(optax.nadam(RATE) if decay is None else optax.nadamw(RATE)),
    )
    stays = np.isinf(PARAMS) & (decay is not None and given["learning_rate"] == 0)
    is_too_large, is_lost = np.zeros(PARAMS.shape, bool), np.zeros(PARAMS.shape, bool)
    for grads in GRADS:
        before = np.asarray(found)
        found, state = ours(given, found, state, grads)
        expected, stock_state = stock(given, expected, stock_state, grads)
        is_lost |= ~np.isfinite(grads)
        is_too_large |= np.abs(grads) == hard.LARGEST
        stands = (is_too_large & ~is_lost | stays) & np.isnan(expected) & ~np.isnan(found)
        if decay is None or stays.any():
            np.testing.assert_array_equal(np.asarray(found)[stands], before[stands])
        if name == "infinite rate" and decay is not None:
            stands |= ~np.isfinite(found) & ~np.isfinite(expected)
        wanted = np.where(stands, found, expected)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)
        for x, y in zip(moments(state), moments(stock_state), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=3e-38)


# ---- limits and skipped steps --------------------------------------------------------------------

SQUARES_OVERFLOW = 2 * hard.LARGEST**0.5
GRADIENTS: dict[str, list[float]] = {
    "zero": [0.0, -0.0, 0.0],
    "ordinary": [0.3, -4.0, 0.0],
    "too small to be normal": [1e-42, -1e-45, 0.0],
    "squares underflow": [1e-25, -1e-25, 0.0],
    "squares overflow": [SQUARES_OVERFLOW, -1.0, 0.0],
    "largest": [hard.LARGEST, -hard.LARGEST, hard.LARGEST],
    "infinite": [INF, 1.0, 0.0],
    "infinities": [INF, -INF, 1.0],
    "NaN": [1.0, NAN, 0.0],
    "NaN and infinity": [-INF, NAN, 1e-42],
}
LIMITS = {
    "0": 0.0,
    "smallest": hard.TINY,
    "1": 1.0,
    "largest": hard.LARGEST,
    "inf": INF,
    "NaN": NAN,
}


def each_leaf(limit: Any) -> Any:
    clip = optax.clip_by_global_norm(limit)
    return optax.stateless(lambda grads, _: [clip.update(g, optax.EmptyState())[0] for g in grads])


JUDGES = {
    "max_norm": optax.clip_by_global_norm,
    "max_leaf_norm": each_leaf,
    "clip_value": optax.clip,
}


@cache
def limited(name: str) -> Any:
    """The gradients as we and as optax limit them: with b1 = 0 they are the first moments."""

    def both(grads: Any, limit: Any) -> Any:
        params = [jnp.ones_like(g) for g in grads]
        tx, judge = nadam(RATE, b1=0.0, **{name: limit}), JUDGES[name](limit)
        return (
            tx.apply(grads, tx.init(params), params)[1].mu,
            judge.update(grads, judge.init(grads))[0],
        )

    return jax.jit(jax.vmap(both, in_axes=(0, None)))


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", JUDGES)
def test_every_gradient_is_limited_as_optax_limits_it(name: str, limit: str) -> None:
    """Every kind of gradient in one leaf beside every kind in another."""
    kinds = np.float32(list(GRADIENTS.values()))
    first, second = hard.combinations(np.arange(len(kinds)), np.arange(len(kinds)))
    grads = [kinds[first], kinds[second]]
    found, expected = limited(name)(grads, jnp.float32(LIMITS[limit]))
    for i, pair in enumerate(zip(first, second, strict=True)):
        names = [list(GRADIENTS)[k] for k in pair]
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x[i], y[i], rtol=2e-6, atol=3e-38, err_msg=str(names))


@cache
def guarded() -> Any:
    """The state and parameters after a step that is left out where a gradient is not finite."""

    def both(grads: Any, scale: Any) -> Any:
        params = [jnp.full_like(g, -0.5) for g in grads]
        tx = nadamw(RATE, skip_nonfinite=True)
        guard = optax.apply_if_finite(optax.nadamw(RATE), 2**30)
        new, state = tx.apply(grads, tx.init(params), params, grad_scale=scale)
        scaled = [scale * g for g in grads]
        updates, judged = guard.update(scaled, guard.init(params), params)
        return (new, state.count), (optax.apply_updates(params, updates), judged.last_finite)

    return jax.jit(jax.vmap(both, in_axes=(0, None)))


@pytest.mark.parametrize("scale", [1.0, 0.0, hard.TINY, hard.LARGEST, INF, NAN])
def test_a_step_is_left_out_where_optax_leaves_it_out(scale: float) -> None:
    kinds = np.float32(list(GRADIENTS.values()))
    first, second = hard.combinations(np.arange(len(kinds)), np.arange(len(kinds)))
    (found, taken), (expected, judged) = guarded()([kinds[first], kinds[second]], scale)
    np.testing.assert_array_equal(taken, judged)
    for x, y in zip(found, expected, strict=True):
        # Where optax's correction overflows, ours may, too; or the parameter decays and stands.
        wanted = np.where(np.isnan(y) & ~np.isnan(x), -0.5 * (1 - RATE * 1e-4), y)
        np.testing.assert_allclose(x, wanted, rtol=1e-6)


def test_a_zero_that_is_not_moved_keeps_its_sign() -> None:
    params, grads = hard.combinations(np.float32([0.0, -0.0]), np.float32([0.0, -0.0]))
    for tx in (nadam(RATE), nadam(0.0), nadamw(RATE), nadamw(RATE, weight_decay=0.0)):
        state, new = tx.init(params), params
        for _ in range(2):
            new, state = tx.apply(grads, state, new)
        np.testing.assert_array_equal(np.signbit(new), np.signbit(params))
        assert not np.any(new)


# ---- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{}, {"max_norm": 1.0}, {"clip_value": 1.0}], ids=str)
def test_rows_of_hard_numbers_are_those_of_the_whole_table(
    limits: dict[str, float], path: str
) -> None:
    """Each row is touched once; and what is bad in one row stays there, but for a norm of all.

    To the bit by the kernel: of the plain rule XLA makes other products with sums here and there.
    """
    table, grads = (x[: 20 * 20].reshape(20, 20) for x in (PARAMS, GRADS[0]))
    order = np.random.default_rng(0).permutation(len(table))
    tx = nadam(RATE, **limits)
    step, state = jax.jit(tx.apply), tx.init(table)
    dense, dense_state = step(grads, state, table)
    rows, rows_state = step(RowGradient(jnp.asarray(order), grads[order]), state, table)
    rtol = 0 if path == "kernel" else 1e-5
    np.testing.assert_allclose(rows, dense, rtol, atol=rtol * RATE)
    np.testing.assert_allclose(rows_state.mu, dense_state.mu, rtol, atol=rtol * hard.TINY)
    np.testing.assert_allclose(rows_state.nu, dense_state.nu, rtol, atol=rtol * hard.TINY)
    assert np.isnan(rows).all() == ("max_norm" in limits)


def test_a_bad_number_in_a_row_leaves_the_step_out() -> None:
    tx = nadam(RATE, skip_nonfinite=True)
    table = jnp.ones((4, 3))
    step, state = jax.jit(tx.apply), tx.init(table)
    for bad in (NAN, INF, -INF, hard.LARGEST):
        # Twice the largest is infinite, once summed.
        values = np.full((2, 3), bad, np.float32)
        new, after = step(RowGradient(jnp.array([2, 2]), values), state, table)
        np.testing.assert_array_equal(new, table)
        assert after.count == 0


# ---- counts --------------------------------------------------------------------------------------

COUNTS = [2**24 - 1, 2**31 - 3, hard.LAST_COUNT]


def schedule(count: Any) -> Any:
    return RATE / (1.0 + count / 2.0**30)


def counted(tx: Any, count: int, dtype: Any = np.int32, **replaced: Any) -> tuple[Any, Any]:
    """Parameters and count four steps after this one."""
    params = jnp.float32([0.5, -1.0, 2.0])
    state = optax.tree_utils.tree_set(tx.init(params), count=jnp.asarray(count, dtype))
    for name, value in replaced.items():
        state = state._replace(**{name: jnp.float32(value)})

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jnp.float32([1.0, -0.5, 1e-3]), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(4):
        params, state = step(params, state)
    counts = optax.tree_utils.tree_get_all_with_path(state, "count")
    return np.asarray(params), {int(x) for _, x in counts}


@pytest.mark.parametrize("count", COUNTS)
def test_large_counts_are_optaxs(count: int) -> None:
    """It stays at the last that an int32 holds, and with it the schedules."""
    for arguments in ({"b2": hard.UNDER_1}, {"learning_rate": schedule}):
        of = {"learning_rate": RATE, **arguments}
        (found, ours), (expected, stock) = (
            counted(make(**of), count) for make in (nadam, optax.nadam)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert ours == stock == {min(count + 4, hard.LAST_COUNT)}


def test_a_count_of_64_bits_goes_on() -> None:
    with enable_x64(True):
        of = schedule, 0.9, hard.UNDER_1
        results = [counted(make(*of), 2**31 - 2, np.int64) for make in (nadam, optax.nadam)]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    assert results[0][1] == results[1][1] == {2**31 + 2}


@pytest.mark.parametrize("count", COUNTS)
def test_the_momentum_schedule_ends_where_it_tends_to(count: int) -> None:
    """At b1, long before: the momentum of the step behind the last count is asked for, too."""
    found, _ = counted(nadam(RATE, momentum_decay=0.004), count, momentum_product=0.0)
    expected, _ = counted(nadam(RATE), count)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_an_average_goes_on_as_one_that_is_as_old(count: int) -> None:
    tx = nadam(RATE, average_decay=0.75)
    params = jnp.float32([2.0])
    state = optax.tree_utils.tree_set(tx.init(params), count=jnp.int32(count))
    new, state = tx.apply(jnp.ones(1), state, params)
    np.testing.assert_allclose(state.average, 0.75 * params + 0.25 * new, rtol=1e-6)
