"""Nadam for JAX: an optax-shaped optimizer whose step is one fused, in-place custom call."""

from nadam_xla.jax.optimizer import NadamState, NadamTransformation, nadam, nadamw
from nadam_xla.jax.sum_squares import sum_squares
from nadam_xla.jax.update import nadam_update

__all__ = ["NadamState", "NadamTransformation", "nadam", "nadam_update", "nadamw", "sum_squares"]
