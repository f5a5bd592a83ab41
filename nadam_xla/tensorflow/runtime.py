"""The way into TensorFlow's own XLA: the one place that touches what TensorFlow does not document.

TensorFlow links an XLA of its own, with its own registry of handlers. The library exports
``xla::ffi::GetXlaFfiApi()``, through which a handler is registered, and the op ``XlaCallModule``
carries StableHLO, and with it a typed custom call, into a graph.
"""

import ctypes
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from nadam_xla import native
from nadam_xla.platforms import CPU, CUDA, platform_of_tensorflow_device
from nadam_xla.tensorflow.any_tensorflow import TESTED_TENSORFLOW

SUPPORTED = f"TensorFlow {TESTED_TENSORFLOW} for Linux"
_LIBRARY = "libtensorflow_cc.so.2"
_GET_XLA_FFI_API = "_ZN3xla3ffi12GetXlaFfiApiEv"


def _platforms() -> tuple[str, ...]:
    """The platforms of this process that have kernels."""
    cpu = (CPU,) if CPU in native.MODULES else ()
    if CUDA not in native.MODULES or not _gpus():
        return cpu
    reason = _why_not_on_these_gpus()
    if reason is None:
        return (*cpu, CUDA)
    warnings.warn(f"{reason}: on GPUs Keras runs its own update", stacklevel=2)
    return cpu


def _gpus() -> list[Any]:
    """NVIDIA's."""
    return tf.config.list_physical_devices("GPU") if tf.test.is_built_with_cuda() else []


def _why_not_on_these_gpus() -> str | None:
    details = [tf.config.experimental.get_device_details(gpu) for gpu in _gpus()]
    found = [d["compute_capability"] for d in details if "compute_capability" in d]
    return native.why_no_code_for(native.MODULES[CUDA], found)


def _register_kernels() -> None:
    """Raises ``OSError`` or ``AttributeError`` where TensorFlow's XLA cannot be found."""
    path = Path(tf.sysconfig.get_lib()) / _LIBRARY
    # NOLOAD: the library that TensorFlow itself runs on, never a second copy of it.
    library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    get_api = getattr(library, _GET_XLA_FFI_API)
    get_api.restype = ctypes.c_void_p
    for platform in PLATFORMS:
        native.MODULES[platform].register_with_runtime(get_api())


def _load() -> tuple[Any, Any, str | None]:
    """The op's wrapper and the module of contexts; or None, and the reason why they are not had."""
    try:
        from tensorflow.compiler.tf2xla.python.xla import call_module  # noqa: PLC0415
        from tensorflow.python.eager import context  # noqa: PLC0415

        _register_kernels()
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return None, None, f"{type(error).__name__}: {error}"
    return call_module, context, None


PLATFORMS = _platforms()
CALLS_ARE_FOR = CUDA if CUDA in PLATFORMS else CPU
"""The platform that decides how large calls are: see :mod:`nadam_xla.calls`."""

call_module, _context, _why_unavailable = _load()


def unavailable() -> str | None:
    """Why the fused update cannot run in this TensorFlow; None where it can."""
    if not PLATFORMS:
        return f"nothing is fused on the CPU: {native.why_no_kernel(CPU)}"
    if _why_unavailable is None:
        return None
    return (
        f"nadam_xla cannot reach the XLA of TensorFlow {tf.__version__} ({_why_unavailable});"
        f" it supports {SUPPORTED}"
    )


def why_no_kernel(device_type: str) -> str | None:
    """Why the fused update cannot run on devices of a type; None where it can.

    Args:
        device_type: as TensorFlow names it, for instance ``"CPU"`` or ``"GPU"``.
    """
    reason = unavailable()
    if reason is not None:
        return reason
    platform = platform_of_tensorflow_device(device_type)
    if platform in PLATFORMS:
        return None
    reason = native.why_no_kernel(platform)
    if reason is None and not _gpus():
        return "TensorFlow has no GPU of NVIDIA's here"
    return reason or _why_not_on_these_gpus()


def check_available() -> None:
    """Raises ``NotImplementedError`` where :func:`unavailable` has a reason."""
    reason = unavailable()
    if reason is not None:
        raise NotImplementedError(reason)


def is_instrumented() -> bool:
    """Whether ``tf.debugging`` looks into every operation that is run or traced.

    ``enable_check_numerics`` and ``experimental.enable_dump_debug_info`` do so, by operations of
    their own that XLA does not know.
    """
    return bool(_context.context().op_callbacks)


@contextmanager
def not_instrumented() -> Iterator[None]:
    """What is run or traced here is left alone by ``tf.debugging``."""
    callbacks = list(_context.context().op_callbacks)
    for callback in callbacks:
        _context.context().remove_op_callback(callback)
    try:
        yield
    finally:
        for callback in callbacks:
            _context.context().add_op_callback(callback)


def current_context() -> Any:
    """TensorFlow's runtime: a function that is traced in one can be run in no other.

    Tests that need other devices, as Keras's own do, begin a new one.
    """
    return _context.context()


def place(device: str) -> str | None:
    """The device without the process that it belongs to, so that a saved graph may run in another.

    Args:
        device: as a variable names it; None is returned for an empty name.
    """
    spec = tf.DeviceSpec.from_string(device)
    if spec.device_type is None:
        return None
    return f"/device:{spec.device_type}:{spec.device_index}"
