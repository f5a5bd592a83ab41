"""The Nadam that moves a row when it is touched, in float64; it shares no code with the package."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Touched(NamedTuple):
    """The gradient of some rows."""

    indices: np.ndarray
    values: np.ndarray

    def summed(self, height: int) -> dict[int, np.ndarray]:
        """Of each row of a table of this height that occurs, the sum."""
        sums: dict[int, np.ndarray] = {}
        for index, value in zip(self.indices.tolist(), self.values, strict=True):
            if 0 <= index < height:
                sums[index] = sums.get(index, 0.0) + value.astype(np.float64)
        return sums


def lazy_nadam(
    table: np.ndarray,
    steps: Iterable[Touched],
    *,
    learning_rate: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-7,
    is_scheduled: bool = True,
    weight_decay: float = 0.0,
    limit: Callable[[dict[int, np.ndarray]], dict[int, np.ndarray]] = lambda sums: sums,
) -> np.ndarray:
    """The table after the steps.

    The schedule counts all steps; moments and decay are those of the steps that touched the row.

    Args:
        table: before the first step.
        steps: the gradient of each.
        learning_rate: of all.
        b1: the decay rate of the first moment.
        b2: the decay rate of the second moment.
        eps: outside of the root.
        is_scheduled: whether the momentum is Keras's schedule; otherwise it is ``b1``.
        weight_decay: decoupled, times the rate.
        limit: what becomes of a step's sums.
    """
    p = np.asarray(table, np.float64).copy()
    m, v = np.zeros_like(p), np.zeros_like(p)
    product = 1.0
    for t, touched in enumerate(steps, start=1):
        mu, mu_next = (b1 * (1 - 0.5 * 0.96**n) if is_scheduled else b1 for n in (t, t + 1))
        product *= mu
        for row, g in limit(touched.summed(len(p))).items():
            m[row] = b1 * m[row] + (1 - b1) * g
            v[row] = b2 * v[row] + (1 - b2) * g**2
            ahead = mu_next * m[row] / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
            change = ahead / (np.sqrt(v[row] / (1 - b2**t)) + eps) + weight_decay * p[row]
            p[row] -= learning_rate * change
    return p


def by_norm(bound: float) -> Callable[[dict[int, np.ndarray]], dict[int, np.ndarray]]:
    """The limit that scales all sums down together, to this norm."""

    def limited(sums: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        norm = np.sqrt(sum(np.sum(g**2) for g in sums.values()))
        return {row: g * min(1.0, bound / norm) for row, g in sums.items()}

    return limited


def some_rows(
    rng: np.random.Generator, height: int, touched: int, columns: tuple[int, ...]
) -> Touched:
    """Rows in no order, some of them several times, and some that no table of this height has."""
    indices = rng.integers(-2, height + 2, touched)
    indices[: touched // 3] = indices[-1]
    return Touched(indices, rng.normal(size=(touched, *columns)))
