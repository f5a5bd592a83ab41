"""Arrays as the CUDA kernels' emulation on the host takes them."""

from collections.abc import Sequence

import numpy as np


def stored(arrays: Sequence[np.ndarray]) -> list[tuple[np.ndarray, str]]:
    """Of each its bytes, in the same memory, and the name of its dtype."""
    return [(array.view(np.uint8), str(array.dtype)) for array in arrays]


def misaligned(values: np.ndarray, by: int) -> np.ndarray:
    """A copy that stands `by` elements beyond a boundary of 16 bytes."""
    width = 16 // values.itemsize
    room = np.empty(values.size + by + width, values.dtype)
    first = -(room.ctypes.data // values.itemsize) % width + by
    copy = room[first : first + values.size]
    copy[:] = values
    return copy
