"""What can be read without an import: the machine, installed versions, the environment."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nadam_xla.diagnosis.facts import Cores, System

PACKAGES = (
    "numpy",
    "jax",
    "jaxlib",
    "optax",
    "flax",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "torch",
)

VARIABLES = (
    "NADAM_XLA_DISABLE",
    "NADAM_XLA_MAX_ISA",
    "KERAS_BACKEND",
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "TF_XLA_FLAGS",
    "CUDA_VISIBLE_DEVICES",
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_CONF",
)


def system() -> System:
    """The machine and its software."""
    return {
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "libc": libc(),
        "cpu": _cpu(),
        "cores": cores(),
        "transparent_huge_pages": transparent_huge_pages(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def libc() -> str | None:
    """The C library and its version, where it is glibc."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None


def cores() -> Cores:
    """Those of the machine, and how many this process may use."""
    present = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    return {"usable": usable, "present": present, "quota": _quota()}


def installed() -> dict[str, str | None]:
    """The version of each package; None where it is not installed."""
    return {package: _version(package) for package in PACKAGES}


def environment() -> dict[str, str]:
    """The variables that are set, of those that bear on what runs."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str | None:
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return _text("/proc/device-tree/model").rstrip("\0\n") or None


def _quota() -> float | None:
    """By version 2 of control groups: ``max 100000``, or the microseconds of each period."""
    limit, _, period = _text("/sys/fs/cgroup/cpu.max").partition(" ")
    return int(limit) / int(period) if limit.isdecimal() else None


def transparent_huge_pages() -> str | None:
    """The word in brackets, of ``always [madvise] never``."""
    _, _, rest = _text("/sys/kernel/mm/transparent_hugepage/enabled").partition("[")
    return rest.partition("]")[0] or None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
