"""What huge, tiny and infinite numbers become: where optax is finite, so are we.

By the kernel and by the rule that platforms without one run.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from any_float import any_float
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nadam_xla.jax import nadam, nadamw, scale_by_nadam

pytestmark = pytest.mark.usefixtures("path")

INF = np.inf


def test_each_path_is_what_it_is_called(path: str) -> None:
    text = jax.jit(nadam(1e-2).update).lower(1.0, nadam(1e-2).init(1.0)).as_text()
    assert ("custom_call" in text) == (path == "kernel")


def ours_by_update(tx: Any, grads: Any, state: Any, params: Any) -> Any:
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def ours_by_apply(tx: Any, grads: Any, state: Any, params: Any) -> Any:
    return tx.apply(grads, state, params)


@pytest.fixture(params=[ours_by_update, ours_by_apply], ids=["update", "apply"])
def step(request: pytest.FixtureRequest) -> Any:
    return request.param


def after(step: Callable[..., Any], tx: Any, params: Any, *grads: Any) -> tuple[Any, Any]:
    state, compiled = tx.init(params), jax.jit(partial(step, tx))
    for grad in grads:
        params, state = compiled(grad, state, params)
    return params, state


@pytest.mark.parametrize(
    "make",
    [
        lambda: nadam(1e-2),
        lambda: nadam(jnp.float32(1e-2)),
        lambda: nadam(1e-2, nesterov=False),
        lambda: nadam(1e-2, momentum_decay=0.004, l2=0.0),
        lambda: nadam(1e-2, l2=0.1, mask=False),
        lambda: nadamw(1e-2, mask=False),
        lambda: nadamw(1e-2, weight_decay=0.0),
        lambda: nadamw(1e-2, mask=[True, False]),
    ],
)
def test_an_infinite_parameter_that_does_not_decay_stays(
    step: Callable[..., Any], make: Callable[[], Any]
) -> None:
    params = [jnp.ones(3), jnp.array([1.0, -INF, INF])]
    new, _ = after(step, make(), params, *[[jnp.ones(3), jnp.array([1.0, 0.0, 0.0])]] * 3)
    np.testing.assert_array_equal(new[1][1:], [-INF, INF])
    assert jnp.isfinite(new[1][0])
    assert new[1][0] != 1


def test_an_infinite_parameter_does_not_change() -> None:
    params, grads = jnp.array([1.0, -INF]), jnp.zeros(2)
    for tx in (nadam(1e-2), nadamw(1e-2, mask=False)):
        change, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_array_equal(change, [0, 0])


def test_an_infinite_parameter_that_decays_is_lost_as_with_optax(step: Callable[..., Any]) -> None:
    params = jnp.array([1.0, INF])
    new, _ = after(step, nadamw(1e-2, weight_decay=0.1), params, jnp.zeros(2))
    expected, _ = after(ours_by_update, optax.nadamw(1e-2, weight_decay=0.1), params, jnp.zeros(2))
    np.testing.assert_array_equal(np.isfinite(expected), [True, False])
    np.testing.assert_array_equal(np.isfinite(new), [True, False])


def test_a_model_with_an_infinite_mask_trains(step: Callable[..., Any]) -> None:
    class Attention(eqx.Module):
        query: jax.Array
        mask: jax.Array

        def __call__(self, x: jax.Array) -> jax.Array:
            scores = x @ self.query @ x.T + self.mask
            return jax.nn.softmax(scores) @ x

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    mask = jnp.where(jnp.tri(4, dtype=bool), 0.0, -INF)
    model = Attention(jnp.asarray(rng.normal(size=(8, 8)), jnp.float32), mask)

    @jax.jit
    def loss_and_grads(model: Attention) -> Any:
        return jax.value_and_grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)

    curves = []
    for tx, take in ((optax.nadam(1e-2), ours_by_update), (nadam(1e-2), step)):
        trained, state, losses = model, tx.init(model), []
        compiled = jax.jit(partial(take, tx))
        for _ in range(5):
            loss, grads = loss_and_grads(trained)
            trained, state = compiled(grads, state, trained)
            losses.append(loss)
        curves.append(losses)
    assert np.isfinite(curves[0]).all()
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)


@pytest.mark.parametrize("huge", [2e19, -2e19, 1e25])
def test_a_gradient_whose_square_overflows_stops_a_parameter_and_no_more(
    step: Callable[..., Any], huge: float
) -> None:
    params = jnp.ones(2)
    grads = [jnp.array([huge, 0.1]), *[jnp.array([0.1, 0.1])] * 3]
    expected, _ = after(ours_by_update, optax.nadam(1e-2), params, *grads)
    new, state = after(step, nadam(1e-2), params, *grads)
    np.testing.assert_array_equal(state.nu, [INF, state.nu[1]])
    assert expected[0] == new[0] == 1
    np.testing.assert_allclose(new[1], expected[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("b1", "b2"), [(0.9, 0.0), (0.9, 1e-6), (0.0, 1e-3), (1e-6, 0.5), (0.0, 0.0)]
)
def test_small_decay_rates_do_not_lose_a_small_gradient(
    step: Callable[..., Any], b1: float, b2: float
) -> None:
    params = jnp.zeros(1)
    grads = [jnp.ones(1), jnp.full(1, 1e-4), jnp.full(1, -1e-6)]
    expected, _ = after(ours_by_update, optax.nadam(1e-2, b1, b2), params, *grads)
    new, _ = after(step, nadam(1e-2, b1, b2), params, *grads)
    np.testing.assert_allclose(new, expected, rtol=2e-5)


def test_the_direction_alone_keeps_a_small_gradient() -> None:
    tx, stock = scale_by_nadam(b2=0.0), optax.scale_by_adam(b2=0.0, nesterov=True)
    state, stock_state = tx.init(jnp.zeros(1)), stock.init(jnp.zeros(1))
    for grad in (jnp.ones(1), jnp.full(1, 1e-4)):
        direction, state = tx.update(grad, state)
        expected, stock_state = stock.update(grad, stock_state)
    np.testing.assert_allclose(direction, expected, rtol=1e-6)


def test_a_rate_above_one_does_not_overflow_before_the_division(step: Callable[..., Any]) -> None:
    params = jnp.ones(1)
    for rate in (10.0, -10.0):
        expected, _ = after(ours_by_update, optax.nadam(rate, b1=0.1), params, jnp.full(1, 1e38))
        new, _ = after(step, nadam(rate, b1=0.1), params, jnp.full(1, 1e38))
        np.testing.assert_array_equal(new, expected)


RATES = st.one_of(
    st.sampled_from([0.0, 1e-6, 0.9, 0.999]), st.floats(0, 1, exclude_max=True, width=32)
)


def drawn_state(kind: Any, state: Any, count: int, mu: np.ndarray, nu: np.ndarray) -> Any:
    """The state with these moments, wherever they stand in it."""

    def replaced(node: Any) -> Any:
        return node._replace(count=jnp.int32(count), mu=jnp.asarray(mu), nu=jnp.asarray(nu))

    is_moments = lambda node: isinstance(node, kind)  # noqa: E731
    return jax.tree.map(
        lambda node: replaced(node) if is_moments(node) else node, state, is_leaf=is_moments
    )


def moments_in(state: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(optax.tree_utils.tree_get(state, name)) for name in ("mu", "nu")}


@pytest.mark.parametrize("decay", [None, 1e-2])
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    # No rate above 1: XLA joins stock's last product and sum, which may then pass over an overflow.
    hyperparameters=st.tuples(st.sampled_from([1e-3, 0.1, 1.0]), RATES, RATES),
    count=st.sampled_from([0, 1, 1000]),
)
def test_where_optax_is_finite_so_are_we(
    step: Callable[..., Any],
    decay: float | None,
    seed: int,
    hyperparameters: tuple[float, float, float],
    count: int,
) -> None:
    rng = np.random.default_rng(seed)
    params, mu, nu, *steps = any_float(rng, (8, 1003))
    moments = (mu, np.abs(nu)) if count else (np.zeros_like(mu),) * 2
    arguments = [jnp.float32(x) for x in hyperparameters]
    stock, stock_state = jnp.asarray(params), _initial(False, decay, params, count, *moments)
    ours, state = jnp.asarray(params), _initial(True, decay, params, count, *moments)
    for grads in steps:
        stock, stock_state = _stock_step(decay, arguments, grads, stock_state, stock)
        ours, state = _our_step(step, decay, arguments, grads, state, ours)
        found = {"params": np.asarray(ours), **moments_in(state)}
        for name, value in {"params": np.asarray(stock), **moments_in(stock_state)}.items():
            lost = np.isfinite(value) & ~np.isfinite(found[name])
            assert not lost.any(), (name, value[lost], np.flatnonzero(lost))


def _optimizer(is_ours: bool, decay: float | None, arguments: Any) -> Any:
    if decay is None:
        return (nadam if is_ours else optax.nadam)(*arguments)
    return (nadamw if is_ours else optax.nadamw)(*arguments, weight_decay=decay)


def _initial(
    is_ours: bool, decay: float | None, params: np.ndarray, count: int, mu: Any, nu: Any
) -> Any:
    state = _optimizer(is_ours, decay, (1e-3,)).init(jnp.asarray(params))
    kind = type(state) if is_ours else optax.ScaleByAdamState
    return drawn_state(kind, state, count, mu, nu)


@partial(jax.jit, static_argnums=0)
def _stock_step(decay: Any, arguments: Any, grads: Any, state: Any, params: Any) -> Any:
    return ours_by_update(_optimizer(False, decay, arguments), grads, state, params)


@partial(jax.jit, static_argnums=(0, 1))
def _our_step(step: Any, decay: Any, arguments: Any, grads: Any, state: Any, params: Any) -> Any:
    return step(_optimizer(True, decay, arguments), grads, state, params)
