"""Several devices of one process, and what a call that cannot run says."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from nadam_xla.jax import nadam_update

SUM_SQUARES = "nadam_xla_sum_squares_v1"
UPDATE = "nadam_xla_update_v2"


def test_each_device_of_a_process_updates_its_own() -> None:
    devices = jax.local_devices()
    if len(devices) < 2:
        pytest.skip("this process has one device")
    rng = np.random.default_rng(0)
    row = oracle.rows(rng, (), "float32")
    leaves = [[rng.uniform(size=10_001).astype(np.float32) for _ in range(4)] for _ in devices]
    results = [
        jax.jit(nadam_update)(*jax.device_put((row, *leaf), device))
        for leaf, device in zip(leaves, devices, strict=True)
    ]
    for leaf, result, device in zip(leaves, results, devices, strict=True):
        assert all(x.devices() == {device} for x in result)
        params, _, mu, nu = oracle.rule(row, *leaf)
        for x, value in zip(result, (params, mu, nu), strict=True):
            np.testing.assert_array_equal(x, value)


def call(target: str, results: list[Any], *operands: Any, **attributes: Any) -> Any:
    return jax.block_until_ready(jax.ffi.ffi_call(target, results)(*operands, **attributes))


def test_a_call_with_wrong_operands_is_an_exception_that_names_it() -> None:
    leaf = jnp.ones(3)
    with pytest.raises(Exception, match=f"{UPDATE}: "):
        call(
            UPDATE,
            [jax.ShapeDtypeStruct((3,), "float32")] * 3,
            jnp.ones((1, 1, 12)),  # the row of version 1
            *[leaf] * 4,
            returns_change=np.bool_(False),
            first_row=np.int64(0),
            streams=np.int64(15),
        )


def test_a_workspace_without_room_is_an_exception_that_names_the_call(on_gpu: bool) -> None:
    if not on_gpu:
        pytest.skip("there is no GPU: the CPU's sums of squares need no workspace")
    results = [jax.ShapeDtypeStruct((2,), "float32"), jax.ShapeDtypeStruct((8,), "uint8")]
    with pytest.raises(Exception, match=f"{SUM_SQUARES}: the workspace has 8 bytes; it must have"):
        call(SUM_SQUARES, results, jnp.ones(10), jnp.ones(10))


def test_an_error_of_cudas_is_an_exception_that_names_the_call(
    on_gpu: bool, free_memory: int
) -> None:
    """2**31 sums are one more than a launch can have blocks."""
    if not on_gpu:
        pytest.skip("there is no GPU: no launch can fail")
    entries, leaves = 2**30, 2
    needed = (4 + 8) * entries * leaves + 2**30
    if free_memory < needed:
        pytest.skip(f"it needs {needed / 1e9:.0f} GB of memory; {free_memory / 1e9:.0f} are free")
    results = [
        jax.ShapeDtypeStruct((entries, leaves), "float32"),
        jax.ShapeDtypeStruct((8 * (entries * leaves + 1),), "uint8"),
    ]
    with pytest.raises(
        Exception, match=rf"{SUM_SQUARES}: the launch that adds up .* failed with cudaError\w+"
    ):
        call(SUM_SQUARES, results, *[jnp.ones((entries, 0))] * leaves)
    assert jnp.sum(jnp.ones(3)) == 3, "the device goes on"
