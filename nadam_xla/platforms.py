"""The platforms that have kernels, and how each part of each framework calls them.

This package calls them as a program does that JAX lowers for them.
"""

from typing import NamedTuple

CPU = "cpu"
CUDA = "cuda"


class Names(NamedTuple):
    """What others call a platform."""

    jax_backend: str  # jax.default_backend
    jax_ffi: str  # jax.ffi.register_ffi_target
    tensorflow_xla: str  # the op XlaCallModule
    tensorflow_device: str  # the type in a device's name


NAMES = {
    CPU: Names("cpu", "cpu", "CPU", "CPU"),
    CUDA: Names("gpu", "CUDA", "CUDA", "GPU"),
}
"""Of each platform that has kernels."""


def platform_of_jax_backend(backend: str) -> str:
    """The platform for which programs are lowered that run on this backend.

    Args:
        backend: as ``jax.default_backend`` names it.
    """
    return next((platform for platform in NAMES if NAMES[platform].jax_backend == backend), backend)


def platform_of_tensorflow_device(device_type: str) -> str:
    """The platform of TensorFlow's devices of a type.

    Args:
        device_type: as a device's name has it, for instance ``"GPU"``.
    """
    named = (name for name in NAMES if NAMES[name].tensorflow_device == device_type)
    return next(named, device_type.lower())
