"""For which programs that JAX lowers there is a kernel, and why not."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax

from nadam_xla import native
from nadam_xla.platforms import CPU, CUDA, NAMES


def has_kernel(platform: str, ctx: Any) -> bool:
    """Whether a program for this platform can call the kernels.

    Where GPUs are too old for them, which nobody knew before, it warns.
    """
    reason = why_no_kernel(platform, exported=is_exported(ctx))
    if reason is not None and platform in native.MODULES:
        _warn_once(reason)
    return reason is None


def is_exported(ctx: Any) -> bool:
    """Whether the program that is lowered may run in another process."""
    exported: bool = ctx.module_context.lowering_parameters.for_export
    return exported


def why_no_kernel(platform: str, *, exported: bool) -> str | None:
    """Why a program for this platform cannot call the kernels; None where it can.

    One that runs in this process needs those of this installation, and GPUs that can run them; an
    exported one will find its own where it is run.

    Args:
        platform: as a program does that JAX lowers: ``"cpu"``, ``"cuda"``, ``"tpu"``.
        exported: whether the program is.
    """
    if exported and platform in NAMES and platform not in native.DISABLED:
        return None
    reason = native.why_no_kernel(platform)
    return _why_not_on_these_gpus() if reason is None and platform == CUDA else reason


def why_no_partitioning(*, exported: bool) -> str | None:
    """Why XLA cannot partition a call; None where it can. Plain StableHLO it always can.

    The call's partitioning speaks to Shardy alone, not to the partitioner that JAX had before 0.7.
    Shardy asks Python functions of this process, which an exported program leaves behind.

    Args:
        exported: whether the program is.
    """
    if not jax.config.jax_use_shardy_partitioner:  # type: ignore[attr-defined]
        return "jax_use_shardy_partitioner is off, and only Shardy can partition nadam_xla's call"
    if exported:
        return "an exported program leaves behind the Python that partitions nadam_xla's call"
    return None


def platform_of_calls(platforms: Sequence[str]) -> str:
    """The platform that decides how large calls are, in a program for several."""
    return CPU if CPU in platforms else CUDA


def _why_not_on_these_gpus() -> str | None:
    try:
        gpus: Any = jax.local_devices(backend=CUDA)
    except RuntimeError:
        return None  # lowered for others
    versions = (gpu.compute_capability.split(".") for gpu in gpus)
    found = [(int(major), int(minor)) for major, minor in versions]
    return native.why_no_code_for(native.MODULES[CUDA], found)


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"{reason}: GPUs run plain StableHLO", stacklevel=2)
