"""The CUDA module as a machine without a GPU sees it: handlers, errors and machine code."""

import os
import re
import subprocess
from collections import defaultdict
from contextlib import nullcontext
from functools import cache
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from processes import output_of

from nadam_xla.native import MODULES, driver_can_run

if "cuda" not in MODULES:
    pytest.skip("nadam_xla was built without nvcc", allow_module_level=True)

from nadam_xla import _native_cuda, _native_cuda_testing

TARGETS = {
    "nadam_xla_update_v1",
    "nadam_xla_update_v2",
    "nadam_xla_update_entry_v1",
    "nadam_xla_sum_squares_v1",
}
ARCHITECTURES = {75, 80, 86, 89, 90, 100, 120}


def test_it_has_the_handlers_of_the_cpu() -> None:
    assert set(_native_cuda.registrations()) == set(MODULES["cpu"].registrations()) == TARGETS


def test_xla_may_record_the_calls_in_a_cuda_graph() -> None:
    version_of_ffi = (0, 1)
    for platform, traits in {
        "cuda": _native_cuda_testing.COMMAND_BUFFER_COMPATIBLE,
        "cpu": 0,
    }.items():
        for stages in MODULES[platform].registrations().values():
            assert _native_cuda_testing.metadata(stages["execute"]) == (*version_of_ffi, traits)


@pytest.mark.parametrize(
    ("driver", "toolkit", "runs"),
    [
        ((0, 0), (13, 0), True),
        ((13, 0), (13, 5), True),
        ((13, 1), (12, 9), True),
        ((12, 9), (13, 0), False),
        ((12, 0), (12, 0), True),
        ((12, 1), (12, 9), True),
        ((12, 0), (12, 1), False),
    ],
)
def test_a_driver_that_is_too_old_is_no_reason_to_fail(
    driver: tuple[int, int], toolkit: tuple[int, int], runs: bool
) -> None:
    module = SimpleNamespace(driver_version=lambda: driver, TOOLKIT_VERSION=toolkit)
    (built, too_old) = (re.escape(f"{major}.{minor}") for major, minor in (toolkit, driver))
    warns = pytest.warns(UserWarning, match=f"CUDA {built}.*{too_old} at")
    with nullcontext() if runs else warns:
        assert driver_can_run(module) == runs


def test_the_driver_is_asked() -> None:
    assert all(isinstance(number, int) for number in _native_cuda.driver_version())


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
    [("update", "the launch of the update"), ("sum_squares", "the launch of the sums of squares")],
)
def test_an_error_of_cudas_says_what_failed(launch: str, name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"^{name} failed with cudaError\w+: .+"):
        getattr(_native_cuda_testing, launch)()


def test_cpu_runtimes_get_an_error_from_a_cuda_handler() -> None:
    """It finds no stream there, and says so; it does not crash."""
    handler = _native_cuda.registrations()["nadam_xla_sum_squares_v1"]["execute"]
    jax.ffi.register_ffi_target("sum_squares_of_cuda", handler, platform="cpu")
    results = [jax.ShapeDtypeStruct((1,), "float32"), jax.ShapeDtypeStruct((800,), "uint8")]
    with pytest.raises(Exception, match=r"stream"):
        jax.block_until_ready(jax.ffi.ffi_call("sum_squares_of_cuda", results)(jax.numpy.ones(3)))


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU, so nothing fails")
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_kernels_are_loaded_before_a_program_runs_and_may_be_captured(target: str) -> None:
    handler = _native_cuda.registrations()[target]["initialize"]
    error = _native_cuda_testing.initialize(handler)
    assert re.match(r"nadam_xla: asking for the current device failed with cudaError\w+: .+", error)


def cuobjdump(*arguments: str) -> str:
    (program,) = (
        file.locate()
        for file in metadata.files("nvidia-cuda-cuobjdump") or ()
        if file.name == "cuobjdump"
    )
    library = str(Path(_native_cuda.__file__))
    command = [str(program), *arguments, library]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def instructions() -> dict[tuple[int, str], list[str]]:
    """The machine instructions of each kernel for each architecture: (90, name) -> [...]."""
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    architecture, kernel = 0, ""
    for line in cuobjdump("-sass").splitlines():
        if code := re.search(r"code for sm_(\d+)", line):
            architecture = int(code[1])
        elif function := re.search(r"Function : (\S+)", line):
            kernel = function[1]
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]+)", line):
            found[architecture, kernel].append(instruction[1])
    return found


def kernels(name: str) -> dict[tuple[int, str], list[str]]:
    return {key: code for key, code in instructions().items() if name in key[1]}


def test_every_architecture_has_its_machine_code_and_all_others_ptx() -> None:
    assert set(_native_cuda.ARCHITECTURES) <= ARCHITECTURES
    built = {architecture for architecture, _ in instructions()}
    assert built == set(_native_cuda.ARCHITECTURES)
    of_ptx = {int(found) for found in re.findall(r"\.sm_(\d+)\.ptx", cuobjdump("-lptx"))}
    assert of_ptx == {min(built)}, "what the oldest can run, every other can be compiled from"


def test_no_kernel_uses_local_memory() -> None:
    names = {name for _, name in instructions()}
    # Two element types, two sizes of the parameters; and two kinds of results, or two kernels.
    assert len(names) == 2 * 2 * 2 + 2 * 2 * 2
    for key, code in instructions().items():
        assert not any(opcode.startswith(("LDL", "STL")) for opcode in code), key


def test_the_inner_loop_of_the_update_moves_16_bytes_at_a_time() -> None:
    """Two packs of each of four streams are loaded before the first of six is stored."""
    for key, code in kernels("update_kernel").items():
        wide = [opcode for opcode in code if opcode.startswith(("LDG.E.128", "STG.E.128"))]
        assert [opcode[:3] for opcode in wide] == ["LDG"] * 8 + ["STG"] * 6, key


def test_the_sums_of_squares_load_16_bytes_at_a_time() -> None:
    for key, code in kernels("sum_parts_kernel").items():
        assert sum(opcode.startswith("LDG.E.128") for opcode in code) >= 4, key
        assert not any(opcode.startswith(("ATOM", "RED.")) for opcode in code), key
