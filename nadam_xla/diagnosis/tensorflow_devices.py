"""TensorFlow, and the devices that it finds."""

from typing import Any

import tensorflow as tf

from nadam_xla.diagnosis.facts import Framework
from nadam_xla.diagnosis.memory import allocator


def find_out(found: Framework) -> None:
    """Its version and its devices."""
    found["version"] = tf.__version__
    found["allocator"] = allocator()
    found["devices"] = [
        {
            "device": devices[0].device_type,
            "kind": _kind(devices[0].device_type),
            "count": len(devices),
            "update": "none",
            "reason": None,
            "step": None,
        }
        for devices in devices_by_type()
    ]


def devices_by_type() -> list[list[Any]]:
    """TensorFlow's logical devices."""
    types: dict[str, list[Any]] = {}
    for device in tf.config.list_logical_devices():
        types.setdefault(device.device_type, []).append(device)
    return list(types.values())


def _kind(device_type: str) -> str | None:
    first, *_ = tf.config.list_physical_devices(device_type)
    kind: str | None = tf.config.experimental.get_device_details(first).get("device_name")
    return kind
