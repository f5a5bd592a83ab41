"""Arrays as the CUDA kernels' emulation on the host takes them."""

from collections.abc import Sequence

import numpy as np

Stored = tuple[np.ndarray, str]


def stored(arrays: Sequence[np.ndarray]) -> list[Stored]:
    """Of each its bytes, in the same memory, and the name of its dtype."""
    return [(array.view(np.uint8), str(array.dtype)) for array in arrays]
