"""How numbers are stored, written in numpy from the documentation.

It shares no code with the package. Rounding to the nearest is ml_dtypes' and numpy's own.
"""

from collections.abc import Callable

import ml_dtypes
import numpy as np

BFLOAT16, FLOAT16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
STORED = [np.dtype(np.float32), BFLOAT16, FLOAT16, np.dtype(np.float64)]

# Threefry-4x32's rotations (Salmon et al. 2011, table 2) and the parity of its key schedule.
ROTATIONS = [(10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20)]
PARITY = np.uint32(0x1BD11BDA)
OF_STATES, OF_PARAMS = 0, 1
PAIRS_OF_BLOCK, OF_BLOCKS = 128, 4

# By its exponent, of which the first is that of 2**-14: 2**-16 of a float16's last place, in ones.
PLACES = np.ldexp(np.float32(1), 26 - np.arange(-14, 16))


def threefry(counter: np.ndarray, key: np.ndarray, rounds: int = 13) -> np.ndarray:
    """Threefry-4x32: [4, n] words of [4, n] counters and [4] words of a key."""
    x = np.array(counter, np.uint32)
    words = np.append(np.asarray(key, np.uint32), np.bitwise_xor.reduce(key, initial=PARITY))
    with np.errstate(over="ignore"):
        x += words[:4, None]
        for i in range(rounds):
            partners = (1, 3) if i % 2 == 0 else (3, 1)
            for a, b, by in zip((0, 2), partners, ROTATIONS[i % 8], strict=True):
                x[a] += x[b]
                x[b] = (x[b] << np.uint32(by) | x[b] >> np.uint32(32 - by)) ^ x[a]
            if i % 4 == 3:
                turn = i // 4 + 1
                x += words[(turn + np.arange(4)) % 5, None]
                x[3] += np.uint32(turn)
    return x


def draws(length: int, draw: int, **key: int) -> np.ndarray:
    """16 bits for each element of a leaf.

    A pair of elements has a word: that of its place in a block, and that of the block, mixed.
    """
    pairs = -(-length // 2)
    places = words(PAIRS_OF_BLOCK, draw, **key)
    blocks = words(-(-pairs // PAIRS_OF_BLOCK), draw + OF_BLOCKS, **key)
    x = blocks[:, None] ^ places
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    return x.astype("<u4").ravel().view("<u2")[:length].astype(np.uint32)


def words(
    length: int, draw: int, *, seed: int = 0, shard: int = 0, leaf: int = 0, step: int = 0
) -> np.ndarray:
    """32 bits each."""
    fours = np.arange(-(-length // 4), dtype=np.uint64)
    counter = np.zeros((4, len(fours)), np.uint32)
    counter[0], counter[1], counter[2] = fours, fours >> np.uint64(32), draw
    of_fours = threefry(counter, np.array([seed, shard, leaf, step], np.uint32))
    return of_fours.T.reshape(-1)[:length]


def swapped_bytes(bits: np.ndarray) -> np.ndarray:
    return (bits >> 8 | bits << 8) & 0xFFFF


def nearest(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def _by_magnitude(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bits = x.view(np.uint32)
    return bits & 0x7FFFFFFF, (bits >> 16 & 0x8000).astype(np.uint16)


def stochastic(
    x: np.ndarray,
    dtype: np.dtype,
    draw: np.ndarray,
    nearest: Callable[[np.ndarray, np.dtype], np.ndarray] = nearest,
) -> np.ndarray:
    """The neighbour of a float32 that is nearer to zero, or the other one where the draw says so.

    It is the other one as often as 2**16 draws allow. Where that would be infinity, it is the
    nearest one.
    """
    magnitude, sign = _by_magnitude(x)
    if dtype == BFLOAT16:
        inner, fraction = magnitude >> 16, magnitude & 0xFFFF
        largest = 0x7F7F
        is_beyond = magnitude >= 0x7F7F0000
    else:
        absolute = magnitude.view(np.float32)
        is_beyond = magnitude >= (127 + 16) << 23
        absolute = np.where(is_beyond, np.float32(0), absolute)
        exponent = np.maximum(absolute.view(np.uint32) >> 23, 113) - np.uint32(113)
        # In 2**-16 of the last place, of which a subnormal number has fractions yet.
        scaled = absolute * PLACES[exponent]
        whole = np.where(scaled < 2**23, scaled + np.float32(0.5), scaled).astype(np.uint32)
        inner = (whole >> 16) + (exponent << 10)
        fraction, largest = whole & 0xFFFF, 0x7BFF
    rounded = inner + ((fraction + draw) >> 16)
    keeps = ~is_beyond & (rounded <= largest)
    stored = np.asarray(sign | rounded.astype(np.uint16)).view(dtype)
    stored[~keeps] = nearest(np.asarray(x)[~keeps], dtype)
    return stored


def to_24_bits(x: np.ndarray, draw: np.ndarray | None = None) -> np.ndarray:
    """A float32 whose last 8 bits are zero: the nearest, ties to even, or as the draw says."""
    magnitude, _ = _by_magnitude(x)
    bits = x.view(np.uint32)
    last, rest = magnitude >> 8 & 1, magnitude & 0xFF
    up = (
        (rest > 128) | ((rest == 128) & (last == 1)) if draw is None else rest + (draw & 0xFF) > 255
    )
    rounded = (magnitude & ~np.uint32(0xFF)) + (up.astype(np.uint32) << 8)
    if draw is not None:
        rounded = np.where(rounded >= 0x7F800000, _by_magnitude(to_24_bits(x))[0], rounded).astype(
            np.uint32
        )
    rounded = np.where(magnitude >= 0x7F800000, magnitude, rounded)
    return (bits & 0x80000000 | rounded).view(np.float32)


def split(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The bfloat16 nearest to a float32, ties away from zero, and what is to be added behind it.

    Args:
        x: float32, of which all but the first ``16 + bits`` are zero.
        bits: how many are added: 16 or 8.
    """
    magnitude, sign = _by_magnitude(x)
    inner, rest = magnitude >> 16, magnitude & 0xFFFF
    upper = inner + (rest >= 0x8000)
    remainder = rest.astype(np.uint16).view(np.int16)  # less 2**16 where it was rounded up
    is_nan = magnitude > 0x7F800000
    params = np.where(is_nan, 0x7FC0, sign | upper.astype(np.uint16)).astype(np.uint16)
    stored = (remainder >> (16 - bits)).astype(f"int{bits}").view(f"uint{bits}")
    return params.view(BFLOAT16), np.where(is_nan, 0, stored).astype(f"uint{bits}")


def joined(params: np.ndarray, remainder: np.ndarray) -> np.ndarray:
    """The float32 of both. A zero with a negative remainder has been overwritten, and is zero."""
    bits = 8 * remainder.dtype.itemsize
    upper = params.view(np.uint16).astype(np.int32)
    added = remainder.view(f"int{bits}").astype(np.int32) * (1 << (16 - bits))
    together = (upper << 16) + np.where((upper & 0x7FFF == 0) & (added < 0), 0, added)
    return together.view(np.float32)
