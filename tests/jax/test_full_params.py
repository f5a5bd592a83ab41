"""Float32 weights as narrow parameters with masters, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nadam_xla.jax import full_params, nadam, narrow_params
from nadam_xla.storage import MASTERS, Master


def weights() -> dict[str, jax.Array]:
    values = np.random.default_rng(0).normal(size=(2, 300)).astype(np.float32)
    return {"kernel": jnp.asarray(values), "bias": jnp.asarray([0.0, -0.0, np.inf, 3.0e38])}


@pytest.mark.parametrize("master", ["float32", "remainder"])
def test_nothing_is_lost(master: Master) -> None:
    params, masters = narrow_params(weights(), master=master)
    assert {str(x.dtype) for x in jax.tree.leaves(params)} == {"bfloat16"}
    again = full_params(params, masters)
    for name, expected in weights().items():
        np.testing.assert_array_equal(again[name].view(jnp.uint32), expected.view(jnp.uint32))


def test_a_correction_keeps_24_bits() -> None:
    kernel = {"kernel": weights()["kernel"]}
    again = full_params(*narrow_params(kernel, master="correction"))
    error = np.abs(np.asarray(again["kernel"] / kernel["kernel"], np.float64) - 1)
    assert 2.0**-19 < error.max() <= 2.0**-16


@pytest.mark.parametrize("master", MASTERS)
def test_training_goes_on_from_the_float32_weights(master: Master) -> None:
    """Steps too small for bfloat16 add up in the masters as they do in float32."""
    start = {"kernel": weights()["kernel"]}
    grads = jax.tree.map(jnp.ones_like, start)
    params, masters = narrow_params(start, master=master)
    tx = nadam(1e-4, master=master)
    state = tx.init(params)._replace(master=masters)
    wide = nadam(1e-4)
    wide_params, wide_state = start, wide.init(start)
    for _ in range(30):
        params, state = tx.apply(grads, state, params)
        wide_params, wide_state = wide.apply(grads, wide_state, wide_params)
    found = full_params(params, state.master)["kernel"]
    # Each step rounds a correction by half its last place at most, here always the same way.
    largest = np.abs(np.asarray(start["kernel"])).max()
    tolerance = 30 * 2.0**-16 * largest if master == "correction" else 0
    np.testing.assert_allclose(found, wide_params["kernel"], rtol=0, atol=tolerance)


def test_leaves_that_are_not_narrow_are_as_they_are() -> None:
    params = {"scale": jnp.ones(3), "kernel": jnp.ones(3, jnp.bfloat16)}
    state = nadam(1e-3, master="remainder").init(params)
    full = full_params(params, state.master)
    assert full["scale"] is params["scale"]
    assert full["kernel"].dtype == jnp.float32


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"dtype is float16: a remainder completes a bfloat16"):
        narrow_params(weights(), jnp.float16, master="remainder")
    with pytest.raises(TypeError, match=r"params\['kernel'\] is float16\[3\]; it must be float32"):
        narrow_params({"kernel": jnp.ones(3, jnp.float16)}, master="float32")
    with pytest.raises(ValueError, match=r"master is 'float64'; it must be None or one of float32"):
        narrow_params(weights(), master="float64")  # type: ignore[arg-type]
    params, masters = narrow_params(weights(), master="remainder")
    with pytest.raises(ValueError, match=r"masters has no \['bias'\]"):
        full_params(params, {"kernel": masters["kernel"]})
