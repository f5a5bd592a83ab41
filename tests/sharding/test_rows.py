"""Rows of tables that are spread over a mesh: each device updates its own, and tells nobody."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Instruction, aliased_results, collectives, copies_of_arrays, instructions
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import (
    RowGradient,
    apply_updates,
    nadam,
    nadamw,
    value_and_row_grad,
    zero1_shardings,
)

CALL = 'custom_call_target="nadam_xla_update_rows_v1"'
HEIGHT, COLUMNS = 64, 16
TX = nadamw(1e-2, weight_decay=0.1)


def mesh(kind: AxisType = AxisType.Auto, **axes: int) -> jax.sharding.Mesh:
    axes = axes or {"data": 4, "model": 2}
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes))


def table(seed: int = 0, *lead: int, dtype: Any = jnp.float32) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(*lead, HEIGHT, COLUMNS)), dtype)


def rows(seed: int = 1, touched: int = 40) -> RowGradient:
    """Some twice, and some that are in no table."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(-3, HEIGHT + 3, touched)
    indices[:3] = -(2**31), 2**31 - 1, HEIGHT
    values = rng.normal(size=(touched, COLUMNS))
    return RowGradient(jnp.asarray(indices, jnp.int32), jnp.asarray(values, jnp.float32))


def apply(params: Any, state: Any, grads: Any) -> Any:
    return TX.apply(grads, state, params)


def placed(tree: Any, where: jax.sharding.Mesh, spec: P) -> Any:
    def place(x: jax.Array) -> jax.Array:
        own = spec if x.ndim == 2 else P()
        return jax.device_put(x, NamedSharding(where, own))

    return jax.tree.map(place, tree)


LAYOUTS = [P("data"), P(("data", "model")), P(None, "model"), P("model", "data"), P()]


@pytest.mark.parametrize("spec", LAYOUTS, ids=str)
def test_every_layout_updates_in_place_and_no_device_tells_another_anything(spec: P) -> None:
    params = table()
    expected = jax.jit(apply)(params, TX.init(params), rows())
    where = mesh()
    params, state = placed((params, TX.init(params)), where, spec)
    grads = jax.device_put(rows(), NamedSharding(where, P()))
    step = jax.jit(apply, donate_argnums=(0, 1))
    text = step.lower(params, state, grads).compile().as_text()
    assert text.count(CALL) == 1
    assert not collectives(text)
    assert copies_of_arrays(text) == 0
    assert len(aliased_results(text)) >= 3
    new, state = step(params, state, grads)
    assert new.sharding.spec == state.mu.sharding.spec == NamedSharding(where, spec).spec
    jax.tree.map(np.testing.assert_array_equal, (new, state), expected)


def test_a_training_step_sends_rows_and_no_table() -> None:
    """The batch is cut over one axis, the rows of the table over the other."""
    where = mesh()
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, HEIGHT, (8, 2)))
    params = {"table": table(), "dense": jnp.full((COLUMNS, 4), 0.1)}

    def loss(params: Any, ids: jax.Array) -> jax.Array:
        return jnp.mean(jnp.tanh(params["table"][ids] @ params["dense"]) ** 2)

    def step(params: Any, state: Any, ids: jax.Array) -> Any:
        _, grads = value_and_row_grad(loss, {"table": True, "dense": False})(params, ids)
        return apply(params, state, grads)

    expected = jax.jit(step)(params, TX.init(params), ids)
    cut = {"table": P("model"), "dense": P()}
    layout = {name: NamedSharding(where, spec) for name, spec in cut.items()}
    whole = NamedSharding(where, P())
    layouts = (layout, TX.init(params)._replace(count=whole, mu=layout, nu=layout))
    params, state = jax.device_put((params, TX.init(params)), layouts)
    ids = jax.device_put(ids, NamedSharding(where, P("data")))
    sharded = jax.jit(step, donate_argnums=(0, 1), out_shardings=layouts)
    text = sharded.lower(params, state, ids).compile().as_text()
    assert text.count(CALL) == 1
    # It is overwritten once the gradient of the rows has read it.
    assert Instruction("copy", expected[0]["dense"].nbytes) not in instructions(text)
    rows_of_batch = 16 * COLUMNS * 4  # bytes
    for kind, (_, size) in collectives(text).items():
        assert size <= 2 * rows_of_batch, kind
    results = sharded(params, state, ids)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), results, expected)


