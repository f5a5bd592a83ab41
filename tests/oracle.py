"""What Nadam must compute, written from the papers and the frameworks' documentation in numpy.

It shares no code with the package.
"""

from collections.abc import Callable, Iterable

import numpy as np

SKIP = 14  # its place in a row
KEY = slice(15, 21)  # of the random numbers
AVERAGE = slice(21, 23)  # the weights of the average and of the new parameter


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
    c_m, c_g, c_v, b1, one_minus_b1, b2, one_minus_b2, lr, *rest = row
    eps, eps_root, decay, l2, scale, clip, skip, *_ = rest
    if skip != 0:
        return p, -np.zeros_like(p), m, v
    with np.errstate(all="ignore"):
        scaled = scale * g
        gradient = np.clip(scaled, -clip, clip) if clip else scaled
        gradient = gradient + (l2 * p if l2 else np.zeros_like(p))
        new_m = b1 * m + one_minus_b1 * gradient
        new_v = b2 * v + one_minus_b2 * (gradient * gradient)
        step = lr * ((c_m * new_m + c_g * gradient) / (np.sqrt(c_v * new_v + eps_root) + eps))
        taken = (decay * p if decay else np.zeros_like(p)) + step
        return p - taken, -taken, new_m, new_v


def averaged(row: np.ndarray, average: np.ndarray, new_p: np.ndarray) -> np.ndarray:
    """The average after a step whose rule gave these parameters, in their dtype."""
    decay, weight = row[AVERAGE]
    if row[SKIP] != 0:
        return average
    with np.errstate(all="ignore"):
        return decay * average + weight * new_p


def rows(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Tables of plausible rows, every optional part in use, in a new last axis."""
    ranges = [
        (0.1, 10.0),  # c_m
        (0.1, 10.0),  # c_g
        (1.0, 1e3),  # c_v
        (0.5, 0.99),  # b1
        (0.01, 0.5),  # one_minus_b1
        (0.9, 0.999),  # b2
        (0.001, 0.1),  # one_minus_b2
        (1e-4, 1e-2),  # learning_rate
        (1e-8, 1e-3),  # eps
        (0.0, 1e-3),  # eps_root
        (0.0, 0.1),  # decay
        (0.0, 0.1),  # l2
        (0.1, 10.0),  # grad_scale
        (0.5, 3.0),  # clip_value
    ]
    columns = [rng.uniform(low, high, shape) for low, high in ranges]
    skip_and_key = [np.zeros(shape)] * (KEY.stop - SKIP)
    average = [rng.uniform(0.5, 0.999, shape), rng.uniform(0.001, 0.5, shape)]
    return np.stack([*columns, *skip_and_key, *average], axis=-1).astype(dtype)


def with_parts_off(rng: np.random.Generator, table: np.ndarray) -> np.ndarray:
    """The rows, with the decay, the l2 and the clipping of each off or on, as it falls."""
    optional = [10, 11, 13]
    off = rng.random((*table.shape[:-1], len(optional))) < 0.5
    result = table.copy()
    result[..., optional] = np.where(off, 0, table[..., optional])
    return result
