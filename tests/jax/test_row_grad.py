"""Gradients of the rows that a model looks up, without a change to the model."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import nadam_xla.flax.nnx
from nadam_xla.flax.train_state import TrainState
from nadam_xla.jax import RowGradient, nadam, value_and_row_grad

HEIGHT, COLUMNS = 50, 8
TABLES = {"table": True, "dense": False}
PARAMS = {
    "table": jnp.asarray(np.random.default_rng(0).normal(size=(HEIGHT, COLUMNS)), jnp.float32),
    "dense": jnp.linspace(-1, 1, COLUMNS),
}
# Negative ones count from the end, as JAX has it; others are beyond it.
IDS = jnp.array([[3, -1, 7], [7, HEIGHT - 1, 0], [7, 3, HEIGHT + 5]])
assert_close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)

Loss = Callable[[Any, jax.Array], jax.Array]


def loss_of(rows: jax.Array, params: Any) -> jax.Array:
    # Of a row that is filled with NaN there is no loss.
    return jnp.mean(jnp.nan_to_num(jnp.tanh(rows) @ params["dense"]) ** 2)


def dense_of(rows: RowGradient) -> np.ndarray:
    dense = np.zeros((HEIGHT, COLUMNS))
    for index, value in zip(rows.indices.tolist(), np.asarray(rows.values, float), strict=True):
        if 0 <= index < HEIGHT:
            dense[index] += value
    return dense


@jax.jit
def jitted(table: jax.Array, ids: jax.Array) -> jax.Array:
    """With numbers and rows of its own."""
    return table[ids] * np.arange(COLUMNS) + jnp.take(table, np.array([1, 2, 2]), axis=0)


LOOKUPS: dict[str, Loss] = {
    "index": lambda p, ids: loss_of(p["table"][ids], p),
    "take": lambda p, ids: loss_of(jnp.take(p["table"], ids, axis=0), p),
    "clipped": lambda p, ids: loss_of(jnp.take(p["table"], ids, axis=0, mode="clip"), p),
    "twice": lambda p, ids: loss_of(p["table"][ids] + 2 * p["table"][ids[:, :1]], p),
    "mapped": lambda p, ids: loss_of(jax.vmap(jax.vmap(lambda i: p["table"][i]))(ids), p),
    "jitted": lambda p, ids: loss_of(jitted(p["table"], ids) + jitted(p["table"], ids.T), p),
    "not at all": lambda p, ids: loss_of(jnp.ones((3, COLUMNS)), p) + 0 * ids.sum(),
}


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_it_is_the_gradient_of_the_table(lookup: str) -> None:
    loss = LOOKUPS[lookup]
    value, grads = jax.jit(value_and_row_grad(loss, TABLES))(PARAMS, IDS)
    expected, of_table = jax.jit(jax.value_and_grad(loss))(PARAMS, IDS)
    assert_close(value, expected)
    assert_close(grads["dense"], of_table["dense"])
    assert isinstance(grads["table"], RowGradient)
    assert_close(dense_of(grads["table"]), of_table["table"])


def test_a_table_that_is_converted_has_gradients_as_wide_as_its_rows() -> None:
    def loss(p: Any, ids: jax.Array) -> jax.Array:
        return loss_of(p["table"].astype(jnp.bfloat16)[ids], p).astype(jnp.float32)

    grad_fn = jax.jit(value_and_row_grad(loss, TABLES))
    compiled = grad_fn.lower(PARAMS, IDS).compile().as_text()
    assert f"bf16[{HEIGHT},{COLUMNS}]" not in compiled
    value, grads = grad_fn(PARAMS, IDS)
    expected, of_table = jax.value_and_grad(loss)(PARAMS, IDS)
    np.testing.assert_allclose(value, expected, rtol=1e-2)
    assert grads["table"].values.dtype == jnp.bfloat16
    np.testing.assert_allclose(dense_of(grads["table"]), of_table["table"], atol=1e-2)


def test_what_else_the_function_returns_comes_along_and_it_runs_without_jit() -> None:
    def loss(p: Any, ids: jax.Array, *, name: str) -> Any:
        return loss_of(p["table"][ids], p), {name: ids.sum(), "name": name}

    (value, aux), grads = value_and_row_grad(loss, TABLES, has_aux=True)(PARAMS, IDS, name="sum")
    assert aux == {"sum": IDS.sum(), "name": "sum"}
    assert_close(value, loss_of(PARAMS["table"][IDS], PARAMS))
    assert grads["table"].values.shape == (IDS.size, COLUMNS)


def test_a_population_and_a_derivative_of_a_derivative() -> None:
    def slope(scale: jax.Array) -> jax.Array:
        scaled = {**PARAMS, "dense": scale * PARAMS["dense"]}
        _, grads = value_and_row_grad(LOOKUPS["index"], TABLES)(scaled, IDS)
        return jnp.sum(grads["table"].values ** 2)

    def expected(scale: jax.Array) -> jax.Array:
        def of_rows(rows: jax.Array) -> jax.Array:
            return loss_of(rows, {"dense": scale * PARAMS["dense"]})

        return jnp.sum(jax.grad(of_rows)(PARAMS["table"][IDS]) ** 2)

    scales = jnp.array([0.5, 1.0])
    assert_close(jax.vmap(jax.grad(slope))(scales), jax.vmap(jax.grad(expected))(scales))


def test_a_training_step_is_in_place_and_makes_nothing_of_the_size_of_the_table() -> None:
    """Not even a copy of the matrix that the gradient of the rows is made with."""
    params = {"table": jnp.ones((4000, 32)), "dense": jnp.ones((32, 32))}
    tx = nadam(1e-2)

    def loss(p: Any, ids: jax.Array) -> jax.Array:
        return jnp.mean(jnp.tanh(p["table"][ids] @ p["dense"]) ** 2)

    def step(params: Any, state: Any, ids: jax.Array) -> Any:
        value, grads = value_and_row_grad(loss, TABLES)(params, ids)
        return *tx.apply(grads, state, params), value

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), IDS).compile()
    assert not re.search(r"= f32\[(32|4000),32\]\S* copy\(", compiled.as_text())
    assert compiled.memory_analysis().temp_size_in_bytes < 32 * 1024


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda p, ids: (p["table"][ids] @ p["table"].T).sum(),
            r"params\['table'\] is used by (tr|d)",
        ),
        (lambda p, ids: jax.lax.map(lambda i: p["table"][i], ids).sum(), "is used by scan"),
        (lambda p, ids: jax.checkpoint(lambda t: t[ids])(p["table"]).sum(), "is used by"),
        (lambda p, ids: p["table"][:, ids].sum(), "is used by gather"),
    ],
)
def test_a_table_that_is_used_otherwise_is_refused(loss: Loss, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        value_and_row_grad(loss, TABLES)(PARAMS, IDS)


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(TypeError, match=r"tables\['table'\] is .*; it must be a boolean"):
        value_and_row_grad(LOOKUPS["index"], {"table": "yes", "dense": False})(PARAMS, IDS)
    with pytest.raises(ValueError, match=r"tables .*has no \['table'\]|tables has no"):
        value_and_row_grad(LOOKUPS["index"], {"dense": False})(PARAMS, IDS)
    with pytest.raises(TypeError, match=r"params\['table'\] has the dtype int32"):
        value_and_row_grad(LOOKUPS["index"], TABLES)({**PARAMS, "table": IDS}, IDS)


def embeddings(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "embedding" in jax.tree_util.keystr(path), params
    )


class TestFlax:
    """Every row touched: the losses are those of Flax's own gradients."""

    ids = jnp.arange(HEIGHT)

    def losses(self, step: Callable[[], jax.Array]) -> list[float]:
        return [float(step()) for _ in range(3)]

    @pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
    def test_linen(self, dtype: Any) -> None:
        class Model(linen.Module):
            @linen.compact
            def __call__(self, ids: jax.Array) -> jax.Array:
                rows = linen.Embed(HEIGHT, COLUMNS, dtype=dtype)(ids)
                return linen.Dense(1)(jnp.tanh(rows.astype(jnp.float32))).mean()

        model = Model()
        params = model.init(jax.random.key(0), self.ids)["params"]

        def loss(params: Any, ids: jax.Array) -> jax.Array:
            return (model.apply({"params": params}, ids) - 1) ** 2

        def train(grad_fn: Any) -> list[float]:
            state = TrainState.create(apply_fn=None, params=params, tx=nadam(1e-1))

            @jax.jit
            def step(state: Any) -> Any:
                value, grads = grad_fn(state.params, self.ids)
                return state.apply_gradients(grads=grads), value

            values = []
            for _ in range(3):
                state, value = step(state)
                values.append(float(value))
            return values

        by_rows = train(value_and_row_grad(loss, embeddings))
        assert by_rows[-1] < by_rows[0]
        np.testing.assert_allclose(
            by_rows, train(jax.value_and_grad(loss)), rtol=1e-2 if dtype else 1e-5
        )

    def test_nnx(self) -> None:
        class Model(nnx.Module):
            def __init__(self) -> None:
                self.embed = nnx.Embed(HEIGHT, COLUMNS, rngs=nnx.Rngs(0))
                self.dense = nnx.Linear(COLUMNS, 1, rngs=nnx.Rngs(1))

            def __call__(self, ids: jax.Array) -> jax.Array:
                return self.dense(jnp.tanh(self.embed(ids))).mean()

        def train(by_rows: bool) -> list[float]:
            model = Model()
            optimizer = nadam_xla.flax.nnx.Optimizer(model, nadam(1e-1), wrt=nnx.Param)

            @nnx.jit
            def step(model: Any, optimizer: Any, ids: jax.Array) -> jax.Array:
                graph, params = nnx.split(model)

                def loss(params: Any, ids: jax.Array) -> jax.Array:
                    return (nnx.merge(graph, params)(ids) - 1) ** 2

                grad_fn = (
                    value_and_row_grad(loss, embeddings) if by_rows else jax.value_and_grad(loss)
                )
                value, grads = grad_fn(params, ids)
                optimizer.update(model, grads)
                return value

            return [float(step(model, optimizer, self.ids)) for _ in range(3)]

        values = train(by_rows=True)
        assert values[-1] < values[0]
        np.testing.assert_allclose(values, train(by_rows=False), rtol=1e-5)
