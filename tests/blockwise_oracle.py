"""Moments in 8 bits and a scale for each block, written in numpy from the documentation.

It shares no code with the package. A block is 256 neighbours along the last axis, or what is left
of them at the end of a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import storage_oracle as stored

OF_CODES = 2

BLOCK = 256
FLOOR = np.float32(2.0**-90)  # of the scales of blocks that are not all zero

# Second moments: 3 bits of mantissa of a number up to 2**32, whose code is the last one.
UNSIGNED_TOP = np.float32(2.0**32)
UNSIGNED_LAST = 248
UNSIGNED_PLACE = 1 << 20
# First moments: 4 bits of mantissa of a number to which 2 was added, from 2 to 496.
SIGNED_BOTTOM = np.float32(2)
SIGNED_RANGE = np.float32(496 - 2)
SIGNED_PLACE = 1 << 19

HALF = 1 << 15  # in the place of draws: to the nearest


class Blockwise(NamedTuple):
    codes: np.ndarray
    scales: np.ndarray


def by_blocks(x: np.ndarray) -> np.ndarray:
    """``[..., blocks, 256]``, with zeros behind the end of each row."""
    missing = -x.shape[-1] % BLOCK
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return padded.reshape(*x.shape[:-1], padded.shape[-1] // BLOCK, BLOCK)


def _in_rows(blocks: np.ndarray, length: int) -> np.ndarray:
    of_row = blocks.shape[-2] * BLOCK
    return blocks.reshape(*blocks.shape[:-2], of_row)[..., :length]


def _bits(x: np.ndarray | np.float32) -> np.ndarray:
    return np.asarray(x, np.float32).view(np.uint32).astype(np.int64)


def _float(bits: np.ndarray) -> np.ndarray:
    return bits.astype(np.uint32).view(np.float32)


def scales_of(x: np.ndarray) -> np.ndarray:
    """Of each block the largest magnitude; zero of zeros alone, NaN where one is not finite."""
    magnitudes = np.abs(by_blocks(x))
    is_finite = np.isfinite(magnitudes).all(axis=-1)
    largest = np.where(is_finite, magnitudes.max(axis=-1), np.float32(0))
    floored = np.where(largest == 0, np.float32(0), np.maximum(largest, FLOOR))
    return np.where(is_finite, floored, np.float32(np.nan)).astype(np.float32)


def _codes(
    x: np.ndarray, draws: np.ndarray | int, code: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(x, np.float32)
    scales = scales_of(x)
    usable = np.where(np.nan_to_num(scales) > 0, scales, np.float32(1))[..., None]
    blocks = np.where((np.nan_to_num(scales) > 0)[..., None], by_blocks(x), np.float32(0))
    given = draws if isinstance(draws, int) else by_blocks(draws).astype(np.int64)
    return _in_rows(code(blocks, usable, given), x.shape[-1]), scales


def encoded_signed(x: np.ndarray, draws: np.ndarray | int = HALF) -> Blockwise:
    """First moments.

    Args:
        x: float32.
        draws: of its shape, from 0 to 2**16 - 1; or to the nearest.
    """

    def code(blocks: np.ndarray, scales: np.ndarray, draws: np.ndarray | int) -> np.ndarray:
        y = np.abs(blocks * (SIGNED_RANGE / scales)) + SIGNED_BOTTOM
        above = _bits(y) - _bits(SIGNED_BOTTOM) + draws * (SIGNED_PLACE >> 16)
        magnitude = above // SIGNED_PLACE
        return np.where(_bits(blocks) >= 1 << 31, -magnitude, magnitude)

    codes, scales = _codes(x, draws, code)
    assert codes.min(initial=0) >= -127
    assert codes.max(initial=0) <= 127
    return Blockwise(codes.astype(np.int8), scales)


def encoded_unsigned(x: np.ndarray, draws: np.ndarray | int = HALF) -> Blockwise:
    """Second moments, which are not negative."""

    def code(blocks: np.ndarray, scales: np.ndarray, draws: np.ndarray | int) -> np.ndarray:
        y = blocks * (UNSIGNED_TOP / scales)
        first = _bits(UNSIGNED_TOP) // UNSIGNED_PLACE - UNSIGNED_LAST  # where zero would be
        rounded = (_bits(y) + draws * (UNSIGNED_PLACE >> 16)) // UNSIGNED_PLACE - first
        positive = (_bits(blocks) > 0) & (_bits(blocks) < 1 << 31)
        return np.where(positive, np.maximum(rounded, 1), 0)

    codes, scales = _codes(x, draws, code)
    assert codes.min(initial=0) >= 0
    assert codes.max(initial=0) <= UNSIGNED_LAST
    return Blockwise(codes.astype(np.uint8), scales)


def decoded(moment: Blockwise) -> np.ndarray:
    """The float32 numbers of either."""
    blocks = by_blocks(moment.codes.astype(np.int64))
    scales = moment.scales[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        if moment.codes.dtype == np.int8:
            y = _float(_bits(SIGNED_BOTTOM) + np.abs(blocks) * SIGNED_PLACE) - SIGNED_BOTTOM
            x = np.where(blocks < 0, -y, y) * (scales * (np.float32(1) / SIGNED_RANGE))
        else:
            y = _float(_bits(UNSIGNED_TOP) + (blocks - UNSIGNED_LAST) * UNSIGNED_PLACE)
            x = np.where(blocks == 0, np.float32(0), y) * (scales * (np.float32(1) / UNSIGNED_TOP))
    return _in_rows(x, moment.codes.shape[-1]).astype(np.float32)


def draws_of(shape: tuple[int, ...], **key: int) -> dict[str, np.ndarray]:
    """The 16 bits of each element, by the moment: those of its place and of its block."""
    blocks = int(np.prod(shape[:-1])) * -(-shape[-1] // BLOCK)
    together = stored.draws(blocks * BLOCK, OF_CODES, **key)
    in_rows = _in_rows(together.reshape(*shape[:-1], -(-shape[-1] // BLOCK), BLOCK), shape[-1])
    return {"mu": in_rows, "nu": stored.swapped_bytes(in_rows)}
