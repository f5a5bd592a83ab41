"""What Nadam must compute, written from the papers and the frameworks' documentation in numpy.

It shares no code with the package.
"""

from collections.abc import Callable, Iterable

import numpy as np


def nadam(
    param: np.ndarray,
    grads: Iterable[np.ndarray],
    *,
    learning_rate: float | Callable[[int], float] = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    momentum_decay: float | None = None,
    weight_decay: float = 0.0,
) -> np.ndarray:
    """The parameter after a step with each of the gradients, in float64.

    ``learning_rate`` may be a function of the number of steps taken before; ``weight_decay`` is
    decoupled and scaled by the learning rate.
    """
    p = np.asarray(param, np.float64)
    m, v = np.zeros_like(p), np.zeros_like(p)
    product = 1.0
    for t, grad in enumerate(grads, start=1):
        g = np.asarray(grad, np.float64)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        if momentum_decay is None:
            mu = mu_next = b1
        else:
            mu = b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
            mu_next = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        product *= mu
        m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
        v_hat = v / (1 - b2**t)
        lr = learning_rate(t - 1) if callable(learning_rate) else learning_rate
        p = p - lr * weight_decay * p - lr * m_hat / (np.sqrt(v_hat + eps_root) + eps)
    return p


def rule(
    row: np.ndarray, p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One application of the contract's rule in the arrays' own dtype: p', its change, m', v'.

    The operations stand in the order of the contract, so a kernel that neither contracts nor
    reorders them gives the same bits.
    """
    c_m, c_g, c_v, one_minus_b1, one_minus_b2, eps, eps_root, decay, l2, scale, clip, skip = row
    if skip != 0:
        return p, np.zeros_like(p), m, v
    with np.errstate(all="ignore"):
        scaled = scale * g
        gradient = np.where(np.isfinite(scaled), np.clip(scaled, -clip, clip), scaled) + l2 * p
        new_m = m + one_minus_b1 * (gradient - m)
        new_v = v + one_minus_b2 * (gradient * gradient - v)
        step = (c_m * new_m + c_g * gradient) / (np.sqrt(c_v * new_v + eps_root) + eps)
        return p - decay * p - step, -(decay * p + step), new_m, new_v


def rows(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Tables of plausible rows, of the shape ``[*shape, 12]``, every optional part in use."""
    ranges = [
        (1e-4, 1e-2),  # c_m
        (1e-4, 1e-2),  # c_g
        (1.0, 1e3),  # c_v
        (0.01, 0.5),  # one_minus_b1
        (0.001, 0.1),  # one_minus_b2
        (1e-8, 1e-3),  # eps
        (0.0, 1e-3),  # eps_root
        (0.0, 0.1),  # decay
        (0.0, 0.1),  # l2
        (0.1, 10.0),  # grad_scale
        (0.5, 3.0),  # clip_value
    ]
    columns = [rng.uniform(low, high, shape) for low, high in ranges]
    return np.stack([*columns, np.zeros(shape)], axis=-1).astype(dtype)
