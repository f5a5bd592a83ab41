"""Which update runs on TensorFlow's devices."""

from typing import Any

import tensorflow as tf

from nadam_xla.diagnosis.errors import in_words
from nadam_xla.diagnosis.facts import Framework
from nadam_xla.diagnosis.tensorflow_devices import devices_by_type
from nadam_xla.diagnosis.threads import threads_of_xla
from nadam_xla.tensorflow import raw_ops, runtime, update_path

_SCALARS: dict[str, Any] = dict.fromkeys(
    ("momentum", "next_momentum", "momentum_product", "beta2_power", "lr", "beta1", "beta2"), 0.5
)


def find_out(found: Framework) -> None:
    """The paths of the raw ops, and what comes of a small step on each type of device."""
    if runtime.unavailable() is None:
        found["registered"] = [platform.lower() for platform in runtime.PLATFORMS]
    for entry, (device, *_) in zip(found["devices"], devices_by_type(), strict=True):
        entry["update"], entry["reason"] = update_path(device.name)
        if entry["update"] != "none":
            entry["step"] = _step_on(device.name)
    found["threads"] = threads_of_xla()


def _step_on(device: str) -> str:
    try:
        with tf.device(device):
            var, m, v = (tf.Variable(tf.ones(3)) for _ in range(3))
            raw_ops.ResourceApplyNadam(var=var, m=m, v=v, grad=tf.ones(3), epsilon=1e-7, **_SCALARS)
            var.numpy()
    except Exception as error:
        return in_words(error)
    return "ran"
