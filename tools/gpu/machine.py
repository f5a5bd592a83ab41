"""What this machine has: a GPU, a compiler, packages, and their versions."""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

MODULES = ("jax", "optax", "nanobind", "scikit_build_core", "pytest", "numpy", "pip")
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "optax", "torch", "numpy")


def obstacles() -> Iterator[str]:
    """Why nothing can be checked here; nothing where all that is needed is there."""
    if not gpus():
        yield "this machine has no GPU that CUDA's driver shows (libcuda.so.1 finds none)"
    if nvcc() is None:
        yield "nvcc is neither on the PATH nor in $CUDA_HOME/bin nor in /usr/local/cuda/bin"
    absent = [name for name in MODULES if find_spec(name) is None]
    if absent:
        yield f"Python has no {', '.join(absent)}"


def gpus() -> int:
    """How many GPUs the driver shows to this process."""
    count = ctypes.c_int(0)
    with suppress(OSError):
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) == 0:
            driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value


def nvcc() -> Path | None:
    """CUDA's compiler."""
    return cuda_program("nvcc")


def cuda_program(name: str) -> Path | None:
    """A program of the CUDA toolkit."""
    homes = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), Path("/usr/local/cuda")]
    found = shutil.which(name) or shutil.which(name, path=":".join(f"{h}/bin" for h in homes))
    return Path(found) if found else None


def description() -> dict[str, str]:
    """Device, driver and the versions of everything, as far as they can be had."""
    query = "name,driver_version,memory.total,compute_cap"
    device = _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    release = [line for line in _output(nvcc(), "--version").splitlines() if "release" in line]
    return {
        "device (name, driver, memory, compute capability)": device or "nvidia-smi does not say",
        "nvcc": release[0].rsplit(",", 1)[-1].strip() if release else "?",
        "python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := _version(package))},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _output(program: str | Path | None, *arguments: str) -> str:
    if program is None or shutil.which(program) is None:
        return ""
    result = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return result.stdout.strip() if result.returncode == 0 else ""
