"""The native modules of this installation: the kernels of each platform that it was built for."""

import warnings
from collections.abc import Collection, Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

from nadam_xla import _native


def _modules() -> dict[str, ModuleType]:
    modules: dict[str, ModuleType] = {"cpu": _native}
    try:
        cuda = import_module("nadam_xla._native_cuda")
    except ModuleNotFoundError:
        return modules  # built without nvcc
    if driver_can_run(cuda):
        modules["cuda"] = cuda
    return modules


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


def has_code_for(cuda_module: Any, capabilities: Collection[tuple[int, int]]) -> bool:
    """Whether GPUs of these compute capabilities can run the CUDA module; where not, it warns.

    Later ones than it was built for can, from its PTX.
    """
    oldest = divmod(min(cuda_module.ARCHITECTURES), 10)
    older = sorted(capability for capability in capabilities if capability < oldest)
    if not older:
        return True
    warnings.warn(
        f"nadam_xla's CUDA module is built for GPUs of compute capability {oldest[0]}.{oldest[1]}"
        f" and later, and there is one of {older[0][0]}.{older[0][1]}: GPUs run the plain update",
        stacklevel=2,
    )
    return False


MODULES: Mapping[str, ModuleType] = MappingProxyType(_modules())
"""By platform, as JAX names it. Each has ``registrations`` and ``register_with_runtime``."""

WORKSPACE_PARTS = 4096
"""The sums of squares that warps of a GPU leave for one another, beside one for each sum: enough
for every GPU to be busy, few enough to be added up in no time."""


def workspace_bytes(sums: int) -> int:
    """What ``nadam_xla_sum_squares_v1`` needs as its second result on a GPU.

    Args:
        sums: how many sums the call has.
    """
    return 8 * (sums + WORKSPACE_PARTS)
