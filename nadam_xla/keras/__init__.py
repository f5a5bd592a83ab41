"""Nadam for Keras: ``keras.optimizers.Nadam``, its whole step one fused, in-place custom call."""

from nadam_xla.keras.optimizer import Nadam
from nadam_xla.keras.update_path import update_path

__all__ = ["Nadam", "update_path"]
