"""The native modules of this installation, and which platforms have no kernel here, and why."""

import os
from collections.abc import Collection, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from nadam_xla import cuda_library
from nadam_xla.native_module import _native
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


def _modules() -> tuple[dict[str, ModuleType | _native.CudaLibrary], dict[str, str]]:
    """The modules by platform, and for the others the reason."""
    modules: dict[str, ModuleType | _native.CudaLibrary] = {}
    reasons = dict.fromkeys(DISABLED, f"{DISABLE} turns nadam_xla's kernels off for it")
    if CPU not in reasons:
        modules[CPU] = _native
    if CUDA not in reasons:
        try:
            modules[CUDA] = cuda_library.load()
        except ImportError as error:
            reasons[CUDA] = str(error)
    return modules, reasons


def why_no_kernel(platform: str) -> str | None:
    """Why programs that this process runs on a platform do not call the kernels; None if they do.

    JAX runs plain StableHLO then, Keras its own update. That a GPU is older than the kernels'
    oldest code is known when a program is lowered for it: see :func:`why_no_code_for`.

    Args:
        platform: as a program does that JAX lowers: ``"cpu"``, ``"cuda"``, ``"tpu"``.
    """
    if platform in MODULES:
        return None
    return _reasons.get(platform, "nadam_xla has no kernels for it")


def why_no_code_for(library: Any, capabilities: Collection[tuple[int, int]]) -> str | None:
    """Why GPUs of these compute capabilities cannot run the CUDA kernels; None where they can.

    Later ones than it was built for can, from its PTX.
    """
    oldest = divmod(min(library.architectures), 10)
    older = sorted(capability for capability in capabilities if capability < oldest)
    if not older:
        return None
    return (
        f"nadam_xla's CUDA kernels are built for GPUs of compute capability {oldest[0]}.{oldest[1]}"
        f" and later, and there is one of {older[0][0]}.{older[0][1]}"
    )


DISABLED = _disabled(os.environ.get(DISABLE, ""))
"""The platforms whose kernels are turned off, in programs that are exported too."""

_found, _reasons = _modules()

MODULES: Mapping[str, ModuleType | _native.CudaLibrary] = MappingProxyType(_found)
"""By platform. Each has ``registrations`` and ``register_with_runtime``."""
