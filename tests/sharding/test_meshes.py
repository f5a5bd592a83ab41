"""Explicit axes, manual axes, pmap, a population, and what a mesh is refused for."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import CALL, collectives, copies_of_arrays
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam, sum_squares, zero1_shardings

TX = nadam(1e-2, eps=1e-3)
SHAPES = {"kernel": (16, 8), "bias": (8,), "scale": ()}
assert_close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)


def arrays(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in SHAPES.items()}


def apply(params: Any, state: Any, grads: Any) -> Any:
    return TX.apply(grads, state, params)


def expected() -> Any:
    params = arrays(0)
    return jax.jit(apply)(params, TX.init(params), arrays(1))


def assert_same(results: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, results, expected())


def mesh(kind: AxisType, axes: dict[str, int] | None = None) -> jax.sharding.Mesh:
    axes = axes or {"data": 8}
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes))


class TestExplicitAxes:
    """Where shardings are part of the types, those of the results are the operands'."""

    def test_types_and_values(self) -> None:
        layout = {"kernel": P("data"), "bias": P("data"), "scale": P()}
        with jax.set_mesh(mesh(AxisType.Explicit)):
            params, grads = (jax.device_put(arrays(i), layout) for i in range(2))
            step = jax.jit(apply, donate_argnums=(0, 1))
            state = jax.jit(TX.init)(params)
            compiled = step.lower(params, state, grads).compile()
            new, state = step(params, state, grads)
            assert_same((new, state))
            for tree in (new, state.mu, state.nu):
                assert {name: jax.typeof(x).sharding.spec for name, x in tree.items()} == {
                    "kernel": P("data", None),
                    "bias": P("data"),
                    "scale": P(),
                }
        text = compiled.as_text()
        assert text.count(CALL) == 1
        assert not collectives(text)
        assert not copies_of_arrays(text)

    def test_sums_of_squares(self) -> None:
        tree = arrays(0)
        with jax.set_mesh(mesh(AxisType.Explicit)):
            cut = {
                name: jax.device_put(x, P("data") if x.ndim else P()) for name, x in tree.items()
            }
            sums = jax.jit(sum_squares)(cut)
        for name, x in tree.items():
            assert_close(sums[name], np.sum(np.square(x)))


class TestShardMap:
    def test_replicated_leaves_stay_so_beside_those_that_are_cut(self) -> None:
        specs = {"kernel": P("data"), "bias": P(), "scale": P()}
        params = arrays(0)
        state = TX.init(params)
        state_specs = type(state)(P(), specs, specs, None)
        step = jax.jit(
            jax.shard_map(
                apply,
                mesh=mesh(AxisType.Auto),
                in_specs=(specs, state_specs, specs),
                out_specs=(specs, state_specs),
            )
        )
        text = step.lower(params, state, arrays(1)).compile().as_text()
        assert not collectives(text)
        assert text.count(CALL) == 1
        assert_same(step(params, state, arrays(1)))

    def test_a_rate_that_varies_makes_the_leaves_vary(self) -> None:
        def step(rate: jax.Array, params: Any, grads: Any) -> Any:
            tx = nadam(rate[0], eps=1e-3)
            new, _ = tx.apply(grads, tx.init(params), params)
            return jax.tree.map(lambda x: x[None], new)

        rates = jnp.linspace(1e-3, 1e-1, 8)
        population = jax.shard_map(
            step, mesh=mesh(AxisType.Auto), in_specs=(P("data"), P(), P()), out_specs=P("data")
        )
        for name, many in jax.jit(population)(rates, arrays(0), arrays(1)).items():
            for rate, one in zip(rates, many, strict=True):
                tx = nadam(rate, eps=1e-3)
                new, _ = tx.apply(arrays(1), tx.init(arrays(0)), arrays(0))
                assert_close(one, new[name])

    def test_sums_of_squares_are_those_of_the_shards(self) -> None:
        tree = {"kernel": arrays(0)["kernel"]}
        norm = jax.shard_map(
            lambda tree: jax.lax.psum(sum_squares(tree)["kernel"], "data"),
            mesh=mesh(AxisType.Auto),
            in_specs=P("data"),
            out_specs=P(),
        )
        assert_close(norm(tree), np.sum(np.square(tree["kernel"])), rtol=1e-6, atol=1e-7)


def test_pmap_steps_each_replica() -> None:
    repeated = partial(jax.tree.map, lambda x: jnp.stack([x] * 8))
    params = arrays(0)
    step = jax.pmap(apply)
    results = step(repeated(params), repeated(TX.init(params)), repeated(arrays(1)))
    for i in range(8):
        assert_same(jax.tree.map(lambda x: x[i], results))  # noqa: B023


def test_a_population_is_cut_along_its_batch_axis() -> None:
    layout = NamedSharding(mesh(AxisType.Auto), P("data"))
    rates = jax.device_put(jnp.linspace(1e-3, 1e-1, 8), layout)
    params, grads = (
        jax.device_put(jax.tree.map(lambda x: jnp.stack([x] * 8), arrays(i)), layout)
        for i in range(2)
    )

    def one(rate: jax.Array, params: Any, grads: Any) -> Any:
        tx = nadam(rate, eps=1e-3)
        return tx.apply(grads, tx.init(params), params)[0]

    population = jax.jit(jax.vmap(one), out_shardings=layout)
    text = population.lower(rates, params, grads).compile().as_text()
    assert text.count(CALL) == 1
    assert not collectives(text)
    for name, many in population(rates, params, grads).items():
        for rate, new in zip(np.asarray(rates), many, strict=True):
            assert_close(new, one(rate, arrays(0), arrays(1))[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("of", ["kernel", "scale"])
def test_sums_of_squares_of_cut_leaves(of: str) -> None:
    leaf = arrays(0)[of]
    cut = jax.device_put(leaf, NamedSharding(mesh(AxisType.Auto), P("data") if leaf.ndim else P()))
    assert_close(jax.jit(sum_squares)([cut])[0], np.sum(leaf**2), rtol=1e-6, atol=1e-7)


class TestZero1:
    def test_each_device_holds_an_eighth_of_what_can_be_cut(self) -> None:
        params = arrays(0)
        shardings = zero1_shardings(TX, params, mesh(AxisType.Auto), "data")
        state = jax.jit(TX.init, out_shardings=shardings)(params)
        for moments in (state.mu, state.nu):
            shards = {name: x.addressable_shards[0].data.size for name, x in moments.items()}
            assert shards == {"kernel": 16, "bias": 1, "scale": 1}

    def test_an_axis_that_the_mesh_has_not_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"axis is 'model'; it must name axes of the mesh"):
            zero1_shardings(TX, arrays(0), mesh(AxisType.Auto), "model")

    def test_parameters_on_another_mesh_are_refused_by_their_path(self) -> None:
        other = mesh(AxisType.Auto, {"data": 4, "model": 2})
        params = arrays(0) | {
            "kernel": jax.device_put(arrays(0)["kernel"], NamedSharding(other, P("model")))
        }
        with pytest.raises(ValueError, match=r"params\['kernel'\] is sharded over the mesh"):
            zero1_shardings(TX, params, mesh(AxisType.Auto), "data")
