"""The random numbers of stochastic rounding, as kernels/random_bits.h has them.

Threefry-4x32 of 13 rounds. Source: Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as
easy as 1, 2, 3". A pair of elements has the exclusive or of two of its words, mixed: that of the
pair's place in a block of 256 elements, and that of the block. Sources: Patrascu & Thorup 2012,
"The power of simple tabulation hashing"; Appleby 2011, MurmurHash3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

_PARITY = 0x1BD11BDA
_ROTATIONS = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))
_ROUNDS = 13

DRAW_OF_MOMENTS, DRAW_OF_PARAMS, DRAW_OF_CODES = range(3)

_PLACES = 128  # of pairs, in a block
_OF_BLOCKS = 4  # what is drawn for blocks, beside what is drawn for the places in them


class RandomKey(NamedTuple):
    """Whose numbers they are: uint32 scalars."""

    seed: jax.Array
    shard: jax.Array
    leaf: jax.Array
    step: jax.Array


def random_bits(key: RandomKey, length: int, draw: int) -> jax.Array:
    """A number in [0, 2**16) for each element, uint32.

    Args:
        key: of the leaf.
        length: how many elements there are.
        draw: which of their numbers.
    """
    pairs = -(-length // 2)
    of_places = random_words(key, min(pairs, _PLACES), draw)
    of_blocks = random_words(key, -(-pairs // _PLACES), draw + _OF_BLOCKS)
    mixed = _mixed(of_places ^ of_blocks[:, None]).reshape(-1)
    numbers = mixed[:, None] >> jnp.array([0, 16], jnp.uint32) & 0xFFFF
    return numbers.reshape(-1)[:length]


def random_bits_of_rows(key: RandomKey, rows: jax.Array, columns: int, draw: int) -> jax.Array:
    """Of the numbers that :func:`random_bits` gives to a table, those of some of its rows.

    Args:
        key: of the table.
        rows: ``[n]``, uint32; which they are.
        columns: the elements of a row.
        draw: which of their numbers.

    Returns:
        ``[n, columns]``, uint32.
    """
    # The number of an element, ``row * columns + column``, may be beyond 32 bits. Its block's is
    # not, and is summed up in parts of which none is, either.
    elements = 2 * _PLACES
    column = jnp.arange(columns, dtype=jnp.uint32)
    row = rows.astype(jnp.uint32)[:, None]
    whole, rest = jnp.uint32(columns // elements), jnp.uint32(columns % elements)
    places = row % elements * rest + column % elements
    blocks = row * whole + row // elements * rest + column // elements + places // elements
    of_places = random_words(key, _PLACES, draw)[places % elements // 2]
    of_blocks = _words_at(key, blocks, draw + _OF_BLOCKS)
    numbers: jax.Array = _mixed(of_places ^ of_blocks) >> 16 * (places % 2) & 0xFFFF
    return numbers


def random_words(key: RandomKey, length: int, draw: int) -> jax.Array:
    """Independent words, uint32.

    Args:
        key: of a leaf.
        length: how many there are.
        draw: of which kind.
    """
    counters = jnp.arange(-(-length // 4), dtype=jnp.uint32)
    return _words(key, counters, draw).reshape(-1)[:length]


def _words_at(key: RandomKey, numbers: jax.Array, draw: int) -> jax.Array:
    """Of the words of a kind those with these numbers."""
    of_counters = _words(key, numbers // 4, draw)
    of_numbers = jnp.take_along_axis(of_counters, (numbers % 4)[..., None], axis=-1)
    return of_numbers[..., 0]


def _words(key: RandomKey, counters: jax.Array, draw: int) -> jax.Array:
    """Four words for each counter, in a new last axis."""
    zero = jnp.zeros_like(counters)
    # The upper half of the counter: more words than 2**34 do not fit into memory.
    words = _threefry(key, (counters, zero, zero + jnp.uint32(draw), zero))
    return jnp.stack(words, axis=-1)


def swapped_bytes(bits: jax.Array) -> jax.Array:
    """Numbers in [0, 2**16), the two bytes of each in the other order."""
    return (bits << 8 | bits >> 8) & 0xFFFF


def _mixed(x: jax.Array) -> jax.Array:
    x = (x ^ x >> 16) * jnp.uint32(0x85EBCA6B)
    return x ^ x >> 13


def _threefry(key: RandomKey, counter: Sequence[jax.Array]) -> list[jax.Array]:
    words = [jnp.asarray(word, jnp.uint32) for word in key]
    parity = jnp.uint32(_PARITY)
    for word in words:
        parity = parity ^ word
    schedule = [*words, parity]
    a, b, c, d = (x + k for x, k in zip(counter, words, strict=True))
    for i in range(_ROUNDS):
        first, second = _ROTATIONS[i % len(_ROTATIONS)]
        # The halves cross in every other round.
        if i % 2 == 0:
            a, b = _mix(a, b, first)
            c, d = _mix(c, d, second)
        else:
            a, d = _mix(a, d, first)
            c, b = _mix(c, b, second)
        if i % 4 == 3:
            turn = i // 4 + 1
            k = [schedule[(turn + j) % 5] for j in range(4)]
            a, b, c, d = a + k[0], b + k[1], c + k[2], d + k[3] + jnp.uint32(turn)
    return [a, b, c, d]


def _mix(x: jax.Array, y: jax.Array, by: int) -> tuple[jax.Array, jax.Array]:
    x = x + y
    return x, (y << by | y >> (32 - by)) ^ x
