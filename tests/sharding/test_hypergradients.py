"""Derivatives where shardings are part of the types: of each operand, the others closed over."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam, nadamw, sum_squares

NUMBERS = {"learning_rate": 0.1, "b1": 0.8, "b2": 0.9, "eps": 1e-2, "weight_decay": 0.1}


@pytest.fixture(params=[P(None, "model"), P("data", "model")], ids=str)
def leaves(request: pytest.FixtureRequest) -> Any:
    """A parameter and its gradient, cut over a mesh with explicit axes."""
    kinds = (AxisType.Explicit,) * 2
    with jax.set_mesh(jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)):
        rng = np.random.default_rng(0)
        values = (jnp.asarray(rng.normal(size=(8, 4)), jnp.float32) for _ in range(2))
        yield tuple(jax.device_put(x, request.param) for x in values)


def by_update(tx: Any, params: jax.Array, grads: jax.Array, state: Any) -> jax.Array:
    updates, _ = tx.update(grads, state, params)
    return params + updates


def by_apply(tx: Any, params: jax.Array, grads: jax.Array, state: Any) -> jax.Array:
    if not hasattr(tx, "apply"):
        return by_update(tx, params, grads, state)
    return tx.apply(grads, state, params)[0]


@pytest.mark.parametrize(
    ("take", "derivative"), [(by_update, jax.jacfwd), (by_apply, jax.grad)], ids=["update", "apply"]
)
@pytest.mark.parametrize("name", NUMBERS)
def test_by_a_hyperparameter(
    leaves: Any, take: Callable[..., Any], derivative: Callable[..., Any], name: str
) -> None:
    if name == "eps" and derivative is jax.grad and jax.__version_info__ < (0, 9):
        pytest.skip("JAX 0.8 does not take this derivative of stock's")

    def after(make: Any, value: Any) -> jax.Array:
        state = make(**NUMBERS).init(leaves[0])
        return jnp.sum(take(make(**{**NUMBERS, name: value}), *leaves, state) ** 2)

    ours, theirs = (
        jax.jit(derivative(partial(after, make)))(NUMBERS[name]) for make in (nadamw, optax.nadamw)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("take", [by_update, by_apply])
@pytest.mark.parametrize("which", [0, 1])
def test_by_the_parameters_or_the_gradients(
    leaves: Any, take: Callable[..., Any], which: int
) -> None:
    def after(tx: Any, state: Any, leaf: jax.Array) -> jax.Array:
        operands = [*leaves]
        operands[which] = leaf
        return jnp.sum(take(tx, *operands, state) ** 2)

    ours, theirs = (
        jax.jit(jax.grad(partial(after, tx, tx.init(leaves[0]))))(leaves[which])
        for tx in (nadam(0.1, eps=1e-2), optax.nadam(0.1, eps=1e-2))
    )
    assert jax.typeof(ours).sharding == jax.typeof(leaves[which]).sharding
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_of_the_sum_of_squares_of_one_of_two_leaves(leaves: Any) -> None:
    params, closed_over = leaves

    def norm(params: jax.Array) -> jax.Array:
        return sum(sum_squares([params, closed_over]))

    gradient = jax.jit(jax.grad(norm))(params)
    np.testing.assert_allclose(gradient, 2 * params, rtol=1e-6)
