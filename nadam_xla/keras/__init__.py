"""Nadam for Keras: ``keras.optimizers.Nadam``, its whole step one fused, in-place custom call."""

from nadam_xla.keras.optimizer import Nadam

__all__ = ["Nadam"]