@pytest.mark.parametrize("spec", [P("data"), P(("data", "model")), P("model", "data")], ids=str)
def test_rows_that_are_cut_over_an_axis_of_the_table_are_sent_and_the_table_is_not(
    spec: P,
) -> None:
    params = table()
    expected = jax.jit(apply)(params, TX.init(params), rows())
    where = mesh()
    params, state = placed((params, TX.init(params)), where, spec)
    grads = jax.device_put(rows(), NamedSharding(where, P("data")))
    step = jax.jit(apply, donate_argnums=(0, 1))
    text = step.lower(params, state, grads).compile().as_text()
    assert text.count(CALL) == 1
    assert Instruction("copy", params.addressable_shards[0].data.nbytes) not in instructions(text)
    sent = sum(size for _, size in collectives(text).values())
    assert 0 < sent <= grads.indices.nbytes + grads.values.nbytes
    new, state = step(params, state, grads)
    assert new.sharding.spec == state.mu.sharding.spec == NamedSharding(where, spec).spec
    jax.tree.map(np.testing.assert_array_equal, (new, state), expected)


def test_norms_are_those_of_the_summed_rows_wherever_the_table_lies() -> None:
    tx = nadam(1e-2, max_norm=0.5, skip_nonfinite=True)

    def step(params: Any, state: Any, grads: Any) -> Any:
        return tx.apply(grads, state, params)

    params = table()
    expected = jax.jit(step)(params, tx.init(params), rows())
    where = mesh()
    cut = placed((params, tx.init(params)), where, P("data", "model"))
    grads = jax.device_put(rows(), NamedSharding(where, P()))
    results = jax.jit(step)(*cut, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), results, expected)


@pytest.mark.parametrize("spec", [P("data"), P("model", "data")], ids=str)
def test_rows_are_rounded_by_the_numbers_of_the_dense_step_in_the_same_layout(spec: P) -> None:
    tx = nadam(1e-2, rounding="stochastic", mu_dtype=jnp.bfloat16)

    def step(params: Any, state: Any, grads: Any) -> Any:
        return tx.apply(grads, state, params)

    params, where = table(dtype=jnp.bfloat16), mesh()
    dense = jnp.ones((HEIGHT, COLUMNS))
    every_row = RowGradient(jnp.arange(HEIGHT)[::-1], dense)
    cut = placed((params, tx.init(params)), where, spec)
    by_rows = jax.jit(step)(*cut, jax.device_put(every_row, NamedSharding(where, P())))
    whole = jax.jit(step)(*cut, placed(dense, where, spec))
    jax.tree.map(np.testing.assert_array_equal, by_rows, whole)


def test_a_population_is_spread_by_its_members_or_by_its_rows() -> None:
    many = [rows(seed) for seed in range(2)]
    grads = jax.tree.map(lambda *xs: jnp.stack(xs), *many)
    params = table(0, 2)
    state = jax.vmap(TX.init)(params)
    step = jax.jit(jax.vmap(apply))
    expected = step(params, state, grads)
    where = mesh()
    for spec in (P("model"), P(None, "data"), P("model", "data")):

        def cut(x: jax.Array, spec: P = spec) -> jax.Array:
            return jax.device_put(x, NamedSharding(where, spec if x.ndim == 3 else P()))

        sharded = jax.tree.map(cut, (params, state))
        whole = jax.device_put(grads, NamedSharding(where, P()))
        text = step.lower(*sharded, whole).compile().as_text()
        assert text.count(CALL) == 1
        jax.tree.map(np.testing.assert_array_equal, step(*sharded, whole), expected)


