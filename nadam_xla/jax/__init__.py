"""Nadam for JAX: an optax-shaped optimizer whose step is one fused, in-place custom call."""

from nadam_xla.jax.optimizer import NadamState, NadamTransformation, nadam, nadamw
from nadam_xla.jax.update import nadam_update

__all__ = ["NadamState", "NadamTransformation", "nadam", "nadam_update", "nadamw"]
