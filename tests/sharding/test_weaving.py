"""Scanned layers on meshes: updated in the loop, with stock's collectives and less memory."""

import re
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

from nadam_xla.jax import explain_updates, fuse_updates, nadam, zero1_shardings

DEPTH, WIDTH, BATCH = 24, 64, 16
LEAVES = {"w": (DEPTH, WIDTH, WIDTH), "b": (DEPTH, WIDTH)}


def loss_of(params: Any, x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, p: Any) -> Any:
        return jnp.tanh(x @ p["w"] + p["b"]), None

    return jnp.mean(jax.lax.scan(layer, x, params)[0] ** 2)


def arrays() -> Any:
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=s) / 8, jnp.float32) for k, s in LEAVES.items()}


def step_of(tx: Any) -> Callable[..., Any]:
    def step(params: Any, state: Any, x: jax.Array) -> Any:
        updates, state = tx.update(jax.grad(loss_of)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    return step


def compiled(step: Any, tx: Any, layout: str) -> tuple[Any, Any]:
    """The step, and its arguments, for a layout of parameters and moments."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, P())
    cut = {"w": NamedSharding(mesh, P(None, "d")), "b": whole}
    params = arrays()
    state = tx.init(params)
    of_params = cut if layout == "FSDP" else {"w": whole, "b": whole}
    of_state = jax.tree.map(lambda _: whole, state)
    if layout != "replicated":
        of_state = optax.tree_utils.tree_set(of_state, mu=cut, nu=cut)
    placed = jax.device_put((params, state), (of_params, of_state))
    x = jax.device_put(jnp.ones((BATCH, WIDTH)), NamedSharding(mesh, P("d")))
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=(of_params, of_state))
    return jitted.lower(*placed, x).compile(), (*placed, x)


@pytest.mark.parametrize("layout", ["replicated", "FSDP", "ZeRO-1"])
def test_no_collective_more_and_no_stack_of_gradients(layout: str) -> None:
    ours, stock = nadam(1e-2), optax.nadam(1e-2)
    of_stock, _ = compiled(step_of(stock), stock, layout)
    plain, given = compiled(step_of(ours), ours, layout)
    woven, _ = compiled(fuse_updates(step_of(ours)), ours, layout)
    assert any(report.woven for report in explain_updates(step_of(ours))(*given))

    def number(of: Any) -> dict[str, int]:
        return {kind: n for kind, (n, _) in program.collectives(of.as_text()).items()}

    for kind, n in number(woven).items():
        assert n <= number(of_stock).get(kind, 0), (number(woven), number(of_stock))
    assert not re.findall(rf"f32\[{DEPTH},(?:8|64),{WIDTH}\]\S* copy\(", woven.as_text())
    parts = 1 if layout == "replicated" else 8
    entry = 4 * WIDTH * WIDTH
    for each in (of_stock, plain):
        saved = each.memory_analysis().temp_size_in_bytes
        saved -= woven.memory_analysis().temp_size_in_bytes
        assert saved > DEPTH * entry // parts - (4 if parts == 1 else 2) * entry
    copy = jax.tree.map(jnp.copy, given)
    jax.tree.map(np.testing.assert_array_equal, woven(*given), plain(*copy))


def test_zero1_by_our_own_shardings() -> None:
    tx = nadam(1e-2)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    params = arrays()
    shardings = zero1_shardings(tx, params, mesh, "d")
    state = jax.device_put(tx.init(params), shardings)
    whole = NamedSharding(mesh, P())
    placed = jax.device_put(params, whole)
    step = jax.jit(fuse_updates(step_of(tx)), out_shardings=(whole, shardings))
    found = step(placed, state, jnp.ones((BATCH, WIDTH)))
    expected = jax.jit(step_of(tx))(params, tx.init(params), jnp.ones((BATCH, WIDTH)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected
    )


@pytest.mark.parametrize("checks", [False, True])
def test_shard_map(checks: bool) -> None:
    """Where types say how values vary the update stays behind the scan, with the same numbers."""
    tx = nadam(1e-2)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))

    def local(params: Any, state: Any, x: jax.Array) -> Any:
        grads = jax.lax.pmean(jax.grad(loss_of)(params, x), "d")
        return tx.apply(grads, state, params)

    specs = P(), P(), P("d")
    given = arrays(), tx.init(arrays()), jnp.ones((BATCH, WIDTH))
    results = [
        jax.jit(f)(*given)
        for f in (
            jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=checks),
            fuse_updates(
                jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=checks)
            ),
            jax.shard_map(
                fuse_updates(local), mesh=mesh, in_specs=specs, out_specs=P(), check_vma=checks
            ),
        )
    ]
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, result, results[0])


def test_explicit_axes_stay_behind_the_scan() -> None:
    tx = nadam(1e-2)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    cut = {"w": NamedSharding(mesh, P(None, "d", None)), "b": NamedSharding(mesh, P())}
    with jax.set_mesh(mesh):
        params = jax.device_put(arrays(), cut)
        x = jax.device_put(jnp.ones((BATCH, WIDTH)), NamedSharding(mesh, P()))

        def loss(params: Any, x: jax.Array) -> jax.Array:
            whole = {k: jax.sharding.reshard(p, P()) for k, p in params.items()}
            return loss_of(whole, x)

        def step(params: Any, state: Any, x: jax.Array) -> Any:
            return tx.apply(jax.grad(loss)(params, x), state, params)

        given = params, tx.init(params), x
        fused, plain = jax.jit(fuse_updates(step))(*given), jax.jit(step)(*given)
    jax.tree.map(np.testing.assert_array_equal, fused, plain)


def test_weaving_can_be_left_out() -> None:
    """As it must be where the axis of the layers is cut: the loop would gather it."""
    tx = nadam(1e-2)
    params = arrays()
    given = params, tx.init(params), jnp.ones((BATCH, WIDTH))
    (report,) = explain_updates(step_of(tx), weave=False)(*given)
    assert report.returns_params
    assert not report.woven
    fused = jax.jit(fuse_updates(step_of(tx), weave=False))(*given)
    jax.tree.map(np.testing.assert_array_equal, fused, jax.jit(step_of(tx))(*given))
