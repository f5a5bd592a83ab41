"""Candidates for the 8 bits of a moment: of each the numbers that it can tell apart, from 0 to 1.

A block of moments is stored as one scale, the largest magnitude in it, and for each of its numbers
the code of what it is of the scale. A code of first moments has 128 magnitudes and a sign beside
them (the second zero is not used), one of second moments 256 magnitudes.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DRAWN_BITS = 16


class Levels:
    """The numbers of a code, and what a number between two of them becomes.

    Args:
        numbers: ascending, the first 0 and the last 1.
        keeps_nonzero: what is not zero becomes no zero, but the smallest number above it.
    """

    def __init__(self, numbers: np.ndarray, *, keeps_nonzero: bool) -> None:
        self.numbers = numbers.astype(np.float32)
        self.keeps_nonzero = keeps_nonzero
        assert self.numbers[0] == 0
        assert self.numbers[-1] == 1
        assert (np.diff(self.numbers) > 0).all()

    @cached_property
    def _below(self) -> np.ndarray:
        """Of the first 16 bits of a float32, the level at or below the least such float32."""
        least = (np.arange(0x3F81, dtype=np.uint32) << 16).view(np.float32)
        return np.searchsorted(self.numbers, least, side="right").astype(np.int32) - 1

    def rounded(self, x: jax.Array, at: jax.Array | float) -> jax.Array:
        """The level on either side of each number.

        Args:
            x: from 0 to 1.
            at: how far between the two a number is to be for the upper one: a half is the nearest,
                and what is drawn evenly from 0 to 1 keeps the average.
        """
        numbers = jnp.asarray(self.numbers)
        top = len(self.numbers) - 1
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        place = jnp.asarray(self._below)[(bits >> 16).astype(jnp.int32)]
        for _ in range(2):  # No 16 bits have more levels than two.
            place += (x >= numbers[jnp.minimum(place + 1, top)]) & (place < top)
        low, high = numbers[place], numbers[jnp.minimum(place + 1, top)]
        result = jnp.where(x - low > at * (high - low), high, low)
        return jnp.where((x > 0) & (place == 0), high, result) if self.keeps_nonzero else result


class Code(NamedTuple):
    """How one of the two moments is stored.

    Attributes:
        levels: of its magnitudes.
        is_stochastic: rounded by random numbers, and not to the nearest.
        drawn_bits: of a random number.
        block: how many neighbours share a scale.
    """

    levels: Levels
    is_stochastic: bool
    drawn_bits: int = DRAWN_BITS
    block: int = 256

    def stored(self, x: jax.Array, drawn: jax.Array) -> jax.Array:
        """What is read again of a moment that was stored.

        Args:
            x: the moment.
            drawn: a random number for each of its elements, of which the last 16 bits count.
        """
        columns = x.shape[-1]
        pad = -columns % min(self.block, columns)

        def in_blocks(x: jax.Array) -> jax.Array:
            padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, pad)])
            return padded.reshape(*x.shape[:-1], -1, min(self.block, columns))

        blocks = in_blocks(x)
        at = self._at(in_blocks(drawn)) if self.is_stochastic else 0.5
        scale = jnp.abs(blocks).max(-1, keepdims=True)
        part = jnp.minimum(jnp.abs(blocks) / jnp.where(scale > 0, scale, 1), 1)
        result = jnp.sign(blocks) * scale * self.levels.rounded(part, at)
        return result.reshape(*x.shape[:-1], columns + pad)[..., :columns]

    def _at(self, drawn: jax.Array) -> jax.Array:
        bits = (drawn & 0xFFFF) >> (DRAWN_BITS - self.drawn_bits)
        return (bits.astype(jnp.float32) + 0.5) / (1 << self.drawn_bits)


def linear(levels: int) -> np.ndarray:
    return np.linspace(0, 1, levels)


def dynamic_tree(fractions: int) -> np.ndarray:
    """The dynamic tree of Dettmers et al. (arXiv 2110.02861), as bitsandbytes has it.

    Of the seven decades below 1 each has twice as many levels as the one below.

    Args:
        fractions: the levels of the lowest.
    """
    decades = []
    for i in range(7):
        bounds = np.linspace(0.1, 1, fractions * 2**i + 1)
        decades.append(10.0 ** (i - 6) * (bounds[1:] + bounds[:-1]) / 2)
    return np.concatenate([[0], *decades, [1]])


def softsign(levels: int) -> np.ndarray:
    """FlashOptim's for first moments (arXiv 2602.23349): 2 x / (1 + x) in even steps."""
    even = linear(levels)
    return even / (2 - even)


def power(exponent: int, levels: int) -> np.ndarray:
    """The root of x in even steps; the square root is FlashOptim's for second moments."""
    return linear(levels) ** exponent


def logarithmic(mantissa: int, levels: int) -> np.ndarray:
    """The first bits of a float: its exponent and so many bits of its mantissa."""
    return np.concatenate([[0], _floats(mantissa, np.arange(2 - levels, 1))])


def tapered(*parts: tuple[int, int], levels: int = 256) -> np.ndarray:
    """The same with fewer bits of mantissa the smaller the number.

    Args:
        *parts: bits of mantissa, and of how many octaves below 1; the last is of all below.
        levels: how many there are.
    """
    numbers, top = [np.ones(1)], 0
    for mantissa, octaves in parts:
        numbers.append(2.0**-top * _floats(mantissa, np.arange(-1, -octaves * 2**mantissa - 1, -1)))
        top += octaves
    return np.concatenate([[0], np.concatenate(numbers)[: levels - 1][::-1]])


def even_and_logarithmic(mantissa: int, levels: int) -> np.ndarray:
    """The same of x plus the least of these numbers: even steps at zero, logarithmic above.

    So G.711 has it, the telephone's mu-law.
    """
    numbers = _floats(mantissa, np.arange(levels)) - 1
    return numbers / numbers[-1]


def _floats(mantissa: int, places: np.ndarray) -> np.ndarray:
    """Those that have so many bits of mantissa, counted from 1."""
    octave, within = np.divmod(places, 2**mantissa)
    return 2.0**octave * (1 + within / 2**mantissa)


FIRST: Mapping[str, Levels] = {
    name: Levels(numbers, keeps_nonzero=False)
    for name, numbers in {
        "linear": linear(128),
        "dynamic tree": dynamic_tree(1),
        "softsign": softsign(128),
        "mu-law, 5 bits of mantissa": even_and_logarithmic(5, 128),
        "mu-law, 4 bits of mantissa": even_and_logarithmic(4, 128),
        "mu-law, 3 bits of mantissa": even_and_logarithmic(3, 128),
    }.items()
}
SECOND: Mapping[str, Levels] = {
    name: Levels(numbers, keeps_nonzero=True)
    for name, numbers in {
        "dynamic tree": dynamic_tree(2),
        "square root": power(2, 256),
        "fourth root": power(4, 256),
        "mu-law, 5 bits of mantissa": even_and_logarithmic(5, 256),
        "mu-law, 4 bits of mantissa": even_and_logarithmic(4, 256),
        "tapered, 4 and 3 bits of mantissa": tapered((4, 6), (3, 20)),
        "tapered, 4, 3 and 2 bits of mantissa": tapered((4, 6), (3, 12), (2, 16)),
        "logarithmic, 5 bits of mantissa": logarithmic(5, 256),
        "logarithmic, 4 bits of mantissa": logarithmic(4, 256),
        "logarithmic, 3 bits of mantissa": logarithmic(3, 256),
    }.items()
}
