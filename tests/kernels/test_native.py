"""Facts of the build, and the promise that every instruction set gives the same bits."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from imports import newly_imported
from processes import output_of

from nadam_xla import _native
from nadam_xla.coefficients import Coefficients
from nadam_xla.streams import STREAMS, bit_of


def test_both_languages_lay_out_the_row_alike() -> None:
    assert _native.row_fields() == list(Coefficients._fields)


def test_both_languages_name_the_streams_alike() -> None:
    assert _native.stream_bits() == [(name, bit_of(name)) for name in STREAMS]


def test_the_ffi_is_the_oldest_that_any_supported_runtime_has() -> None:
    assert _native.FFI_API_VERSION == (0, 1)


UPDATE = """
import hashlib
import jax, numpy as np, oracle
from nadam_xla import _native
from nadam_xla.jax import nadam_update
rng = np.random.default_rng(0)
digest = hashlib.sha256()
jax.config.update("jax_enable_x64", True)
for dtype in ("float32", "float64"):
    for size in (1, 15, 16, 17, 1000, 40_001):
        leaves = rng.normal(size=(4, size)).astype(dtype)
        leaves[3] = leaves[3] ** 2
        leaves[:, ::5] = rng.choice([0, np.inf, -np.inf, 1e-45, 2e19, -3e38], leaves[:, ::5].shape)
        for returns in ("params", "change"):
            row = oracle.rows(rng, (), dtype)
            off = row.copy()
            off[[10, 11]] = 0  # decay and l2
            for table in (row, off):
                average = rng.permutation(leaves[0])
                for result in nadam_update(table, *leaves, average=average, returns=returns):
                    digest.update(np.nan_to_num(result, nan=-1, posinf=7, neginf=-7).tobytes())
                for result in nadam_update(table, *leaves, returns=returns):
                    # Which NaN an invalid operation gives is no promise.
                    digest.update(np.nan_to_num(result, nan=-1, posinf=7, neginf=-7).tobytes())

def any_bits(size, dtype):
    return jax.lax.bitcast_convert_type(rng.integers(0, 2**16, size, np.uint16), dtype)

def masters(size):
    yield None
    yield rng.integers(0, 2**32, size, np.uint32).view(np.float32)
    yield rng.integers(0, 2**16, size, np.uint16)
    yield rng.integers(0, 2**8, size, np.uint8)

for size in (1, 63, 64, 65, 1000, 40_001):
    bf16, f16 = any_bits(size, "bfloat16"), any_bits(size, "float16")
    for rounding in ("nearest", "stochastic"):
        row = oracle.rows(rng, (1,), "float32")
        row[:, oracle.KEY] = rng.integers(0, 2**16, 6)
        for master in masters(size):
            for returns in ("params", "change"):
                results = nadam_update(
                    row, [bf16], [f16], [f16], [abs(bf16)], rounding=rounding, returns=returns,
                    master=None if master is None else [master], average=[abs(f16)],
                )
                for result in jax.tree.leaves(results):
                    if result.dtype == "bfloat16":
                        result = result.astype("float32")
                    digest.update(np.nan_to_num(result, nan=-1, posinf=7, neginf=-7).tobytes())
print(_native.instruction_set(), digest.hexdigest())
"""


def run_update(max_isa: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "NADAM_XLA_MAX_ISA": max_isa,
        "PYTHONPATH": os.path.dirname(os.path.dirname(__file__)),
    }
    return subprocess.run(
        [sys.executable, "-c", UPDATE], env=environment, capture_output=True, text=True, check=False
    )


INSTRUCTION_SETS = {
    "baseline": set(),
    "avx2": {"avx2", "fma"},
    "avx512": {"avx2", "fma", "avx512f", "avx512vl", "avx512bw", "avx512dq"},
}


def test_the_instruction_sets_are_those_that_the_system_tells_of() -> None:
    told = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    # Under an emulator the system tells of the machine around it.
    flags = set(told[1].split()) if told and platform.machine() == "x86_64" else set()
    expected = [name for name, needed in INSTRUCTION_SETS.items() if needed <= flags]
    assert _native.available_instruction_sets() == expected


def test_every_instruction_set_gives_the_same_bits() -> None:
    outputs = {}
    for name in _native.available_instruction_sets():
        result = run_update(name)
        assert result.returncode == 0, result.stderr
        used, outputs[name] = result.stdout.split()
        assert used == name
    assert len(set(outputs.values())) == 1, outputs
    assert outputs["baseline"] != hashlib.sha256().hexdigest()


def test_an_unknown_instruction_set_is_an_error_that_names_the_known() -> None:
    result = run_update("mmx")
    assert result.returncode != 0
    assert re.search(r"NADAM_XLA_MAX_ISA is 'mmx'; this machine can run: baseline", result.stderr)


def test_importing_the_package_imports_no_framework() -> None:
    frameworks = ("jax", "tensorflow", "keras", "optax", "torch")
    assert newly_imported("import nadam_xla, nadam_xla.coefficients", frameworks) == []


def test_the_jax_package_needs_only_jax() -> None:
    assert newly_imported("import nadam_xla.jax", ("tensorflow", "keras", "torch")) == []


def test_what_a_statement_imports_is_seen() -> None:
    assert newly_imported("import nadam_xla.jax", ("jax", "optax", "torch")) != []


STEP = """
import jax, jax.export, jax.numpy as jnp
from nadam_xla.jax import nadam, sum_squares, update_path

def report(program, path):
    print("custom_call @nadam" in program, path)

tx, p = nadam(1e-3), jnp.ones(3)
step = jax.jit(lambda p, s, g: (*tx.apply(g, s, p), sum_squares(g)))
report(step.lower(p, tx.init(p), p).as_text(), update_path())
names = ("nadam_xla_update_v2", "nadam_xla_sum_squares_v1")
known = [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]
for platform in ("cpu", "cuda"):
    program = jax.export.export(step, platforms=[platform], disabled_checks=known)(p, tx.init(p), p)
    report(program.mlir_module(), update_path(platform, exported=True))
"""


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_the_environment_turns_kernels_off_by_platform(platform: str) -> None:
    off = "False stablehlo: NADAM_XLA_DISABLE turns nadam_xla's kernels off for it"
    on = "True kernel"
    here, for_cpu, for_cuda = output_of(
        STEP, environment={"NADAM_XLA_DISABLE": platform}
    ).splitlines()
    assert here == for_cpu == (off if platform == "cpu" else on)
    assert for_cuda == (off if platform == "cuda" else on)


def test_an_unknown_platform_to_turn_off_is_an_error_that_names_the_known() -> None:
    expected = "NADAM_XLA_DISABLE is 'cpu,gpu'; .* may name cpu and cuda"
    with pytest.raises(AssertionError, match=expected):
        output_of("import nadam_xla.jax", environment={"NADAM_XLA_DISABLE": "cpu,gpu"})
