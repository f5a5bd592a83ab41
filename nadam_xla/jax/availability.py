"""For which platforms a program that JAX lowers can call the kernels."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax

from nadam_xla import native
from nadam_xla.platforms import CPU, CUDA, NAMES


def has_kernel(platform: str, ctx: Any) -> bool:
    """Whether a program for this platform can call the kernels.

    One that runs in this process needs those of this installation, and GPUs that can run them; an
    exported one will find its own where it is run.
    """
    if ctx.module_context.lowering_parameters.for_export:
        return platform in NAMES and platform not in native.DISABLED
    return platform in native.MODULES and (platform != CUDA or _gpus_can_run_kernels())


@cache
def _gpus_can_run_kernels() -> bool:
    try:
        gpus: Any = jax.local_devices(backend=CUDA)
    except RuntimeError:
        return True  # lowered for others
    versions = (gpu.compute_capability.split(".") for gpu in gpus)
    found = [(int(major), int(minor)) for major, minor in versions]
    return native.has_code_for(native.MODULES[CUDA], found)


def platform_of_calls(platforms: Sequence[str]) -> str:
    """The platform that decides how large calls are, in a program for several."""
    return CPU if CPU in platforms else CUDA
