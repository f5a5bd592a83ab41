"""The native modules of this installation, and which platforms have no kernel here, and why."""

import os
import warnings
from collections.abc import Collection, Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

from nadam_xla import _native
from nadam_xla.platforms import CPU, CUDA, NAMES

DISABLE = "NADAM_XLA_DISABLE"
"""The environment variable that turns kernels off: platforms, with commas between them."""


def _disabled(given: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in given.split(",")) - {""}
    if not names <= set(NAMES):
        raise ImportError(
            f"{DISABLE} is {given!r}; it turns kernels off by platform, and may name"
            f" {' and '.join(NAMES)}, with a comma between them"
        )
    return names


def _modules() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The modules by platform, and for the others the reason."""
    modules: dict[str, ModuleType] = {}
    reasons = dict.fromkeys(DISABLED, f"{DISABLE} turns nadam_xla's kernels off for it")
    if CPU not in reasons:
        modules[CPU] = _native
    if CUDA not in reasons:
        try:
            cuda = import_module("nadam_xla._native_cuda")
        except ModuleNotFoundError:
            reasons[CUDA] = "nadam_xla was built without nvcc, and so without kernels for it"
        else:
            if driver_can_run(cuda):
                modules[CUDA] = cuda
            else:
                reasons[CUDA] = "the driver is older than nadam_xla's CUDA module"
    return modules, reasons


def why_no_kernel(platform: str) -> str | None:
    """Why programs that this process runs on a platform do not call the kernels; None if they do.

    JAX runs plain StableHLO then, Keras its own update. That a GPU is older than the module's
    oldest code is known when a program is lowered for it: see :func:`why_no_code_for`.

    Args:
        platform: as a program does that JAX lowers: ``"cpu"``, ``"cuda"``, ``"tpu"``.
    """
    if platform in MODULES:
        return None
    return _reasons.get(platform, "nadam_xla has no kernels for it")


def driver_can_run(cuda_module: Any) -> bool:
    """Whether the driver, if there is one, knows the CUDA that the module was built with.

    Drivers run what any toolkit of their own major version, or of an older one, has built. But what
    toolkit 12.1 and later build has launches with parameters of up to 32 KiB, and drivers before
    12.1 take 4.
    """
    driver, toolkit = cuda_module.driver_version(), cuda_module.TOOLKIT_VERSION
    takes_parameters = driver >= min(toolkit, (12, 1))
    if driver == (0, 0) or (driver[0] >= toolkit[0] and takes_parameters):
        return True
    warnings.warn(
        f"nadam_xla's CUDA module was built with CUDA {toolkit[0]}.{toolkit[1]}, and the driver"
        f" runs CUDA {driver[0]}.{driver[1]} at most. GPUs run plain StableHLO; for the fused"
        " kernels update the driver, or build nadam_xla with the driver's CUDA",
        stacklevel=2,
    )
    return False


def why_no_code_for(cuda_module: Any, capabilities: Collection[tuple[int, int]]) -> str | None:
    """Why GPUs of these compute capabilities cannot run the CUDA module; None where they can.

    Later ones than it was built for can, from its PTX.
    """
    oldest = divmod(min(cuda_module.ARCHITECTURES), 10)
    older = sorted(capability for capability in capabilities if capability < oldest)
    if not older:
        return None
    return (
        f"nadam_xla's CUDA module is built for GPUs of compute capability {oldest[0]}.{oldest[1]}"
        f" and later, and there is one of {older[0][0]}.{older[0][1]}"
    )


DISABLED = _disabled(os.environ.get(DISABLE, ""))
"""The platforms whose kernels are turned off, in programs that are exported too."""

_found, _reasons = _modules()

MODULES: Mapping[str, ModuleType] = MappingProxyType(_found)
"""By platform. Each has ``registrations`` and ``register_with_runtime``."""
