"""Programs for CUDA, compiled as far as a machine without a GPU can: to StableHLO."""

import re
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from nadam_xla import native
from nadam_xla.calls import full_calls
from nadam_xla.jax import nadam, sum_squares

UPDATE, SUM_SQUARES = "nadam_xla_update_v2", "nadam_xla_sum_squares_v1"
KNOWN = [jax.export.DisabledSafetyCheck.custom_call(name) for name in (UPDATE, SUM_SQUARES)]
LEAVES = {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(4)}


def step(params: Any, state: Any, grads: Any) -> Any:
    return nadam(1e-3).apply(grads, state, params)


def exported(function: Any, *arguments: Any, platforms: tuple[str, ...] = ("cuda",)) -> Any:
    return jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=KNOWN)(
        *arguments
    )


def module_for(platform: str, function: Any, *arguments: Any) -> str:
    """What this process would give to XLA for such a device of its own."""
    jax.clear_caches()  # which do not know whether there was a module
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("has_module", [True, False])
def test_without_the_cuda_module_a_gpu_runs_plain_stablehlo(
    has_module: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {"cpu": native.MODULES["cpu"], **({"cuda": None} if has_module else {})}
    monkeypatch.setattr(native, "MODULES", modules)
    state = nadam(1e-3).init(LEAVES)
    for name, function, arguments in (
        (UPDATE, step, (LEAVES, state, LEAVES)),
        (SUM_SQUARES, sum_squares, (LEAVES,)),
    ):
        module = module_for("cuda", function, *arguments)
        assert module.count(f"custom_call @{name}") == has_module
        assert ("custom_call" in module) == has_module


@pytest.mark.parametrize(
    ("capabilities", "runs"), [(["7.5"], True), (["9.0", "13.1"], True), (["9.0", "7.0"], False)]
)
def test_gpus_that_are_too_old_run_plain_stablehlo_and_a_warning_says_so(
    capabilities: list[str], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [SimpleNamespace(compute_capability=capability) for capability in capabilities]
    modules = {**native.MODULES, "cuda": SimpleNamespace(architectures=(75, 80, 90))}
    monkeypatch.setattr(native, "MODULES", modules)
    monkeypatch.setattr(jax, "local_devices", lambda backend: gpus)
    says_so = pytest.warns(
        UserWarning, match=r"capability 7\.5 and later, and there is one of 7\.0"
    )
    with nullcontext() if runs else says_so:
        module = module_for("cuda", step, LEAVES, nadam(1e-3).init(LEAVES), LEAVES)
    assert ("custom_call" in module) == runs


def test_an_exported_program_finds_the_kernels_where_it_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "MODULES", {"cpu": native.MODULES["cpu"]})
    assert f"custom_call @{SUM_SQUARES}" in exported(sum_squares, LEAVES).mlir_module()


def results_of_call(module: str) -> list[str]:
    (types,) = re.findall(rf"custom_call @{SUM_SQUARES}.* -> \((.*?)\) loc", module)
    return types.split(", ")


def test_the_sums_of_squares_get_a_workspace() -> None:
    module = exported(sum_squares, LEAVES).mlir_module()
    assert results_of_call(module) == ["tensor<2xf32>", f"tensor<{8 * (2 + 4096)}xui8>"]


def test_the_sums_of_squares_of_a_batch_get_a_workspace_for_all_of_them() -> None:
    batch = jax.tree.map(lambda x: jnp.stack([x] * 7), LEAVES)
    module = exported(jax.vmap(sum_squares), batch).mlir_module()
    assert results_of_call(module) == ["tensor<7x2xf32>", f"tensor<{8 * (14 + 4096)}xui8>"]


def test_a_program_for_both_platforms_runs_here() -> None:
    program = exported(sum_squares, LEAVES, platforms=("cuda", "cpu"))
    assert jax.tree.map(float, program.call(LEAVES)) == {"kernel": 15.0, "bias": 4.0}


@pytest.mark.parametrize(("platform", "calls_of_300"), [("cuda", 2), ("cpu", 10)])
def test_calls_are_sized_for_the_platform_that_is_compiled_for(
    platform: str, calls_of_300: int
) -> None:
    leaves = [jnp.ones(4)] * 300
    for name, function, arguments in (
        (UPDATE, step, (leaves, nadam(1e-3).init(leaves), leaves)),
        (SUM_SQUARES, sum_squares, (leaves,)),
    ):
        module = exported(function, *arguments, platforms=(platform,)).mlir_module()
        assert module.count(f"custom_call @{name}") == calls_of_300


def test_a_gpu_gets_some_hundreds_of_leaves_a_call() -> None:
    dtypes = ["float32", "bfloat16", "float64"] * 300
    for platform, sizes in {
        "cuda": [256, 256, 88, 256, 44],
        "cpu": [32] * 18 + [24] + [32] * 9 + [12],
    }.items():
        found = list(full_calls(dtypes, platform))
        assert [len(indices) for _, indices in found] == sizes
        for dtype, indices in found:
            assert {dtypes[i] == "float64" for i in indices} == {dtype == "float64"}
        np.testing.assert_array_equal(
            np.sort(np.concatenate([indices for _, indices in found])), np.arange(len(dtypes))
        )
