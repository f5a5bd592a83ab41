"""The numbers and hyperparameters at which arithmetic does something: one matrix for every suite.

Each suite takes from it what its interface can be given, and has a judge of its own: the rule in
numpy, optax, or Keras.
"""

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np

NAN, INF = float("nan"), float("inf")
TINY = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)
UNDER_1 = float(np.nextafter(np.float32(1), np.float32(0)))

LAST_COUNT = 2**31 - 1
"""The largest number that an int32 holds, which stock's counts are."""


def magnitudes(dtype: Any) -> np.ndarray:
    """NaN, infinity, and finite ones from zero to the largest, in this dtype.

    Of wide dtypes there are some more, of which the square overflows or underflows. The smallest
    normal one is the second of its kind: of the first, times a number just under 1, processors
    that flush what is too small say that it is, and that it is not.
    """
    info = ml_dtypes.finfo(dtype)
    largest, tiny = float(info.max), float(info.tiny)
    found = [0.0, 1.0, 0.3, NAN, INF, largest, tiny * (1 + float(info.eps))]
    found.append(float(info.smallest_subnormal))
    if largest > 1e30:
        found += [1.1 * largest**0.5, 0.1 * tiny**0.5]
    return np.array(found).astype(dtype)


def numbers(dtype: Any) -> np.ndarray:
    """The magnitudes, each with either sign."""
    return np.concatenate([magnitudes(dtype), -magnitudes(dtype)])


def combinations(*groups: np.ndarray) -> list[np.ndarray]:
    """Of each group an array, which together hold every choice of one of each."""
    return [group[places] for group, places in zip(groups, _places(*groups), strict=True)]


def _places(*groups: np.ndarray) -> np.ndarray:
    return np.array(list(product(*(range(len(group)) for group in groups)))).T


def combinations_with(first: np.ndarray, *groups: np.ndarray) -> list[np.ndarray]:
    """Every combination of the groups, and in front of each one of the first group's.

    It goes with the sum of their places, so that each of the first group's meets every choice of
    all groups but one: as the runs of an experiment are planned, by an orthogonal array.
    """
    chosen = _places(*groups).sum(axis=0) % len(first)
    return [first[chosen], *combinations(*groups)]


# A row of Nadam with the usual decay rates, long after its first step.
_ORDINARY = {
    "c_m": 0.9,
    "c_g": 0.1,
    "c_v": 1.5,
    "b1": 0.9,
    "one_minus_b1": 0.1,
    "b2": 0.999,
    "one_minus_b2": 0.001,
    "learning_rate": 1e-3,
    "eps": 1e-8,
    "grad_scale": 1.0,
}
_CHANGED: dict[str, dict[str, float]] = {
    "ordinary": {},
    "first step": {"c_m": 4.7, "c_g": 1.0, "c_v": 1e3},
    "b1 0": {"b1": 0.0, "one_minus_b1": 1.0, "c_m": 0.0, "c_g": 1.0},
    "b1 just under 1": {"b1": UNDER_1, "one_minus_b1": 1 - UNDER_1, "c_m": 2.0**23, "c_g": 1.0},
    "b2 0": {"b2": 0.0, "one_minus_b2": 1.0, "c_v": 1.0},
    "b2 just under 1": {"b2": UNDER_1, "one_minus_b2": 1 - UNDER_1, "c_v": 2.0**24},
    "rate 0": {"learning_rate": 0.0},
    "rate below 0": {"learning_rate": -1.0},
    "largest rate": {"learning_rate": LARGEST},
    "NaN rate": {"learning_rate": NAN},
    "eps 0": {"eps": 0.0},
    "eps 0, rate 0": {"eps": 0.0, "learning_rate": 0.0},
    "infinite eps": {"eps": INF},
    "eps_root": {"eps_root": 1e-3},
    "smallest clip": {"clip_value": TINY},
    "clip 1": {"clip_value": 1.0},
    "infinite clip": {"clip_value": INF},
    "NaN clip": {"clip_value": NAN},
    "scale 0": {"grad_scale": 0.0},
    "smallest scale": {"grad_scale": TINY},
    "largest scale": {"grad_scale": LARGEST},
    "infinite scale": {"grad_scale": INF},
    "NaN scale": {"grad_scale": NAN},
    "decay 1": {"decay": 1.0},
    "infinite decay": {"decay": INF},
    "l2 1": {"l2": 1.0},
    "decay, l2, clip": {"decay": 0.5, "l2": 0.5, "clip_value": 0.5, "eps_root": 1e-3},
    "skip": {"skip": 1.0},
    "skip, and all else NaN": {**dict.fromkeys(_ORDINARY, NAN), "skip": 1.0},
    "NaN skip": {"skip": NAN},
}

ROWS = {name: _ORDINARY | changed for name, changed in _CHANGED.items()}
"""Rows of coefficients, by what is hard about them; a coefficient that is not there is zero."""
