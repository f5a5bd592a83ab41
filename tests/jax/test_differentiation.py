"""Gradients through the update: to second order, for each hyperparameter, through loops."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from compiled import calls_in
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from x64 import enable_x64

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import nadam, nadam_update, nadamw

ROW = Coefficients(*oracle.rows(np.random.default_rng(5), (), "float64"))


def groups_of_leaves() -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [[np.abs(rng.normal(size=shape)) for shape in [(3, 5), (4,), ()]] for _ in range(4)]


@pytest.mark.parametrize(("modes", "returns"), [("fwd", "change"), ("rev", "params")])
def test_the_rule_to_second_order_in_everything(modes: str, returns: str) -> None:
    with enable_x64(True):
        smooth = ROW._replace(clip_value=100.0, eps_root=1e-3)
        groups = jax.tree.map(jnp.asarray, groups_of_leaves())
        row = {name: jnp.array(value) for name, value in smooth._asdict().items()}
        skip = row.pop("skip")  # a difference of skips is no derivative

        def update(row: dict[str, jax.Array], *groups: object) -> object:
            return nadam_update(Coefficients(**row, skip=skip), *groups, returns=returns)

        check_grads(update, (row, *groups), order=2, modes=[modes], atol=1e-4, rtol=1e-4)


def test_the_value_comes_from_the_fused_call() -> None:
    groups = jax.tree.map(jnp.float32, groups_of_leaves())

    def total(row: jax.Array) -> jax.Array:
        return sum(x.sum() for x in nadam_update(row, *groups)[0])

    assert calls_in(jax.value_and_grad(total), jnp.float32(ROW)) == 1


START = np.array([1.0, 5.0, -2.0])
STEPS = 5
HYPERPARAMETERS = {
    "learning_rate": 0.1,
    "b1": 0.85,
    "b2": 0.95,
    "eps": 1e-2,
    "eps_root": 1e-3,
    "weight_decay": 0.05,
}


def loss(params: jax.Array) -> jax.Array:
    return jnp.sum((params - 3.0) ** 2 * jnp.array([1.0, 0.3, 2.0]))


def after_training(make: Callable[..., Any], hyperparameters: dict[str, Any]) -> jax.Array:
    """The loss after some steps, as a function of the hyperparameters."""
    tx = make(**hyperparameters)

    def body(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.asarray(START)
    return loss(jax.lax.scan(body, (params, tx.init(params)), length=STEPS)[0][0])


def after_scan(rate: jax.Array, *, body_of: Callable[..., Any] = lambda body: body) -> jax.Array:
    tx = nadam(rate, eps_root=1e-3)

    def body(carry: Any, _: None) -> Any:
        params, state = carry
        return tx.apply(jax.grad(loss)(params), state, params), None

    params = jnp.asarray(START)
    carry = jax.lax.scan(body_of(body), (params, tx.init(params)), length=STEPS)[0]
    return loss(carry[0])


def slope(function: Callable[[float], Any], at: float, step: float = 1e-6) -> Any:
    """The central difference."""
    return (function(at + step) - function(at - step)) / (2 * step)


class TestHypergradients:
    @pytest.mark.parametrize("name", HYPERPARAMETERS)
    def test_of_each_equals_the_difference_quotient(self, name: str) -> None:
        @jax.jit
        def after(value: Any) -> jax.Array:
            return after_training(nadamw, HYPERPARAMETERS | {name: value})

        with enable_x64(True):
            gradient = jax.jit(jax.grad(after))(HYPERPARAMETERS[name])
            expected = slope(after, HYPERPARAMETERS[name])
            assert abs(expected) > 1e-4, "else the test would see nothing"
            np.testing.assert_allclose(gradient, expected, rtol=1e-5)

    def test_of_all_at_once_equal_optax_s(self) -> None:
        with enable_x64(True):
            numbers = {name: jnp.float64(x) for name, x in HYPERPARAMETERS.items()}
            ours, theirs = (
                jax.grad(after_training, argnums=1)(make, numbers)
                for make in (nadamw, optax.nadamw)
            )
            for name in numbers:
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, err_msg=name)

    def test_of_second_order_equal_optax_s(self) -> None:
        with enable_x64(True):
            values, restore = ravel_pytree(HYPERPARAMETERS)
            ours, theirs = (
                jax.jit(jax.hessian(lambda x, make=make: after_training(make, restore(x))))(values)
                for make in (nadamw, optax.nadamw)
            )
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
            assert np.all(np.abs(ours) > 1e-6), "else the test would see nothing"

    def test_of_the_learning_rate_to_second_order_equals_the_difference_quotient(self) -> None:
        with enable_x64(True):
            gradient = jax.jit(jax.grad(after_scan))
            curvature = jax.jit(jax.grad(gradient))(0.1)
            expected = slope(gradient, 0.1)
            assert abs(expected) > 1e-2
            np.testing.assert_allclose(curvature, expected, rtol=1e-5)


class TestThroughLoops:
    @pytest.mark.parametrize("body_of", [lambda body: body, jax.checkpoint], ids=["kept", "remat"])
    def test_scan(self, body_of: Callable[..., Any]) -> None:
        def gradient(rate: float) -> jax.Array:
            return jax.grad(lambda rate: after_scan(rate, body_of=body_of))(rate)

        with enable_x64(True):
            expected = slope(jax.jit(after_scan), 0.1)
            np.testing.assert_allclose(jax.jit(gradient)(0.1), expected, rtol=1e-5)

    def test_forward_through_a_while_loop(self) -> None:
        def after(rate: jax.Array) -> jax.Array:
            tx = nadam(rate, eps_root=1e-3)

            def body(carry: Any) -> Any:
                return tx.apply(jax.grad(loss)(carry[0]), carry[1], carry[0])

            params = jnp.asarray(START)
            carry = params, tx.init(params)
            return loss(jax.lax.while_loop(lambda c: c[1].count < STEPS, body, carry)[0])

        with enable_x64(True):
            np.testing.assert_allclose(jax.jacfwd(after)(0.1), jax.grad(after_scan)(0.1), rtol=1e-9)

    def test_both_branches_of_cond(self) -> None:
        def after(rate: jax.Array, take: bool) -> jax.Array:
            tx = nadam(rate, eps_root=1e-3)
            params = jnp.asarray(START)

            def step(params: jax.Array) -> jax.Array:
                return tx.apply(jax.grad(loss)(params), tx.init(params), params)[0]

            return loss(jax.lax.cond(take, step, lambda params: params, params))

        with enable_x64(True):
            expected = slope(lambda rate: after(rate, True), 0.1)
            np.testing.assert_allclose(jax.grad(after)(0.1, True), expected, rtol=1e-5)
            assert jax.grad(after)(0.1, False) == 0.0

    def test_a_population_of_hypergradients(self) -> None:
        population = jax.vmap(jax.grad(after_scan))
        with enable_x64(True):
            rates = jnp.array([0.01, 0.05, 0.1])
            expected = jax.lax.map(jax.grad(after_scan), rates)
            np.testing.assert_allclose(jax.jit(population)(rates), expected, rtol=1e-9)
            assert calls_in(population, rates) == 1, "in the body of the scan"


class TestWhatIsOff:
    """A dead unit, whose gradients are all zero, with the default ``eps_root`` of zero."""

    GRADS = jnp.array([0.0, 1.0])
    NUMBERS = MappingProxyType(
        {"learning_rate": 0.1, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.05}
    )

    @staticmethod
    def trained(tx: Any, grads_of: Callable[[jax.Array], jax.Array]) -> jax.Array:
        params = jnp.array([2.0, 3.0])

        def body(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = tx.update(grads_of(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = jax.lax.scan(body, (params, tx.init(params)), length=3)[0]
        return jnp.sum(carry[0] ** 2)

    def test_the_derivative_by_a_parameter_is_one(self) -> None:
        for make in (nadam, nadamw, optax.nadam):
            tx = make(1e-2)

            def total(params: jax.Array, tx: Any = tx) -> jax.Array:
                updates, _ = tx.update(self.GRADS, tx.init(params), params)
                return jnp.sum(params + updates)

            gradient = jax.grad(total)(jnp.array([2.0, 3.0]))
            np.testing.assert_allclose(gradient, [1, 1], rtol=1e-5)

    @pytest.mark.parametrize("name", NUMBERS)
    def test_a_hypergradient_equals_optax_s(self, name: str) -> None:
        def after(make: Callable[..., Any], value: Any) -> jax.Array:
            return self.trained(make(**{**self.NUMBERS, name: value}), lambda _: self.GRADS)

        ours, theirs = (
            jax.jit(jax.grad(partial(after, make)))(self.NUMBERS[name])
            for make in (nadamw, optax.nadamw)
        )
        if name == "b2":  # the second moment has a tangent then, and optax NaN
            assert np.isnan(theirs)
            with enable_x64(True):
                theirs = slope(jax.jit(partial(after, nadamw)), self.NUMBERS[name])
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", NUMBERS)
    def test_where_the_gradient_depends_on_the_parameters(self, name: str) -> None:
        """Its tangents are zeros that nothing knows to be zeros; optax has NaN there."""

        def dead(params: jax.Array) -> jax.Array:
            return jnp.sum(jax.nn.relu(jnp.array([-1.0, 1.0]) * params) ** 2)

        def after(value: Any) -> jax.Array:
            return self.trained(nadamw(**{**self.NUMBERS, name: value}), jax.grad(dead))

        with enable_x64(True):
            found = jax.jit(jax.grad(after))(self.NUMBERS[name])
            np.testing.assert_allclose(found, slope(jax.jit(after), self.NUMBERS[name]), rtol=1e-5)

    def test_the_derivative_by_a_decay_of_zero_is_that_of_a_small_one(self) -> None:
        for make, name in ((nadamw, "weight_decay"), (nadam, "l2")):

            def after(value: Any, make: Any = make, name: str = name) -> jax.Array:
                return self.trained(make(0.1, eps=1e-3, **{name: value}), lambda _: self.GRADS)

            with enable_x64(True):
                found = jax.grad(after)(0.0)
                assert abs(found) > 1e-3
                if name == "weight_decay":  # that of l2 has a kink at zero, at the dead unit
                    np.testing.assert_allclose(found, slope(jax.jit(after), 0.0), rtol=1e-5)

    def test_an_infinite_parameter_does_not_spoil_the_others(self) -> None:
        params = jnp.array([2.0, -jnp.inf])

        def after(rate: jax.Array, params: jax.Array) -> jax.Array:
            tx = nadam(rate)
            return tx.apply(jnp.array([1.0, 0.0]), tx.init(params), params)[0][0]

        by_rate, by_params = jax.grad(after, argnums=(0, 1))(0.1, params)
        assert np.isfinite(by_rate)
        np.testing.assert_allclose(by_params, [1, 0])

    @pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
    def test_a_skipped_step_is_the_identity(self, bad: float) -> None:
        skipped = ROW._replace(skip=1.0, grad_scale=bad)
        leaves = [jnp.ones(3), jnp.full(3, bad), jnp.ones(3), jnp.ones(3)]

        def total(*leaves: jax.Array) -> jax.Array:
            return sum(jnp.sum(x) for x in nadam_update(skipped, *leaves))

        by_leaf = jax.grad(total, argnums=(0, 1, 2, 3))(*leaves)
        for found, expected in zip(by_leaf, (1, 0, 1, 1), strict=True):
            np.testing.assert_array_equal(found, np.full(3, expected))
