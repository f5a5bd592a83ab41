"""What JAX does to functions: vmap, grad, jit, export."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads
from x64 import enable_x64

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import nadam, nadam_update

CALL = 'custom_call_target="nadam_xla_update_v1"'


def calls_in(function: object, *arguments: object) -> int:
    return jax.jit(function).lower(*arguments).compile().as_text().count(CALL)


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


class TestDifferentiation:
    row = Coefficients(*oracle.rows(np.random.default_rng(5), (), "float64"))

    @pytest.mark.parametrize("modes", ["fwd", "rev"])
    @pytest.mark.parametrize("returns", ["params", "change"])
    def test_gradients_to_second_order(self, modes: str, returns: str) -> None:
        with enable_x64(True):
            smooth = self.row._replace(clip_value=100.0, eps_root=1e-3)
            groups = [[x.astype(jnp.float64) for x in g] for g in leaves()]
            *row, skip = jnp.array(smooth)  # a difference of skips is no derivative

            def update(row: list[jax.Array], *groups: object) -> object:
                return nadam_update(jnp.stack([*row, skip]), *groups, returns=returns)

            check_grads(update, (row, *groups), order=2, modes=[modes], atol=1e-4, rtol=1e-4)

    def test_hypergradient_of_the_learning_rate(self) -> None:
        def loss(params: jax.Array) -> jax.Array:
            return jnp.sum((params - 3.0) ** 2)

        def after_training(rate: jax.Array) -> jax.Array:
            tx = nadam(rate, eps_root=1e-8)
            params = jnp.array([1.0, 5.0, -2.0])
            state = tx.init(params)
            for _ in range(5):
                params, state = tx.apply(jax.grad(loss)(params), state, params)
            return loss(params)

        with enable_x64(True):
            rate, step = 0.1, 1e-6
            slope = (after_training(rate + step) - after_training(rate - step)) / (2 * step)
            np.testing.assert_allclose(jax.grad(after_training)(rate), slope, rtol=1e-5)

    def test_the_value_comes_from_the_fused_call(self) -> None:
        groups = leaves()

        def total(row: jax.Array) -> jax.Array:
            return sum(x.sum() for x in nadam_update(row, *groups)[0])

        row = jnp.asarray(self.row, jnp.float32)
        assert calls_in(jax.value_and_grad(total), row) == 1


class TestExport:
    tx = nadam(1e-3, momentum_decay=0.004)
    disabled_checks = (jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v1"),)

    def export(self, platform: str) -> jax.export.Exported:
        params, grads, *_ = leaves()
        state = self.tx.init(params)
        # The state is a NamedTuple of ours, which a serialized program does not know.
        flat, treedef = jax.tree.flatten((params, state))

        def step(flat: list[jax.Array], grads: object) -> list[jax.Array]:
            params, state = treedef.unflatten(flat)
            return jax.tree.leaves(self.tx.apply(grads, state, params))

        self.step, self.arguments = step, (flat, grads)
        return jax.export.export(
            jax.jit(step, donate_argnums=0),
            platforms=[platform],
            disabled_checks=self.disabled_checks,
        )(*self.arguments)

    def test_for_tpu_it_is_plain_stablehlo(self) -> None:
        module = self.export("tpu").mlir_module()
        assert "custom_call" not in module
        assert "stablehlo.sqrt" in module

    @pytest.mark.parametrize("platform", ["cpu", "cuda"])
    def test_elsewhere_it_is_the_call_with_its_aliases(self, platform: str) -> None:
        module = self.export(platform).mlir_module()
        assert module.count("custom_call @nadam_xla_update_v1") == 1
        assert module.count("output_operand_alias<") == 9, "three leaves: params, mu and nu"

    def test_a_serialized_program_runs(self) -> None:
        exported = jax.export.deserialize(self.export("cpu").serialize())
        results = exported.call(*self.arguments)
        for a, b in zip(results, self.step(*self.arguments), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
