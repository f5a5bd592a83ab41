"""One entry of stacks on this device against the oracle, bit for bit, by itself and in a loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from nadam_xla.jax import fuse_updates, nadam
from nadam_xla.jax.entry import bind_entry

SHAPES = [(), (7,), (33,), (3, 5, 7), (512, 300)]


@pytest.mark.parametrize("index", [0, 2, 5, -1])
@pytest.mark.parametrize("rows", [1, len(SHAPES)])
def test_that_entry_is_the_oracles_and_all_others_stay(index: int, rows: int) -> None:
    rng, entries = np.random.default_rng(0), 4
    table = oracle.rows(rng, (1, rows), "float32")
    stacks = [[rng.normal(size=(entries, *s)).astype(np.float32) for s in SHAPES] for _ in "pmv"]
    params, mu, nu = stacks[0], stacks[1], [np.abs(v) for v in stacks[2]]
    grads = [rng.normal(size=s).astype(np.float32) for s in SHAPES]

    @jax.jit
    def update(index: Any, table: Any, *operands: Any) -> Any:
        return bind_entry(index, table, *operands, leaves=len(SHAPES))

    found = update(np.int32(index), table, *params, *grads, *mu, *nu)
    i = min(max(index, 0), entries - 1)
    for leaf, (p, g, m, v) in enumerate(zip(params, grads, mu, nu, strict=True)):
        new = [p.copy(), m.copy(), v.copy()]
        row = table[0, leaf if rows > 1 else 0]
        new[0][i], _, new[1][i], new[2][i] = oracle.rule(row, p[i], g, m[i], v[i])
        for result, value in zip(found[leaf :: len(SHAPES)], new, strict=True):
            np.testing.assert_array_equal(result, value, err_msg=f"leaf {leaf}")


def test_a_woven_step_is_the_unwoven_one() -> None:
    """On a GPU products may be rounded otherwise from one program to the next."""
    rng = np.random.default_rng(0)
    layers = jnp.asarray(rng.normal(size=(6, 256, 256)) / 16, jnp.float32)
    x = jnp.asarray(rng.normal(size=(32, 256)), jnp.float32)
    tx = nadam(1e-2)

    def loss(layers: Any, x: Any) -> Any:
        return jnp.mean(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0] ** 2)

    def step(layers: Any, state: Any, x: Any) -> Any:
        return tx.apply(jax.grad(loss)(layers, x), state, layers)

    plain, woven = jax.jit(step), jax.jit(fuse_updates(step))
    text = woven.lower(layers, tx.init(layers), x).as_text()
    assert "@nadam_xla_update_entry_v1" in text
    one = other = (layers, tx.init(layers))
    for _ in range(3):
        one, other = plain(*one, x), woven(*other, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, other)
