"""``nadam_xla.jax.update_path`` against the programs that JAX makes."""

import warnings
from types import SimpleNamespace

import jax
import jax.export
import jax.numpy as jnp
import pytest

from nadam_xla import UpdatePath, native
from nadam_xla.jax import nadam, update_path

KNOWN_CALL = jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")


def program_for(platform: str, *, exported: bool) -> str:
    tx, params = nadam(1e-3), jnp.ones(3)
    traced = jax.jit(tx.apply).trace(params, tx.init(params), params)
    if not exported:
        return traced.lower(lowering_platforms=(platform,)).as_text()
    export = jax.export.export(
        jax.jit(tx.apply), platforms=[platform], disabled_checks=[KNOWN_CALL]
    )
    return export(params, tx.init(params), params).mlir_module()


@pytest.mark.parametrize("modules", [("cpu",), ("cpu", "cuda"), ()], ids=str)
@pytest.mark.parametrize("exported", [False, True], ids=["runs here", "exported"])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_it_tells_what_the_program_holds(
    platform: str, exported: bool, modules: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    jax.clear_caches()  # which do not know which modules there are
    kernels = SimpleNamespace(architectures=(75,))
    monkeypatch.setattr(native, "MODULES", dict.fromkeys(modules, kernels))
    path = update_path(platform, exported=exported)
    assert path.update == (
        "kernel" if "custom_call" in program_for(platform, exported=exported) else "stablehlo"
    )
    assert (path.reason is None) == (path.update == "kernel")
    jax.clear_caches()


def test_by_default_it_is_of_the_device_on_which_jax_runs() -> None:
    (cpu, *_) = jax.devices("cpu")
    assert update_path() == update_path(cpu) == update_path("cpu") == UpdatePath("kernel")
    with jax.default_device(cpu):
        assert update_path() == UpdatePath("kernel")


def test_a_gpu_by_jaxs_name_is_nvidias_where_there_is_none() -> None:
    assert update_path("gpu", exported=True) == update_path("cuda", exported=True)
    assert update_path("gpu") == update_path("cuda")


def test_to_ask_for_gpus_that_are_too_old_warns_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = SimpleNamespace(compute_capability="7.0")
    monkeypatch.setattr(native, "MODULES", {"cuda": SimpleNamespace(architectures=(75, 80))})
    monkeypatch.setattr(jax, "local_devices", lambda backend: {"cuda": [gpu]}.get(backend, []))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = update_path("cuda")
    assert path.update == "stablehlo"
    assert "7.5 and later, and there is one of 7.0" in str(path)
