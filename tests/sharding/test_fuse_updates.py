"""`fuse_updates` on meshes: `apply`'s program, in every layout, and inside `shard_map`."""

from collections.abc import Callable
from typing import Any

import compiled as program
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import explain_updates, fuse_updates, nadam, nadamw, zero1_shardings

SPECS = {"in": P("x", "y"), "out": P("y"), "bias": P()}
OPTIMIZERS = {"nadam": nadam(1e-2), "nadamw": nadamw(1e-2, weight_decay=0.1)}


def arrays(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"in": (16, 32), "out": (32, 8), "bias": (8,)}
    return {k: jnp.asarray(rng.normal(size=shape), jnp.float32) for k, shape in shapes.items()}


def mesh_of(kind: AxisType) -> Any:
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)


def step_of(tx: Any) -> Callable[..., Any]:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def assert_fused(step: Any, *given: Any) -> None:
    (report,) = explain_updates(step)(*given)
    assert report.returns_params, str(report)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layout", ["replicated", "cut", "zero1"])
def test_meshes_whose_axes_are_auto(name: str, layout: str) -> None:
    mesh, tx = mesh_of(AxisType.Auto), OPTIMIZERS[name]
    whole = NamedSharding(mesh, P())
    params = arrays(0)
    state = tx.init(params)
    of_params = {
        k: NamedSharding(mesh, spec if layout == "cut" else P()) for k, spec in SPECS.items()
    }
    of_state = state._replace(count=whole, mu=of_params, nu=of_params)
    if layout == "zero1":
        of_state = zero1_shardings(tx, params, mesh, "x")
    given = jax.device_put((params, state, arrays(1)), (of_params, of_state, of_params))

    def applied(params: Any, state: Any, grads: Any) -> Any:
        return tx.apply(grads, state, params)

    step = step_of(tx)
    results, texts = [], []
    for function in (step, fuse_updates(step), applied):
        compiled = (
            jax.jit(function, donate_argnums=(0, 1), out_shardings=(of_params, of_state))
            .lower(*given)
            .compile()
        )
        texts.append(compiled.as_text())
        results.append(compiled(*jax.tree.map(jnp.copy, given)))
    jax.tree.map(np.testing.assert_array_equal, results[0], results[1])
    assert program.collectives(texts[1]) == program.collectives(texts[2])
    assert program.copied_bytes(texts[1]) == program.copied_bytes(texts[2])
    assert program.aliased_results(texts[1]) == program.aliased_results(texts[2])
    assert_fused(step, *given)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_meshes_whose_axes_are_explicit(name: str) -> None:
    mesh, tx = mesh_of(AxisType.Explicit), OPTIMIZERS[name]
    layout = {k: NamedSharding(mesh, spec) for k, spec in SPECS.items()}
    params, grads = jax.device_put((arrays(0), arrays(1)), (layout, layout))
    step = step_of(tx)
    with jax.set_mesh(mesh):
        given = params, tx.init(params), grads
        fused = jax.jit(fuse_updates(step))(*given)
        expected = jax.jit(step)(*given)
        assert_fused(step, *given)
    jax.tree.map(np.testing.assert_array_equal, fused, expected)
    assert all(
        jax.tree.leaves(jax.tree.map(lambda x, y: x.sharding == y.sharding, fused, expected))
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("checks", [False, True])
def test_shard_map(name: str, inside: bool, checks: bool) -> None:
    """Parameters are whole and gradients vary or do not: what the types say differs, not values."""
    mesh, tx = mesh_of(AxisType.Auto), OPTIMIZERS[name]
    params, rows = arrays(0), jnp.arange(8.0)

    def mapped(step: Any) -> Any:
        def local(params: Any, state: Any, rows: Any) -> Any:
            grads = jax.tree.map(lambda p: p * jnp.sum(rows), params)
            return step(params, state, jax.lax.pmean(grads, ("x", "y")))

        specs = P(), P(), P(("x", "y"))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=checks)

    plain = mapped(step_of(tx))
    fused = mapped(fuse_updates(step_of(tx))) if inside else fuse_updates(plain)
    given = params, tx.init(params), rows
    jax.tree.map(np.testing.assert_array_equal, jax.jit(fused)(*given), jax.jit(plain)(*given))
    assert_fused(fused, *given)


def test_shard_map_in_which_each_device_has_gradients_of_its_own() -> None:
    """The parameters' type then says that they vary, in the call and in the sum."""
    mesh, tx = mesh_of(AxisType.Auto), OPTIMIZERS["nadamw"]
    params = arrays(0)

    def local(params: Any, state: Any, row: Any) -> Any:
        grads = jax.tree.map(lambda p: p * row[0], params)
        new, _ = step_of(tx)(params, state, grads)
        return jax.tree.map(lambda x: x[None], new)

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P(), P(("x", "y"))), out_specs=P(("x", "y"))
    )
    given = params, tx.init(params), jnp.arange(8.0)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.jit(fuse_updates(mapped))(*given),
        jax.jit(mapped)(*given),
    )
    assert_fused(mapped, *given)
