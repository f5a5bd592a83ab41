"""Trains with JAX and what it finds installed, and fails where the step is not fused and in place.

A program of its own, so that an environment needs nothing but the wheel and JAX to run it.
"""

import jax
import jax.numpy as jnp

from nadam_xla.jax import nadam

CALL = 'custom_call_target="nadam_xla_update_v2"'
LEAVES = 4

tx = nadam(1e-2)


def loss_of(params: list[jax.Array], x: jax.Array) -> jax.Array:
    for p in params:
        x = jnp.tanh(x @ p)
    return jnp.mean((x - 0.5) ** 2)


def step(params, state, x):
    loss, grads = jax.value_and_grad(loss_of)(params, x)
    params, state = tx.apply(grads, state, params)
    return params, state, loss


def pointers(params, state) -> list[int]:
    return [x.unsafe_buffer_pointer() for x in (*params, *state.mu, *state.nu)]


params = [0.1 * jax.random.normal(jax.random.key(i), (64, 64)) for i in range(LEAVES)]
state = tx.init(params)
x = jax.random.normal(jax.random.key(LEAVES), (32, 64))

compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, x).compile()
assert CALL in compiled.as_text(), "the compiled step does not call the kernel"

before = pointers(params, state)
losses = []
for _ in range(50):
    params, state, loss = compiled(params, state, x)
    losses.append(float(loss))
assert pointers(params, state) == before, "parameters and moments do not keep their memory"
assert losses[-1] < 0.1 * losses[0], f"the loss does not fall: {losses[0]} to {losses[-1]}"
print(jax.__version__)
