"""Averages on a mesh: sharded as the moments are, without a collective or a copy for them."""

from collections.abc import Callable
from typing import Any

import compiled as program
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam, nadamw, zero1_shardings

SHAPES = {"layer": (48, 64), "bias": (64,), "odd": (7, 5), "scale": ()}
SHARDED = {"layer": P("data"), "bias": P("data"), "odd": P(), "scale": P()}
WITH_AVERAGE, WITHOUT = nadamw(1e-2, average_decay=0.9), nadamw(1e-2)


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def shardings_of(tx: Any, layout: str) -> tuple[Any, Any]:
    """Those of the parameters and of the state."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = SHARDED if layout == "fsdp" else dict.fromkeys(SHAPES, P())
    params = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    structs = {
        name: jax.ShapeDtypeStruct(SHAPES[name], jnp.float32, sharding=sharding)
        for name, sharding in params.items()
    }
    if layout == "zero-1":
        return params, zero1_shardings(tx, structs, mesh, "data")
    state = jax.eval_shape(tx.init, structs)
    whole = NamedSharding(mesh, P())
    state = jax.tree.map(lambda _: whole, state)._replace(mu=params, nu=params)
    return params, state if state.average is None else state._replace(average=params)


def compiled_step(tx: Any, layout: str) -> tuple[Any, Callable[[], tuple[Any, Any, Any]]]:
    of_params, of_state = shardings_of(tx, layout)
    step = jax.jit(
        lambda params, state, grads: tx.apply(grads, state, params),
        donate_argnums=(0, 1),
        in_shardings=(of_params, of_state, of_params),
        out_shardings=(of_params, of_state),
    )

    def start() -> tuple[Any, Any, Any]:
        params = jax.device_put(arrays(0), of_params)
        state = jax.jit(tx.init, out_shardings=of_state)(params)
        return params, state, jax.device_put(arrays(1), of_params)

    return step, start


@pytest.mark.parametrize("layout", ["data-parallel", "fsdp", "zero-1"])
def test_each_device_updates_what_it_holds(layout: str) -> None:
    step, start = compiled_step(WITH_AVERAGE, layout)
    params, state, grads = start()
    for name, moments in state.mu.items():
        assert state.average[name].sharding == moments.sharding
    text = step.lower(params, state, grads).compile().as_text()
    plain, of_plain = compiled_step(WITHOUT, layout)
    without = plain.lower(*of_plain()).compile().as_text()
    assert program.CALL in text
    assert program.collectives(text) == program.collectives(without)
    assert program.copied_bytes(text) <= program.copied_bytes(without)
    expected, of_one = arrays(0), WITH_AVERAGE.init(arrays(0))
    for _ in range(3):
        params, state = step(params, state, grads)
        expected, of_one = jax.jit(WITH_AVERAGE.apply)(arrays(1), of_one, expected)
    for name in SHAPES:
        np.testing.assert_array_equal(params[name], expected[name])
        np.testing.assert_array_equal(state.average[name], of_one.average[name])


def test_over_explicit_axes_and_in_shard_map() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    tx = nadam(1e-2, average_decay=0.9)
    with jax.set_mesh(mesh):
        params, grads = (
            {name: jax.device_put(x, NamedSharding(mesh, SHARDED[name])) for name, x in of.items()}
            for of in (arrays(0), arrays(1))
        )
        state = tx.init(params)
        new, state = jax.jit(tx.apply)(grads, state, params)
        for name, average in state.average.items():
            assert jax.typeof(average).sharding.spec == jax.typeof(new[name]).sharding.spec
    _, of_one = jax.jit(tx.apply)(arrays(1), tx.init(arrays(0)), arrays(0))
    for name in SHAPES:
        np.testing.assert_array_equal(state.average[name], of_one.average[name])

    auto = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = tx.init({name: jnp.zeros(()) for name in SHAPES})
    of_state = jax.tree.map(lambda _: P(), specs)
    of_state = of_state._replace(mu=SHARDED, nu=SHARDED, average=SHARDED)
    mapped = jax.shard_map(
        tx.apply, mesh=auto, in_specs=(SHARDED, of_state, SHARDED), out_specs=(SHARDED, of_state)
    )
    _, found = jax.jit(mapped)(arrays(1), tx.init(arrays(0)), arrays(0))
    for name in SHAPES:
        np.testing.assert_array_equal(found.average[name], of_one.average[name])
