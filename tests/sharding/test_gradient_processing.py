"""Gradients limited and judged on a mesh: as a whole, wherever their shards lie."""

from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import CALL, collectives, copied_bytes, text_of
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam, nadamw, sum_squares, zero1_shardings

SHAPES = {"kernel": (64, 32), "bias": (32,), "odd": (5,), "scale": ()}
assert_close = partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-7)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "norm": {"max_norm": 0.7, "skip_nonfinite": True},
    "norm of leaves": {"max_leaf_norm": 0.7, "skip_nonfinite": True},
}


def arrays(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in SHAPES.items()}


def with_nan(grads: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """With a NaN that one device alone has."""
    return grads | {"kernel": grads["kernel"].at[63, 31].set(jnp.nan)}


def mesh_of(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)


LAYOUTS = {
    "whole": {name: P() for name in SHAPES},
    "fsdp": {"kernel": P("data"), "bias": P("data"), "odd": P(), "scale": P()},
    "both": {"kernel": P("data", "model"), "bias": P("model"), "odd": P(), "scale": P()},
}


def step_of(tx: Any) -> Any:
    def step(params: Any, state: Any, grads: Any, scale: Any) -> Any:
        return tx.apply(grads, state, params, grad_scale=scale)

    return step


def laid_out(mesh: jax.sharding.Mesh, layout: dict[str, P], tree: Any) -> Any:
    return {name: jax.device_put(x, NamedSharding(mesh, layout[name])) for name, x in tree.items()}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_mesh_changes_nothing(name: str, layout: str, kind: AxisType) -> None:
    tx = nadamw(1e-2, eps=1e-3, **ARGUMENTS[name])
    step = jax.jit(step_of(tx))
    params, state = arrays(0), tx.init(arrays(0))
    expected = step(params, state, arrays(1), 0.5)
    mesh = mesh_of(kind)
    put = partial(laid_out, mesh, LAYOUTS[layout])
    with jax.set_mesh(mesh):
        cut = put(params)
        its_state = tx.init(cut)
        found = step(cut, its_state, put(arrays(1)), jnp.float32(0.5))
        jax.tree.map(assert_close, found, expected)
        after = step(*found, put(with_nan(arrays(2))), jnp.float32(0.5))
        jax.tree.map(np.testing.assert_array_equal, after, found)


def test_a_mesh_gathers_nothing() -> None:
    """What travels are sums of squares, two of each leaf."""
    mesh = mesh_of(AxisType.Auto)
    put = partial(laid_out, mesh, LAYOUTS["both"])
    params, grads = put(arrays(0)), put(arrays(1))
    tx = nadamw(1e-2, **ARGUMENTS["norm"])
    text = text_of(step_of(tx), params, tx.init(params), grads, jnp.float32(1), donate=(0, 1))
    assert text.count(CALL) == 1
    assert copied_bytes(text) <= 64
    moved = collectives(text)
    assert set(moved) <= {"all-reduce"}
    assert moved["all-reduce"][1] <= 2 * 4 * len(SHAPES)


def test_zero1_has_the_norm_of_whole_leaves() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tx = nadam(1e-2, eps=1e-3, **ARGUMENTS["norm"])
    whole = NamedSharding(mesh, P())
    params = jax.device_put(arrays(0), whole)
    shardings = zero1_shardings(tx, params, mesh, "data")
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    step = jax.jit(step_of(tx), out_shardings=(whole, shardings))
    found = step(params, state, jax.device_put(arrays(1), whole), 0.5)
    expected = step_of(tx)(arrays(0), tx.init(arrays(0)), arrays(1), 0.5)
    jax.tree.map(assert_close, found, expected)
    after = step(*found, jax.device_put(with_nan(arrays(1)), whole), 0.5)
    jax.tree.map(np.testing.assert_array_equal, after, found)


class TestShardMap:
    """Each device has the norm of what it sees, as with optax's clipping inside of it."""

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params = MappingProxyType({"kernel": P("data"), "bias": P()})

    def mapped(self, step: Any) -> Any:
        return jax.jit(
            jax.shard_map(
                step, mesh=self.mesh, in_specs=(dict(self.params),) * 2, out_specs=P("data")
            )
        )

    def trees(self) -> Any:
        return ({name: arrays(i)[name] for name in self.params} for i in range(2))

    def test_replicated_leaves_have_their_own_norm_and_stay_replicated(self) -> None:
        tx = nadam(1e-2, eps=1e-3, **ARGUMENTS["norm"])

        def step(params: Any, grads: Any) -> Any:
            return tx.apply(jax.lax.pmean(grads, "data"), tx.init(params), params)

        specs = {name: P() for name in SHAPES}
        many = {name: jnp.stack([x] * 8) for name, x in arrays(1).items()}

        def local(params: Any, many: Any) -> Any:
            return step(params, {name: x[0] for name, x in many.items()})

        mapped = jax.shard_map(local, mesh=self.mesh, in_specs=(specs, P("data")), out_specs=P())
        expected = tx.apply(arrays(1), tx.init(arrays(0)), arrays(0))
        jax.tree.map(assert_close, jax.jit(mapped)(arrays(0), many), expected)

    def test_of_shards_it_is_that_of_the_shards(self) -> None:
        def taken(tx: Any) -> Any:
            def step(params: Any, grads: Any) -> Any:
                changes, _ = tx.update(grads, tx.init(params), params)
                return jax.tree.map(lambda x: x[None], changes)

            return self.mapped(step)(*self.trees())

        stock = optax.chain(optax.clip_by_global_norm(0.7), optax.nadam(1e-2, eps=1e-1))
        ours = nadam(1e-2, eps=1e-1, max_norm=0.7)
        jax.tree.map(assert_close, taken(ours), taken(stock))

    @pytest.mark.parametrize("bad", [None, jnp.nan])
    def test_a_scale_from_outside_limits_and_skips_them_together(self, bad: Any) -> None:
        """The recipe of docs/jax/clipping.md."""
        params, grads = self.trees()
        if bad is not None:
            grads["kernel"] = grads["kernel"].at[63, 3].set(bad)
        inside = nadam(1e-2, eps=1e-3, skip_nonfinite=True)

        def step(params: Any, grads: Any) -> Any:
            cut = jax.lax.psum(sum_squares({"kernel": grads["kernel"]})["kernel"], "data")
            norm = jnp.sqrt(cut + sum_squares({"bias": grads["bias"]})["bias"])
            scale = jnp.minimum(1.0, 0.7 / norm)
            return inside.apply(grads, inside.init(params), params, grad_scale=scale)

        state_specs = inside.init(params)._replace(
            count=P(), mu=dict(self.params), nu=dict(self.params)
        )
        mapped = jax.shard_map(
            step,
            mesh=self.mesh,
            in_specs=(dict(self.params),) * 2,
            out_specs=(dict(self.params), state_specs),
            check_vma=False,
        )
        new, state = jax.jit(mapped)(params, grads)
        whole = nadam(1e-2, eps=1e-3, max_norm=0.7, skip_nonfinite=True)
        expected = whole.apply(grads, whole.init(params), params)
        jax.tree.map(assert_close, (new, state), expected)
        assert state.count == int(bad is None)
