"""Nadam for JAX: an optax-shaped optimizer whose step is one fused, in-place custom call."""

from nadam_xla.jax.optimizer import NadamTransformation, nadam, nadamw, scale_by_nadam
from nadam_xla.jax.state import NadamState
from nadam_xla.jax.sum_squares import sum_squares
from nadam_xla.jax.update import nadam_update

__all__ = [
    "NadamState",
    "NadamTransformation",
    "nadam",
    "nadam_update",
    "nadamw",
    "scale_by_nadam",
    "sum_squares",
]
