"""The fused step on the JAX backend."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import jax
from keras import ops

from nadam_xla.jax import nadam_update, sum_squares
from nadam_xla.keras.fused_step import (
    Update,
    check_leaves,
    fused_step,
    hyperparameters_of,
    variables_of,
)
from nadam_xla.native import MODULES

eagerly = nullcontext
after = nullcontext


def serves(optimizer: Any, trainable_variables: Sequence[Any]) -> bool:
    """Whether JAX runs where there is a kernel."""
    del optimizer, trainable_variables
    backend = jax.default_backend()
    return backend == "cpu" or (backend == "gpu" and "cuda" in MODULES)


def step(optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
    """Updates the variables; in Keras's compiled training step, in place."""
    # Of sparse gradients, this sums the entries of equal indices.
    dense = [ops.convert_to_tensor(grad, sparse=False) for grad in grads]
    check_leaves(trainable_variables, dense)
    fused_step(
        Update(nadam_update, sum_squares),
        variables_of(optimizer, trainable_variables),
        dense,
        hyperparameters_of(optimizer, ops.convert_to_tensor),
    )
