"""Nadam for Keras: ``keras.optimizers.Nadam``, its whole step one fused, in-place custom call."""

from nadam_xla.frameworks import in_versions
from nadam_xla.keras import oldest_keras  # noqa: F401

TESTED_KERAS = "3.10 to 3.15"

with in_versions("keras", TESTED_KERAS):
    from nadam_xla.keras.optimizer import Nadam
    from nadam_xla.keras.update_path import update_path

__all__ = ["Nadam", "update_path"]
