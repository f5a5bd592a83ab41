"""Optimizers whose moments are in codes of eight bits, on a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import COLLECTIVES, aliased_results, collectives, copies_of_arrays, text_of
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import Blockwise, nadam, nadamw, zero1_shardings

TX = nadamw(1e-2, mu_dtype="blockwise8", nu_dtype="blockwise8")
SHAPES = {"rows": (16, 512), "columns": (3, 4096), "neither": (5, 1000), "bias": (64,)}


def mesh() -> Any:
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def arrays(seed: int, shapes: Any = SHAPES) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def step(params: Any, state: Any, grads: Any) -> Any:
    return TX.apply(grads, state, params)


class TestZero1:
    def test_blocks_stay_whole_and_scales_lie_with_their_codes(self) -> None:
        shardings = zero1_shardings(TX, arrays(0), mesh(), "data")
        specs = jax.tree.map(lambda x: x.spec, shardings)
        assert specs.mu == specs.nu
        assert specs.mu == {
            "rows": Blockwise(P("data", None), P("data", None)),
            "columns": Blockwise(P(None, "data"), P(None, "data")),
            "neither": Blockwise(P(None, None), P(None, None)),
            "bias": P("data"),
        }

    def test_a_step_gathers_parameters_alone(self) -> None:
        params, grads = arrays(0), arrays(1)
        del params["neither"], grads["neither"]
        shardings = zero1_shardings(TX, params, mesh(), "data")
        whole = jax.tree.map(lambda _: NamedSharding(mesh(), P()), params)
        params, grads = jax.device_put((params, grads), (whole, whole))
        state = jax.jit(TX.init, out_shardings=shardings)(params)
        compiled = jax.jit(step, donate_argnums=(0, 1), out_shardings=(whole, shardings))
        text = compiled.lower(params, state, grads).compile().as_text()
        assert set(collectives(text)) == {"all-gather"}
        gathers = [line for line in text.splitlines() if any(f" {c}(" in line for c in COLLECTIVES)]
        assert not any("s8[" in line or "u8[" in line for line in gathers)
        _, new = compiled(params, state, grads)
        for moment in (new.mu["rows"].codes, new.nu["columns"].codes):
            assert moment.addressable_shards[0].data.size == moment.size // 8


LAYOUTS = {
    "rows": P("data", None),
    "columns": P(None, "data"),
    "replicated": P(),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_state_is_made_and_updated_where_its_parameters_are(name: str) -> None:
    on = mesh()
    params = jax.device_put(arrays(0, {"a": (16, 4096)}), NamedSharding(on, LAYOUTS[name]))
    grads = jax.device_put(arrays(1, {"a": (16, 4096)}), NamedSharding(on, LAYOUTS[name]))
    with jax.set_mesh(on):
        state = TX.init(params)
        text = text_of(step, params, state, grads, donate=(0, 1))
        assert not collectives(text)
        assert copies_of_arrays(text) == 0
        assert aliased_results(text) == set(range(len(jax.tree.leaves((params, state)))))
        new, state = jax.jit(step)(params, state, grads)
    scales = state.nu["a"].scales
    assert scales.sharding.is_equivalent_to(NamedSharding(on, LAYOUTS[name]), 2)
    # The scales do not depend on chance in the first step, and so neither does what they say.
    alone, expected = jax.jit(step)(
        arrays(0, {"a": (16, 4096)}),
        TX.init(arrays(0, {"a": (16, 4096)})),
        arrays(1, {"a": (16, 4096)}),
    )
    np.testing.assert_allclose(scales, expected.nu["a"].scales, rtol=1e-6)
    np.testing.assert_allclose(new["a"], alone["a"], rtol=1e-6, atol=1e-7)


def test_a_last_axis_that_is_cut_inside_blocks_is_updated_right() -> None:
    on, tx = mesh(), nadam(1e-2, mu_dtype="blockwise8", nu_dtype="blockwise8")
    params = jax.device_put(arrays(0, {"a": (16, 512)}), NamedSharding(on, P(None, "data")))
    with jax.set_mesh(on):
        new, state = jax.jit(tx.apply)(params, tx.init(params), params)
    alone, expected = jax.jit(tx.apply)(
        arrays(0, {"a": (16, 512)}),
        tx.init(arrays(0, {"a": (16, 512)})),
        arrays(0, {"a": (16, 512)}),
    )
    np.testing.assert_allclose(state.mu["a"].scales, expected.mu["a"].scales, rtol=1e-6)
    np.testing.assert_allclose(new["a"], alone["a"], rtol=1e-6, atol=1e-7)
