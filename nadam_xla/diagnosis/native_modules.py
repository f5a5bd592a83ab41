"""The native modules: what they were built with, and what is used of them."""

from pathlib import Path

from nadam_xla import native
from nadam_xla.diagnosis.facts import Native, NativeModule
from nadam_xla.native_module import _native
from nadam_xla.platforms import CPU, CUDA


def find_out(found: Native) -> None:
    """The modules, or the reason why one is not used; and the instruction set in use."""
    found["modules"] = [_cpu(), _cuda()]
    found["instruction_set"] = _native.instruction_set()


def _cpu() -> NativeModule:
    return {
        **_module(CPU),
        "file": Path(_native.__file__).name,
        "compiler": _native.COMPILER,
        "ffi_api_version": _dotted(_native.FFI_API_VERSION),
    }


def _cuda() -> NativeModule:
    module = _module(CUDA)
    module["cuda_driver"] = _dotted(_native.cuda_driver_version())
    library = native.MODULES.get(CUDA)
    if library is not None:
        # With its folder, which tells a package from a build.
        module["file"] = "/".join(Path(library.path).parts[-2:])
        module["cuda_toolkit"] = _dotted(library.toolkit_version)
        module["cuda_architectures"] = list(library.architectures)
    return module


def _module(platform: str) -> NativeModule:
    reason = native.why_no_kernel(platform)
    return {
        "platform": platform,
        "used": reason is None,
        "reason": reason,
        "file": None,
        "compiler": None,
        "ffi_api_version": None,
        "cuda_toolkit": None,
        "cuda_architectures": None,
        "cuda_driver": None,
    }


def _dotted(version: tuple[int, ...]) -> str | None:
    """None for (0, 0), which is no driver."""
    return ".".join(map(str, version)) if any(version) else None
