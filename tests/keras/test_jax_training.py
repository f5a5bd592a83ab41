"""The ways to train that only Keras on JAX has: stateless steps, as JAX's own programs."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras_models import BACKEND, assert_all_close, batches, dense

if BACKEND != "jax":
    pytest.skip("for the JAX backend", allow_module_level=True)

import jax
import jax.numpy as jnp

from nadam_xla.keras import Nadam

Stock = keras.optimizers.Nadam
Make = Callable[..., Any]  # an optimizer: Nadam or Stock
State = tuple[list[jax.Array], list[jax.Array], list[jax.Array]]


def stateless_step(
    model: keras.Model, optimizer: Any
) -> tuple[State, Callable[[State, Any], tuple[State, jax.Array]]]:
    """The state before the first step, and the step, as Keras's guide to custom loops has it."""
    optimizer.build(model.trainable_variables)

    def loss_of(trainable: Any, non_trainable: Any, x: Any, y: Any, state: Any) -> Any:
        outputs, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        loss = jnp.mean((outputs - y) ** 2)
        with keras.StatelessScope(zip(optimizer.variables, state, strict=True)):
            return optimizer.scale_loss(loss), (loss, non_trainable)

    def step(state: State, batch: Any) -> tuple[State, jax.Array]:
        trainable, non_trainable, optimizer_state = state
        (_, (loss, non_trainable)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            trainable, non_trainable, *batch, optimizer_state
        )
        trainable, optimizer_state = optimizer.stateless_apply(optimizer_state, grads, trainable)
        return (trainable, non_trainable, optimizer_state), loss

    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    # Copies: the state is donated, and the variables are to stay whole.
    return tuple([jnp.array(v.value) for v in group] for group in groups), step


def in_a_loss_scale_optimizer(make: Make, model: keras.Model) -> Any:
    optimizer = keras.optimizers.LossScaleOptimizer(
        make(1e-2), initial_scale=4.0, dynamic_growth_steps=3
    )
    if make is Stock:  # which otherwise forgets its momentum product, see test_training.py
        optimizer.inner_optimizer.build(model.trainable_variables)
    return optimizer


OPTIMIZERS: dict[str, Callable[[Make, keras.Model], Any]] = {
    "alone": lambda make, model: make(1e-2),
    "with all in the row": lambda make, model: make(
        1e-2, global_clipnorm=0.5, weight_decay=0.1, loss_scale_factor=4.0
    ),
    "in a LossScaleOptimizer": in_a_loss_scale_optimizer,
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_stateless_loop_with_donated_state(optimizer: str) -> None:
    def train(make: Make) -> tuple[list[float], State]:
        model = dense()
        state, step = stateless_step(model, OPTIMIZERS[optimizer](make, model))
        step = jax.jit(step, donate_argnums=0)
        losses, addresses = [], []
        for batch in batches():
            given = state
            state, loss = step(state, batch)
            assert all(x.is_deleted() for x in jax.tree.leaves(given))
            losses.append(float(loss))
            addresses.append([x.unsafe_buffer_pointer() for x in matrices(state)])
        assert step._cache_size() == 1
        if make is Nadam:
            assert all(a == addresses[0] for a in addresses), "updated in place"
        return losses, state

    (ours, state), (stock, stock_state) = train(Nadam), train(Stock)
    np.testing.assert_allclose(ours, stock, rtol=1e-5)
    assert_all_close(matrices(state), matrices(stock_state))


def matrices(state: State) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(state) if x.ndim == 2]


def test_a_stateless_loop_in_one_program() -> None:
    x, y = (np.stack(part) for part in zip(*batches(), strict=True))

    def train(make: Make) -> Any:
        state, step = stateless_step(dense(), make(1e-2))
        return jax.jit(lambda state: jax.lax.scan(step, state, (x, y)))(state)

    assert_all_close(jax.tree.leaves(train(Nadam)), jax.tree.leaves(train(Stock)))


def test_a_stateless_step_that_is_not_compiled() -> None:
    def train(make: Make) -> State:
        state, step = stateless_step(dense(), make(1e-2))
        for batch in batches()[:3]:
            state, _ = step(state, batch)
        return state

    assert_all_close(jax.tree.leaves(train(Nadam)), jax.tree.leaves(train(Stock)))


def test_a_gradient_that_is_none_in_a_stateless_step() -> None:
    def train(make: Make) -> Any:
        variables = [keras.Variable(np.ones(3, "f")) for _ in range(2)]
        optimizer = make(1e-2)
        optimizer.build(variables)
        values = [v.value for v in optimizer.variables], [v.value for v in variables]

        @jax.jit
        def step(state: Any, trainable: Any) -> Any:
            return optimizer.stateless_apply(state, [None, jnp.ones(3)], trainable)

        with pytest.warns(UserWarning, match="Gradients do not exist"):
            return step(*values)

    trainable, _ = ours = train(Nadam)
    assert_all_close(jax.tree.leaves(ours), jax.tree.leaves(train(Stock)))
    np.testing.assert_array_equal(trainable[0], np.ones(3))
