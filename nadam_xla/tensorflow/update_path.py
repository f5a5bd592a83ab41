"""Which update runs on a device of TensorFlow's, and why."""

import tensorflow as tf

from nadam_xla.tensorflow import runtime
from nadam_xla.update_path import UpdatePath


def update_path(device: str | None = None) -> UpdatePath:
    """Which update the ops of ``nadam_xla.tensorflow`` run.

    Args:
        device: its name, as variables and ``tf.config.list_logical_devices`` have it, for instance
            ``"/device:GPU:0"``. None: the one where TensorFlow puts what has no place of its own.

    Returns:
        ``"kernel"``, or ``"none"`` and the reason: the ops raise there.
    """
    if device is None:
        device = "GPU" if tf.config.get_visible_devices("GPU") else "CPU"
        device = f"/device:{device}:0"
    reason = runtime.why_no_kernel(tf.DeviceSpec.from_string(device).device_type or "CPU")
    return UpdatePath("kernel" if reason is None else "none", reason)