def test_changes_and_their_addition() -> None:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = TX.update(grads, state, params)
        return apply_updates(params, updates), state

    params, where = table(), mesh()
    expected = jax.jit(apply)(params, TX.init(params), rows())
    cut = placed((params, TX.init(params)), where, P("data"))
    results = jax.jit(step)(*cut, jax.device_put(rows(), NamedSharding(where, P())))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), results, expected)


def test_zero1_gives_what_a_step_on_one_device_gives() -> None:
    params, where = table(), mesh(data=8)
    expected = jax.jit(apply)(params, TX.init(params), rows())
    whole = NamedSharding(where, P())
    params, grads = jax.device_put((params, rows()), whole)
    shardings = zero1_shardings(TX, params, where, "data")
    state = jax.jit(TX.init, out_shardings=shardings)(params)
    step = jax.jit(apply, donate_argnums=(0, 1), out_shardings=(whole, shardings))
    jax.tree.map(np.testing.assert_array_equal, step(params, state, grads), expected)


class TestShardMap:
    """Each device has a table of its own, as far as the function sees."""

    def test_indices_are_those_of_the_rows_that_the_device_holds(self) -> None:
        def step(params: Any, state: Any, grads: RowGradient) -> Any:
            first = jax.lax.axis_index("data") * params.shape[0]
            own = jnp.where(grads.indices < 0, -1, grads.indices - first)
            return apply(params, state, RowGradient(own, grads.values))

        params = table()
        state = TX.init(params)
        expected = jax.jit(apply)(params, state, rows())
        layouts = P("data"), state._replace(count=P(), mu=P("data"), nu=P("data"))
        sharded = jax.jit(
            jax.shard_map(step, mesh=mesh(data=8), in_specs=(*layouts, P()), out_specs=layouts)
        )
        text = sharded.lower(params, state, rows()).compile().as_text()
        assert text.count(CALL) == 1
        assert not collectives(text)
        jax.tree.map(np.testing.assert_array_equal, sharded(params, state, rows()), expected)

    def test_manual_over_some_axes_only(self) -> None:
        params = table()
        state = TX.init(params)
        expected = jax.jit(apply)(params, state, rows())
        where = mesh()
        step = jax.jit(
            jax.shard_map(apply, mesh=where, in_specs=P(), out_specs=P(), axis_names={"data"})
        )
        cut = placed((params, state), where, P("model"))
        results = step(*cut, jax.device_put(rows(), NamedSharding(where, P())))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), results, expected)


class TestExplicitAxes:
    """The types of the results are those of the tables."""

    @pytest.mark.parametrize("spec", [P("data", None), P("model", "data")], ids=str)
    def test_types_values_and_collectives(self, spec: P) -> None:
        params = table()
        expected = jax.jit(apply)(params, TX.init(params), rows())

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = TX.update(grads, state, params)
            return apply_updates(params, updates), state

        with jax.set_mesh(mesh(AxisType.Explicit)):
            params = jax.device_put(params, spec)
            state = jax.jit(TX.init)(params)
            grads = jax.device_put(rows(), P())
            text = jax.jit(apply, donate_argnums=(0, 1)).lower(params, state, grads).compile()
            assert text.as_text().count(CALL) == 1
            assert not collectives(text.as_text())
            for step in (apply, update):
                new, after = jax.jit(step)(params, state, grads)
                assert jax.typeof(new).sharding.spec == jax.typeof(after.nu).sharding.spec == spec
                jax.tree.map(
                    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), (new, after), expected
                )

    def test_gradients_that_are_cut_are_made_whole(self) -> None:
        params = table()
        expected = jax.jit(apply)(params, TX.init(params), rows())
        with jax.set_mesh(mesh(AxisType.Explicit)):
            params = jax.device_put(params, P(None, "model"))
            grads = jax.device_put(rows(), P("data"))
            results = jax.jit(apply)(params, jax.jit(TX.init)(params), grads)
            jax.tree.map(np.testing.assert_array_equal, results, expected)
