"""The native modules: what they were built with, and what is used of them."""

from pathlib import Path
from types import ModuleType

from nadam_xla import _native, native
from nadam_xla.diagnosis.facts import Native, NativeModule
from nadam_xla.platforms import NAMES


def find_out(found: Native) -> None:
    """The modules, or the reason why one is not used; and the instruction set in use."""
    found["modules"] = [
        _module(platform, native.MODULES.get(platform), native.why_no_kernel(platform))
        for platform in NAMES
    ]
    found["instruction_set"] = _native.instruction_set()


def _module(platform: str, module: ModuleType | None, reason: str | None) -> NativeModule:
    file = getattr(module, "__file__", None)
    architectures = getattr(module, "ARCHITECTURES", None)
    driver_version = getattr(module, "driver_version", None)
    return {
        "platform": platform,
        "used": module is not None,
        "reason": reason,
        "file": Path(file).name if file else None,
        "compiler": getattr(module, "COMPILER", None),
        "ffi_api_version": _dotted(getattr(module, "FFI_API_VERSION", None)),
        "cuda_toolkit": _dotted(getattr(module, "TOOLKIT_VERSION", None)),
        "cuda_architectures": list(architectures) if architectures else None,
        "cuda_driver": _dotted(driver_version() if driver_version else None),
    }


def _dotted(version: tuple[int, ...] | None) -> str | None:
    """None for what is unknown, and for (0, 0), which is no driver."""
    return ".".join(map(str, version)) if version is not None and any(version) else None
