"""Keras's convention of Nadam: from hyperparameters to the row of coefficients.

Scalars are computed as stock Keras computes them, in the dtype of the variable that they update
(float32 where that is narrower).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from nadam_xla import coefficients as conventions
from nadam_xla.calls import compute_dtype
from nadam_xla.coefficients import Coefficients, Momentum
from nadam_xla.keras.step_hyperparameters import StepHyperparameters

# What Keras's schedule calls 0.96**t is Dozat's 0.96**(t * momentum_decay) with this one.
_MOMENTUM_DECAY = 1.0

# The momentum product after t = 0, 1, ... updates, without its factor beta_1**t. It converges: from
# t = 900 on, 0.5 * 0.96**t is below half an ulp of 1 in float64, so that all factors are 1.
_PRODUCTS = np.cumprod(
    [1.0, *conventions.scheduled_momentum(1.0, np.arange(1, 1024), _MOMENTUM_DECAY, 1.0).current]
)


def row(product: Any, given: StepHyperparameters, dtype: str) -> Coefficients:
    """The row of a step, without what the gradients and weight decay add to it.

    Args:
        product: of the momenta up to this step's.
        given: the hyperparameters of this step.
        dtype: the compute dtype of the leaves.
    """
    b2 = given.cast("beta_2", dtype)
    of_nadam = conventions.nadam(
        learning_rate=given.cast("learning_rate", dtype),
        momentum=_momentum(product, given, dtype),
        b1=given.cast("beta_1", dtype),
        b2=b2,
        b2_power=b2 ** ops.cast(given.iterations + 1, dtype),
        eps=given.epsilon,
    )
    return conventions.rate_before_division(of_nadam)


def decay(decays: Sequence[bool], given: StepHyperparameters, dtype: str) -> Any:
    """The part of each parameter that the step takes away: a scalar, or a vector."""
    if given.weight_decay is None or not any(decays):
        return 0.0
    part = given.cast("weight_decay", dtype) * given.cast("learning_rate", dtype)
    return part if all(decays) else part * ops.cast(decays, dtype)


def with_random_key(
    row: Coefficients, leaves: Sequence[int], given: StepHyperparameters
) -> Coefficients:
    """The row with the key of the random numbers by which these leaves are rounded.

    Args:
        row: of the step.
        leaves: their numbers among the optimizer's.
        given: the hyperparameters of this step.
    """
    return conventions.with_random_key(
        row, seed=given.seed, step=given.iterations + 1, leaf=np.asarray(leaves, np.float32)
    )


def with_average(row: Coefficients, given: StepHyperparameters, dtype: str) -> Coefficients:
    """The row of leaves that have moving averages, which begin at the variables after one update.

    Args:
        row: of the step.
        given: the hyperparameters of this step.
        dtype: the compute dtype of the leaves.
    """
    goes_on = ops.cast(ops.not_equal(given.iterations, 0), dtype)
    momentum = goes_on * ops.convert_to_tensor(given.ema_momentum, dtype)
    return row._replace(average_decay=momentum, one_minus_average_decay=1 - momentum)


def momentum_product(before: Any, beta_1: Any, iterations: Any) -> Any:
    """The product up to this step's momentum, in the dtype of the one before (float32 if narrower).

    Args:
        before: the product up to the last step's.
        beta_1: the decay rate of the first moment.
        iterations: the number of the updates made before.
    """
    dtype = compute_dtype(standardize_dtype(before.dtype))
    return conventions.scheduled_momentum(
        ops.convert_to_tensor(beta_1, dtype),
        ops.cast(iterations + 1, dtype),
        _MOMENTUM_DECAY,
        ops.cast(before, dtype),
    ).product


def momentum_product_after(iterations: Any, beta_1: Any, dtype: str) -> Any:
    """The product of the momenta of so many updates, all with this ``beta_1``."""
    products = ops.convert_to_tensor(_PRODUCTS, dtype)
    product = ops.take(products, ops.minimum(iterations, len(_PRODUCTS) - 1))
    return product * ops.cast(beta_1, dtype) ** ops.cast(iterations, dtype)


def _momentum(product: Any, given: StepHyperparameters, dtype: str) -> Momentum:
    """This step's momentum and the next one's, to go with that product.

    Stock casts their constants where it does not cast those of the product: on TensorFlow, a cast
    takes a Python number through float32.
    """
    momentum = conventions.scheduled_momentum(
        given.cast("beta_1", dtype),
        ops.cast(given.iterations + 1, dtype),
        _MOMENTUM_DECAY,
        1.0,
        base=ops.cast(conventions.MOMENTUM_BASE, dtype),
    )
    return momentum._replace(product=ops.cast(product, dtype))
