"""Nadam for JAX: an optax-shaped optimizer whose step is one fused, in-place custom call."""

from nadam_xla.frameworks import in_versions
from nadam_xla.jax import oldest_jax  # noqa: F401

TESTED_JAX = "0.8.2 to 0.12"
TESTED_OPTAX = "0.2.5 to 0.2.8"

with in_versions("jax", TESTED_JAX), in_versions("optax", TESTED_OPTAX):
    from nadam_xla.jax.blockwise import Blockwise
    from nadam_xla.jax.combining import chain
    from nadam_xla.jax.conversion import (
        state_from_keras,
        state_from_optax,
        state_from_torch,
        state_to_keras,
        state_to_optax,
        state_to_torch,
    )
    from nadam_xla.jax.full_params import full_params, narrow_params
    from nadam_xla.jax.fusion import UpdateReport, explain_updates, fuse_updates
    from nadam_xla.jax.optimizer import NadamTransformation, nadam, nadamw, scale_by_nadam
    from nadam_xla.jax.row_grad import value_and_row_grad
    from nadam_xla.jax.rows import RowGradient
    from nadam_xla.jax.rows_update import apply_updates
    from nadam_xla.jax.state import NadamState
    from nadam_xla.jax.sum_squares import sum_squares
    from nadam_xla.jax.update import nadam_update
    from nadam_xla.jax.update_path import update_path
    from nadam_xla.jax.zero1 import zero1_shardings

__all__ = [
    "Blockwise",
    "NadamState",
    "NadamTransformation",
    "RowGradient",
    "UpdateReport",
    "apply_updates",
    "chain",
    "explain_updates",
    "full_params",
    "fuse_updates",
    "nadam",
    "nadam_update",
    "nadamw",
    "narrow_params",
    "scale_by_nadam",
    "state_from_keras",
    "state_from_optax",
    "state_from_torch",
    "state_to_keras",
    "state_to_optax",
    "state_to_torch",
    "sum_squares",
    "update_path",
    "value_and_row_grad",
    "zero1_shardings",
]
