"""vmap and pmap: each is one call, and equals a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from compiled import aliased_results, calls_in, copies_of_arrays, text_of
from processes import output_of

from nadam_xla.jax import nadam, nadam_update


def leaves(*lead: int) -> tuple[list[jax.Array], ...]:
    rng = np.random.default_rng(0)
    shapes = [(*lead, 3, 5), (*lead, 4), (*lead,)]
    return tuple(
        [jnp.asarray(np.abs(rng.normal(size=s)), jnp.float32) for s in shapes] for _ in range(4)
    )


def assert_same(batched: object, looped: list[object]) -> None:
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *looped)
    jax.tree.map(np.testing.assert_array_equal, batched, stacked)


@pytest.mark.parametrize("returns", ["params", "change"])
class TestVmap:
    """Each is one call, and equals a loop to the bit."""

    row = oracle.rows(np.random.default_rng(1), (), "float32")
    rows = oracle.rows(np.random.default_rng(2), (6,), "float32")

    def test_over_leaves(self, returns: str) -> None:
        def update(*groups: object) -> object:
            return nadam_update(self.row, *groups, returns=returns)

        groups = leaves(6)
        assert calls_in(jax.vmap(update), *groups) == 1
        loop = [update(*jax.tree.map(lambda x: x[i], groups)) for i in range(6)]  # noqa: B023
        assert_same(jax.vmap(update)(*groups), loop)

    def test_over_leaves_at_other_axes_and_some_not_at_all(self, returns: str) -> None:
        params, grads, mu, nu = leaves()
        many = [jnp.stack([g * (i + 1) for i in range(6)], axis=-1) for g in grads]

        def update(grads: object) -> object:
            return nadam_update(self.row, params, grads, mu, nu, returns=returns)

        batched = jax.vmap(update, in_axes=-1)
        assert calls_in(batched, many) == 1
        assert_same(batched(many), [update([g[..., i] for g in many]) for i in range(6)])

    def test_over_rows(self, returns: str) -> None:
        groups = leaves()

        def update(row: object) -> object:
            return nadam_update(row, *groups, returns=returns)

        assert calls_in(jax.vmap(update), self.rows) == 1
        assert_same(jax.vmap(update)(self.rows), [update(row) for row in self.rows])

    def test_over_rows_of_each_leaf(self, returns: str) -> None:
        groups = leaves(6)
        rows = oracle.rows(np.random.default_rng(3), (6, 3), "float32")

        def update(rows: object, *groups: object) -> object:
            return nadam_update(rows, *groups, returns=returns)

        assert calls_in(jax.vmap(update), rows, *groups) == 1
        loop = [update(rows[i], *jax.tree.map(lambda x: x[i], groups)) for i in range(6)]  # noqa: B023
        assert_same(jax.vmap(update)(rows, *groups), loop)

    @pytest.mark.parametrize("inner_rows", [False, True])
    @pytest.mark.parametrize("outer_rows", [False, True])
    def test_nested(self, returns: str, inner_rows: bool, outer_rows: bool) -> None:
        groups = leaves(2, 6)
        rows = oracle.rows(np.random.default_rng(4), (2, 6), "float32")

        def update(row: object, *groups: object) -> object:
            return nadam_update(row, *groups, returns=returns)

        inner = jax.vmap(update, in_axes=(0 if inner_rows else None, 0, 0, 0, 0))
        outer = jax.vmap(inner, in_axes=(0 if outer_rows else None, 0, 0, 0, 0))
        rows = rows[tuple(slice(None) if b else 0 for b in (outer_rows, inner_rows))]
        assert calls_in(outer, rows, *groups) == 1
        loop = [
            inner(rows[i] if outer_rows else rows, *jax.tree.map(lambda x: x[i], groups))  # noqa: B023
            for i in range(2)
        ]
        assert_same(outer(rows, *groups), loop)


def test_a_population_of_learning_rates_is_one_call() -> None:
    params, grads, *_ = leaves()
    rates = jnp.array([1e-3, 1e-2, 1e-1])

    def train(rate: object) -> object:
        tx = nadam(rate)
        state = tx.init(params)
        for _ in range(3):
            new, state = tx.apply(grads, state, params)
        return new

    assert calls_in(jax.vmap(train), rates) == 3, "one for each step"
    for batched, looped in zip(
        jax.vmap(train)(rates),
        [jnp.stack(x) for x in zip(*[train(rate) for rate in rates], strict=True)],
        strict=True,
    ):
        np.testing.assert_allclose(batched, looped, rtol=1e-6)


def test_a_grid_of_hyperparameters_is_one_call() -> None:
    params, grads, *_ = leaves()
    rates, decays = jnp.array([1e-3, 1e-2, 1e-1]), jnp.array([0.5, 0.9])

    def train(rate: object, b1: object) -> object:
        tx = nadam(rate, b1=b1)
        return tx.apply(grads, tx.init(params), params)[0]

    grid = jax.vmap(jax.vmap(train, in_axes=(None, 0)), in_axes=(0, None))
    assert calls_in(grid, rates, decays) == 1
    for batched, *looped in zip(
        grid(rates, decays), *(train(r, b) for r in rates for b in decays), strict=True
    ):
        stacked = jnp.stack(looped).reshape(batched.shape)
        np.testing.assert_allclose(batched, stacked, rtol=1e-6)


def test_a_population_with_states_of_its_own_trains_in_place() -> None:
    params, grads, *_ = leaves(6)
    rates = jnp.linspace(1e-3, 1e-2, 6)
    state = jax.vmap(nadam(0.0).init)(params)

    @jax.vmap
    def step(params: object, state: object, grads: object, rate: object) -> object:
        return nadam(rate).apply(grads, state, params)

    text = text_of(step, params, state, grads, rates, donate=(0, 1))
    assert copies_of_arrays(text) == 0
    assert len(aliased_results(text)) == len(jax.tree.leaves((params, state)))
    new, _ = step(params, state, grads, rates)
    for i, rate in enumerate(rates):
        member, g = (jax.tree.map(lambda x: x[i], tree) for tree in (params, grads))  # noqa: B023
        tx = nadam(rate)
        alone, _ = tx.apply(g, tx.init(member), member)
        for batched, expected in zip(new, alone, strict=True):
            np.testing.assert_allclose(batched[i], expected, rtol=1e-6)


PMAP = """
import jax, jax.numpy as jnp, numpy as np, optax
from compiled import CALL
from nadam_xla.jax import nadam

