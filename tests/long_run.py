"""Nadam over very many steps whose gradients are known beforehand: filters and a sum, in float64.

The gradients do not depend on the parameters, so nothing corrects an error once it is made: what
rounding adds up to is seen in full. It shares no code with the package.
"""

from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

STEPS_WITH_ONE_GRADIENT = 97  # a prime, so that it is no multiple of what a processor does at once
GRADIENTS = 64


def gradients() -> np.ndarray:
    """``[64, elements]``: the steps take each 97 times, one after the other, and begin anew.

    Some turn, so that their sum is zero: of ordinary magnitude, huge, or so small that squares
    underflow in float32. Some are rare, some always the same, some zero.
    """
    rng = np.random.default_rng(0)
    half = rng.normal(size=(GRADIENTS // 2, 8))
    turning = np.concatenate([half, -half])
    turning[:, 4:6] *= 1e15
    turning[:, 6:] *= 1e-20
    is_rare = np.arange(GRADIENTS)[:, None] % 32 == 0
    rare = np.where(is_rare, np.sign(turning[:, :2]), 0.0)
    same = np.broadcast_to([1.0, -1.0, 1e-6, 0.0], (GRADIENTS, 4))
    return np.concatenate([turning, rare, same], axis=1)


class Run(NamedTuple):
    """After the last step; ``bound`` is what rounding may have made of the parameters."""

    params: np.ndarray
    mu: np.ndarray
    nu: np.ndarray
    average: np.ndarray
    path: np.ndarray  # the sum of the magnitudes of all changes
    largest: np.ndarray  # the root of the sum of the squares of all parameters on the way
    bound: np.ndarray


def run(
    start: np.ndarray,
    table: np.ndarray,
    steps: int,
    *,
    learning_rate: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float | None = None,
    average_decay: float = 0.999,
    roundoff: float = 2.0**-24,
) -> Run:
    """Nadam in float64, and how far a run may be from it whose numbers have this unit roundoff u.

    To first order in u. The subtraction of each step rounds the parameter: u times its magnitude.
    What a step takes is wrong by its own share. A second moment passes through its decay once a
    step for as long as it remembers, ``1 / (1 - b2)`` steps: a product, a sum, and ``b2`` itself
    are rounded; the root halves that; and the power in the bias correction is rounded as often. So
    is the first moment; its share is of magnitudes, for what it adds up may cancel.
    """
    t = np.arange(1, steps + 1)[:, None]
    grads = table[(t[:, 0] - 1) // STEPS_WITH_ONE_GRADIENT % len(table)]
    mu, nu, magnitude = (
        lfilter([1 - b], [1, -b], x, axis=0)
        for b, x in ((b1, grads), (b2, grads**2), (b1, np.abs(grads)))
    )
    if momentum_decay is None:
        now = following = np.full(t.shape, b1)
    else:
        now, following = (b1 * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (t, t + 1))
    products = np.cumprod(now, axis=0)
    c_m, c_g = following / (1 - products * following), (1 - now) / (1 - products)
    root = np.sqrt(nu / -np.expm1(t * np.log(b2))) + eps
    changes = -learning_rate * (c_m * mu + c_g * grads) / root
    at_most = learning_rate * (c_m * magnitude + c_g * np.abs(grads)) / root
    params = start + np.cumsum(changes, axis=0)
    path = np.sum(np.abs(changes), axis=0)
    bound = np.sum(np.abs(params), axis=0) + 3 / (1 - b2) * path
    bound += 5 / (1 - b1) * np.sum(at_most, axis=0)
    average = lfilter([1 - average_decay], [1, -average_decay], params, axis=0)
    return Run(
        params[-1],
        mu[-1],
        nu[-1],
        average[-1] / -np.expm1(steps * np.log(average_decay)),
        path,
        np.sqrt(np.sum(params**2, axis=0)),
        roundoff * bound,
    )
