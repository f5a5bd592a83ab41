"""The state of other optimizers made ours, and ours made theirs: a run goes on where it stood."""

from nadam_xla.jax.conversion.keras_store import state_from_keras, state_to_keras
from nadam_xla.jax.conversion.optax_state import state_from_optax, state_to_optax
from nadam_xla.jax.conversion.torch_state import state_from_torch, state_to_torch

__all__ = [
    "state_from_keras",
    "state_from_optax",
    "state_from_torch",
    "state_to_keras",
    "state_to_optax",
    "state_to_torch",
]
