"""What only Keras on JAX has: sparse gradients of JAX's own."""

from typing import Any

import keras
import numpy as np
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("for the JAX backend", allow_module_level=True)

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from nadam_xla.keras import Nadam

ROWS = np.array([1, 4, 1, 9, 4, 1])  # repeated, as a batch of words has them
SHAPE = (11, 5)


def sparse_gradient(seed: int) -> BCOO:
    values = np.random.default_rng(seed).normal(size=(len(ROWS), SHAPE[1]))
    return BCOO((jnp.asarray(values, "float32"), ROWS[:, None]), shape=SHAPE)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"global_clipnorm": 0.5}, {"gradient_accumulation_steps": 2}],
    ids=["defaults", "clipped", "accumulated"],
)
def test_repeated_rows_of_a_sparse_gradient_are_summed(
    arguments: dict[str, Any], compiled: bool
) -> None:
    """Stock squares each row by itself and cannot accumulate them, so it gets dense gradients."""

    def train(optimizer: Any, *, dense: bool) -> np.ndarray:
        optimizer.build([keras.Variable(np.ones(SHAPE, "f"))])
        step = jax.jit(optimizer.stateless_apply) if compiled else optimizer.stateless_apply
        params, state = [jnp.ones(SHAPE)], [v.value for v in optimizer.variables]
        for seed in range(20):
            grad = sparse_gradient(seed)
            params, state = step(state, [grad.todense() if dense else grad], params)
        return np.asarray(params[0])

    ours = train(Nadam(0.01, **arguments), dense=False)
    stock = train(keras.optimizers.Nadam(0.01, **arguments), dense=True)
    np.testing.assert_allclose(ours, stock, rtol=1e-5)
