"""The fused step on the JAX backend."""

from collections.abc import Sequence
from typing import Any

import jax

from nadam_xla.jax import nadam_update
from nadam_xla.keras.fused_step import check_leaves, fused_step, variables_of


def serves(trainable_variables: Sequence[Any]) -> bool:
    """Whether JAX runs on the CPU, where the kernel is."""
    del trainable_variables
    return jax.default_backend() == "cpu"


def step(
    optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
) -> None:
    """Updates the variables; in Keras's compiled training step, in place."""
    check_leaves(trainable_variables, grads)
    fused_step(
        nadam_update,
        variables_of(optimizer, trainable_variables),
        grads,
        iterations=optimizer.iterations,
        learning_rate=learning_rate,
        beta_1=optimizer.beta_1,
        beta_2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
    )
