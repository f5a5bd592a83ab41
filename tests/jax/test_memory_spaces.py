"""Arrays in host memory: what stock refuses is refused by the leaf's path, what it runs runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import nadam, nadam_update, primitive, sum_squares
from nadam_xla.streams import Streams

HOST, DEVICE = jax.memory.Space.Host, jax.memory.Space.Device
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones([])}
TX, STOCK = nadam(1e-2), optax.nadam(1e-2)


def apply(grads: Any, state: Any, params: Any) -> Any:
    return TX.apply(grads, state, params)


def update(grads: Any, state: Any, params: Any) -> Any:
    return TX.update(grads, state, params)


def stock(grads: Any, state: Any, params: Any) -> Any:
    updates, state = STOCK.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def arguments(tx: Any, *on_host: str) -> list[Any]:
    given = {"grads": PARAMS, "state": tx.init(PARAMS), "params": PARAMS}
    return [jax.device_put(x, HOST) if name in on_host else x for name, x in given.items()]


@pytest.mark.parametrize("run", [jax.jit, lambda f: f], ids=["jit", "eager"])
@pytest.mark.parametrize(
    ("on_host", "message"),
    [
        (["state"], r"state.mu\['w'\] is in host memory, and params\['w'\] in device memory"),
        (["grads"], r"grads\['w'\] is in host memory, and params\['w'\] in device memory"),
        (["params"], r"grads\['w'\] is in device memory, and params\['w'\] in host memory"),
        (["grads", "params"], r"state.mu\['w'\] is in device memory"),
    ],
)
def test_one_on_the_host_and_one_on_the_device(
    on_host: list[str], message: str, run: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match="memory_space of all inputs"):
        run(stock)(*arguments(STOCK, *on_host))
    for step in (apply, update):
        with pytest.raises(ValueError, match=message):
            run(step)(*arguments(TX, *on_host))


def test_gradients_without_parameters() -> None:
    with pytest.raises(ValueError, match=r"state.mu\['w'\] is in host memory, and grads\['w'\]"):
        jax.jit(TX.update)(PARAMS, jax.device_put(TX.init(PARAMS), HOST))


def test_one_moment_alone() -> None:
    state = TX.init(PARAMS)
    state = state._replace(nu=jax.device_put(state.nu, HOST))
    with pytest.raises(ValueError, match=r"state.nu\['w'\] is in host memory"):
        jax.jit(apply)(PARAMS, state, PARAMS)


def test_leaves_of_nadam_update() -> None:
    w = jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"nu\[0\] is in host memory, and params\[0\] in device"):
        nadam_update(np.full(12, 0.1, np.float32), [w], [w], [w], [jax.device_put(w, HOST)])


def test_leaves_of_sum_squares() -> None:
    w = jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"tree\[1\] is in host memory, and tree\[0\] in device"):
        sum_squares([w, jax.device_put(w, HOST)])


def test_the_primitive_looks_at_memory_too() -> None:
    w = jnp.ones((4, 3))
    leaves = w, w, jax.device_put(w, HOST), w
    with pytest.raises(TypeError, match="operand 3; it must be in the memory"):
        primitive.bind(jnp.ones((1, 1, len(Coefficients._fields))), *leaves, streams=Streams())


@pytest.mark.parametrize("step", [apply, update])
def test_all_on_the_host(step: Callable[..., Any]) -> None:
    """Then JAX computes there, and the results stay there."""
    expected = jax.jit(step)(*arguments(TX))
    results = jax.jit(step)(*arguments(TX, "grads", "state", "params"))
    assert jax.typeof(results[0]["w"]).memory_space == HOST
    jax.tree.map(np.testing.assert_array_equal, results, expected)


def test_a_count_on_the_host() -> None:
    """JAX takes scalars from anywhere."""
    state = TX.init(PARAMS)
    on_host = state._replace(count=jax.device_put(state.count, HOST))
    results = jax.jit(apply)(PARAMS, on_host, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, results, jax.jit(apply)(PARAMS, state, PARAMS))


def test_a_state_that_rests_on_the_host() -> None:
    @jax.jit
    def step(grads: Any, state: Any, params: Any) -> Any:
        new, state = TX.apply(grads, jax.device_put(state, DEVICE), params)
        return new, jax.device_put(state, HOST)

    params, state = PARAMS, jax.device_put(TX.init(PARAMS), HOST)
    expected, expected_state = PARAMS, TX.init(PARAMS)
    for _ in range(3):
        params, state = step(params, state, params)
        expected, expected_state = jax.jit(apply)(expected, expected_state, expected)
        assert jax.typeof(state.mu["w"]).memory_space == HOST
    jax.tree.map(np.testing.assert_array_equal, (params, state), (expected, expected_state))
