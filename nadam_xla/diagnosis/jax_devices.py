"""JAX, and the devices that it finds."""

import jax

from nadam_xla.diagnosis.facts import Framework
from nadam_xla.diagnosis.memory import allocator


def find_out(found: Framework) -> None:
    """Its version and its devices."""
    found["version"] = jax.__version__
    found["allocator"] = allocator()
    found["devices"] = [
        {
            "device": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "update": "none",
            "reason": None,
            "step": None,
        }
        for devices in devices_by_kind()
    ]


def devices_by_kind() -> list[list[jax.Device]]:
    """Those of the default platform, and the CPUs."""
    devices = dict.fromkeys([*jax.local_devices(), *_cpus()])
    kinds: dict[tuple[str, str], list[jax.Device]] = {}
    for device in devices:
        kinds.setdefault((device.platform, device.device_kind), []).append(device)
    return list(kinds.values())


def _cpus() -> list[jax.Device]:
    try:
        cpus: list[jax.Device] = jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX_PLATFORMS may leave them out
        return []
    return cpus