def trained(tx, steps=3):
    def step(params, state, x):
        loss = lambda p: jnp.mean((x @ p["w"] + p["b"] - 1.0) ** 2)
        grads = jax.lax.pmean(jax.grad(loss)(params), "device")
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.ones((16, 4)), "b": jnp.zeros(4)}
    x = jax.random.normal(jax.random.key(0), (8, 5, 16))
    replicated = jax.tree.map(lambda a: jnp.stack([a] * 8), (params, tx.init(params)))
    step = jax.pmap(step, axis_name="device", donate_argnums=(0, 1))
    compiled = step.lower(*replicated, x).compile().as_text()
    params, state = replicated
    for _ in range(steps):
        params, state = step(params, state, x)
    return params, compiled

assert jax.device_count() == 8
ours, program = trained(nadam(1e-2))
theirs, stock_program = trained(optax.nadam(1e-2))
assert program.count(CALL) == 1
assert program.count(" all-reduce(") == stock_program.count(" all-reduce(")
assert program.count(" all-gather(") == stock_program.count(" all-gather(") == 0
for name in ours:
    assert ours[name].shape[0] == 8
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
print("equal")
"""


def test_pmap_equals_optax_and_adds_no_collective() -> None:
    assert output_of(PMAP, devices=8).strip() == "equal"
