"""The scalars of the raw ops, for a momentum that stays what it is."""

from typing import Any

import tensorflow as tf

RATE, BETA1, BETA2, EPSILON = 1e-2, 0.9, 0.999, 1e-7


def scalars(t: Any) -> dict[str, Any]:
    """Of step ``t``, counted from 1."""
    t = tf.cast(t, tf.float64)
    return {
        "momentum": BETA1,
        "next_momentum": BETA1,
        "momentum_product": BETA1**t,
        "beta2_power": BETA2**t,
        "lr": RATE,
        "beta1": BETA1,
        "beta2": BETA2,
        "epsilon": EPSILON,
    }
