"""Which update a program runs, and why."""

import jax

from nadam_xla.jax.availability import why_no_kernel, why_no_partitioning
from nadam_xla.platforms import CUDA, platform_of_jax_backend
from nadam_xla.update_path import UpdatePath


def update_path(
    device: jax.Device | str | None = None, *, partitioned: bool = False, exported: bool = False
) -> UpdatePath:
    """Which update a program runs that holds a step of ``nadam_xla.jax``.

    ::

        assert update_path().update == "kernel"
        assert update_path("tpu").update == "stablehlo"

    Args:
        device: that the program runs on; or its platform, ``"cpu"``, ``"cuda"``, ``"gpu"``,
            ``"rocm"`` or ``"tpu"``, which need not be there. None: where JAX runs what has no place
            of its own.
        partitioned: whether XLA partitions the program over the devices of a mesh. Inside
            ``shard_map`` each device runs a program of its own, which is not partitioned.
        exported: whether it is exported by ``jax.export``, and so may run elsewhere.

    Returns:
        ``"kernel"``, or ``"stablehlo"`` and the reason. What only the program itself can tell is
        left out: a population of hyperparameters (``vmap``) that is partitioned without a mesh is
        plain StableHLO; so is a partitioned program for several platforms, of which one has no
        kernel.
    """
    reason = why_no_kernel(_platform_of(device), exported=exported)
    if reason is None and partitioned:
        reason = why_no_partitioning(exported=exported)
    return UpdatePath("kernel" if reason is None else "stablehlo", reason)


def _platform_of(device: jax.Device | str | None) -> str:
    """The platform that programs are lowered for."""
    if device is None:
        device = jax.config.jax_default_device or jax.local_devices()[0]  # type: ignore[attr-defined]
    platform = platform_of_jax_backend(device if isinstance(device, str) else device.platform)
    return _ROCM if platform == CUDA and _has_gpus_of_rocm() else platform


_ROCM = "rocm"


def _has_gpus_of_rocm() -> bool:
    """JAX calls every GPU ``"gpu"``, whoever made it, and lowers programs for its maker's."""
    try:
        return bool(jax.local_devices(backend=_ROCM))
    except RuntimeError:
        return False
