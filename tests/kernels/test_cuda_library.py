"""The CUDA library as a machine without a GPU sees it: handlers, errors and machine code."""

import os
import re
import subprocess
from pathlib import Path

import jax
import pytest
from machine_code import MachineCode
from processes import output_of

from nadam_xla import _native
from nadam_xla.native import MODULES

if "cuda" not in MODULES:
    pytest.skip("nadam_xla was built without nvcc", allow_module_level=True)

from nadam_xla import _native_cuda_testing

TARGETS = {
    "nadam_xla_update_v1",
    "nadam_xla_update_v2",
    "nadam_xla_update_entry_v1",
    "nadam_xla_update_rows_v1",
    "nadam_xla_sum_squares_v1",
}
LIBRARY = MODULES["cuda"]


def test_it_has_the_handlers_of_the_cpu() -> None:
    assert set(LIBRARY.registrations()) == set(MODULES["cpu"].registrations()) == TARGETS


def test_xla_may_record_the_calls_in_a_cuda_graph() -> None:
    version_of_ffi = (0, 1)
    for platform, traits in {
        "cuda": _native_cuda_testing.COMMAND_BUFFER_COMPATIBLE,
        "cpu": 0,
    }.items():
        for stages in MODULES[platform].registrations().values():
            assert _native_cuda_testing.metadata(stages["execute"]) == (*version_of_ffi, traits)


# As much of a driver as CUDA's runtime needs to start it.
DRIVER_THAT_LOGS = """
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>

namespace {
int log(const char* name) {
  if (std::FILE* const file = std::fopen(std::getenv("CALLS"), "a")) {
    std::fprintf(file, "%s\\n", name);
    std::fclose(file);
  }
  return 0;
}
}  // namespace

extern "C" int cuInit(unsigned) { return log("cuInit"); }
extern "C" int cuDriverGetVersion(int* version) {
  *version = 99000;
  return log("cuDriverGetVersion");
}
extern "C" int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long, int*) {
  *function = dlsym(dlopen("libcuda.so.1", RTLD_LAZY), name);
  return log("cuGetProcAddress");
}
"""


def test_an_import_asks_the_driver_for_its_version_and_does_not_start_it(tmp_path: Path) -> None:
    """Once it is started, CUDA_VISIBLE_DEVICES has no effect, and no fork can use the GPU."""
    source, calls = tmp_path / "driver.cpp", tmp_path / "calls"
    source.write_text(DRIVER_THAT_LOGS)
    compiler = os.environ.get("CXX", "c++")
    library = str(tmp_path / "libcuda.so.1")
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", library], check=True)
    environment = {
        "CALLS": str(calls),
        "LD_LIBRARY_PATH": f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }
    printed = output_of(
        "from nadam_xla.native import MODULES; print(*MODULES)", environment=environment
    )
    assert printed.split() == ["cpu", "cuda"]
    assert calls.read_text().split() == ["cuDriverGetVersion"]


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU, so nothing fails")
@pytest.mark.parametrize(
    ("launch", "name"),
    [
        ("update", "the launch of the update"),
        ("update_rows", "the launch of the update of rows"),
        ("sum_squares", "the launch of the sums of squares"),
    ],
)
def test_an_error_of_cudas_says_what_failed(launch: str, name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"^{name} failed with cudaError\w+: .+"):
        getattr(_native_cuda_testing, launch)()


def test_cpu_runtimes_get_an_error_from_a_cuda_handler() -> None:
    """It finds no stream there, and says so; it does not crash."""
    handler = LIBRARY.registrations()["nadam_xla_sum_squares_v1"]["execute"]
    jax.ffi.register_ffi_target("sum_squares_of_cuda", handler, platform="cpu")
    results = [jax.ShapeDtypeStruct((1,), "float32"), jax.ShapeDtypeStruct((800,), "uint8")]
    with pytest.raises(Exception, match=r"stream"):
        jax.block_until_ready(jax.ffi.ffi_call("sum_squares_of_cuda", results)(jax.numpy.ones(3)))


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU, so nothing fails")
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_kernels_are_loaded_before_a_program_runs_and_may_be_captured(target: str) -> None:
    handler = LIBRARY.registrations()[target]["initialize"]
    error = _native_cuda_testing.initialize(handler)
    assert re.match(r"nadam_xla: asking for the current device failed with cudaError\w+: .+", error)


def test_it_knows_what_it_was_built_from() -> None:
    assert LIBRARY.version == _native.VERSION
    assert LIBRARY.toolkit_version >= (12, 1)


@pytest.mark.slow
class TestMachineCode(MachineCode):
    @pytest.fixture
    def library(self) -> Path:
        return Path(LIBRARY.path)
