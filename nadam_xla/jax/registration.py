"""Registers the handlers with JAX's XLA, once its FFI is known to suit them."""

import re
from importlib.metadata import version
from pathlib import Path

import jax

from nadam_xla import native
from nadam_xla.native_module import _native
from nadam_xla.platforms import NAMES


def register_handlers() -> None:
    """Registers the kernels of this installation under their targets.

    Raises:
        ImportError: jaxlib's FFI is older than the one that the kernels were built for.
    """
    _check_ffi_version()
    for platform, module in native.MODULES.items():
        for target, stages in module.registrations().items():
            jax.ffi.register_ffi_target(target, stages, platform=NAMES[platform].jax_ffi)


def _check_ffi_version() -> None:
    """Without this, a handler that the runtime refuses surfaces as 'No FFI handler' much later."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    text = header.read_text() if header.exists() else ""
    found = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", text)
    runtime = tuple(int(number) for number in found)
    built = _native.FFI_API_VERSION
    if len(runtime) != 2:
        raise ImportError(
            f"jaxlib {version('jaxlib')} does not tell which version of XLA's FFI it has: it should"
            f" stand in {header}; pip install --force-reinstall jaxlib brings that"
        )
    if runtime[0] != built[0] or runtime < built:
        raise ImportError(
            f"nadam_xla was built for version {built[0]}.{built[1]} of XLA's FFI, and jaxlib"
            f" {version('jaxlib')} has {'.'.join(map(str, runtime))}; it needs a jaxlib of the"
            " same major and at least that minor version"
        )
