"""The decoders and encoders of the CUDA kernels, run on the host, on arrays of numpy."""

import ml_dtypes
import numpy as np

from nadam_xla import _native_testing as native

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def narrowed(x: np.ndarray, dtype: np.dtype, draws: np.ndarray | None = None) -> np.ndarray:
    """Float32 or float64 numbers as bfloat16 or float16.

    Args:
        x: a multiple of eight elements, as all arrays here.
        dtype: of the result.
        draws: uint16, a random number for each element; None: they are rounded to the nearest.
    """
    to = np.empty(x.shape, np.uint16)
    encode = native.bfloat16_as_on_gpu if dtype == BFLOAT16 else native.float16_as_on_gpu
    encode(x, to, draws)
    return to.view(dtype)


def split(
    x: np.ndarray, bits: int, draws: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The bfloat16 of float32 numbers, and the 16 or 8 bits that stand behind them.

    Args:
        x: float32.
        bits: how many.
        draws: as above; for 8 bits alone.
    """
    to, remainder = np.empty(x.shape, np.uint16), np.empty(x.shape, f"u{bits // 8}")
    if bits == 16:
        native.remainder_as_on_gpu(x, to, remainder)
    else:
        native.correction_as_on_gpu(x, to, remainder, draws)
    return to.view(BFLOAT16), remainder


def widened(x: np.ndarray) -> np.ndarray:
    """The float32 of bfloat16 or float16 numbers."""
    to = np.empty(x.shape, np.float32)
    is_bfloat16 = x.dtype == BFLOAT16
    decode = native.from_bfloat16_as_on_gpu if is_bfloat16 else native.from_float16_as_on_gpu
    decode(x.view(np.uint16), to)
    return to


def joined(params: np.ndarray, remainder: np.ndarray) -> np.ndarray:
    """The float32 of bfloat16 numbers and the 16 or 8 bits that stand behind them."""
    to = np.empty(params.shape, np.float32)
    native.joined_as_on_gpu(params.view(np.uint16), remainder, to)
    return to
