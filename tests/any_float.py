"""Numbers of all of float32: every exponent as likely, and those at which something happens."""

import numpy as np

_EDGES = np.array(
    [0.0, -0.0, 1e-45, -1.2e-38, 1e-20, 1.0, 1.8e19, 2e19, 3.4028235e38, -3.4028235e38, np.inf],
    np.float32,
)


def any_float(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Arrays of them, with both infinities and without NaN."""
    drawn = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
    edges = rng.choice(_EDGES, shape) * rng.choice(np.float32([1, -1]), shape)
    return np.where(np.isnan(drawn) | (rng.random(shape) < 0.3), edges, drawn)
