"""Every positive float32, and some negative ones, through every encoder and decoder of the update.

``python sweep.py check 0 2`` compares each stored number of the first of two parts with an
independent rule; with ``digest`` it only computes them. Either prints a digest of all bits, so that
of several instruction sets one is checked, and the others need but print the same.

Calls whose coefficients make them an identity hand each number from an array of float32 to the
encoder, and from the decoder to an array of float32.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import storage_oracle as stored
from update_call import (
    MU_IS_GRADIENT,
    MU_IS_PARAM,
    PARAM_IS_MU,
    traced_update,
    with_key,
)

import nadam_xla.jax  # noqa: F401 - registers the handler
from nadam_xla import _native

CHUNK = 2**23  # of a call
BLOCK = 2**16  # of what is compared at a time, in the cache
BF16, F16 = stored.BFLOAT16, stored.FLOAT16
Arrays = Mapping[str, Any]


class Rules:
    """What is to be stored."""

    def __init__(self) -> None:
        # The calls of all chunks have one key, so its draws are drawn once.
        self._draws = {
            (leaf, draw): stored.draws(CHUNK, draw, leaf=leaf)
            for leaf in (0, 1)
            for draw in (stored.OF_STATES, stored.OF_PARAMS)
        }

    def of_numbers(self, x: np.ndarray, place: slice) -> Arrays:
        """Of float32 numbers that stand there in their chunk."""
        draws = {of: draw[place] for of, draw in self._draws.items()}
        correction = stored.split(stored.to_24_bits(x), 8)
        drawn = stored.split(stored.to_24_bits(x, draws[0, stored.OF_PARAMS]), 8)
        remainder = stored.split(x, 16)
        bfloat16, float16 = stored.nearest(x, BF16), stored.nearest(x, F16)
        return {
            "bfloat16": bfloat16,
            "float16": float16,
            "bfloat16 of float64": bfloat16,
            "float16 of float64": float16,
            "bfloat16 beside its master": bfloat16,
            "float16 beside its master": float16,
            "master of a bfloat16": x,
            "master of a float16": x,
            "bfloat16 before its remainder": remainder[0],
            "remainder": remainder[1],
            "bfloat16 before its correction": correction[0],
            "correction": correction[1],
            "drawn bfloat16": stored.stochastic(x, BF16, draws[0, stored.OF_PARAMS]),
            "drawn float16": stored.stochastic(x, F16, draws[1, stored.OF_PARAMS]),
            "drawn bfloat16 of a state": stored.stochastic(x, BF16, draws[0, stored.OF_STATES]),
            "drawn float16 of a state": stored.stochastic(x, F16, draws[1, stored.OF_STATES]),
            "bfloat16 before its drawn correction": drawn[0],
            "drawn correction": drawn[1],
        }

    def of_pairs(self, bits: np.ndarray) -> Arrays:
        """Of a bfloat16 and a remainder, which are the halves of these numbers."""
        params, remainder = (bits >> 16).astype(np.uint16), bits.astype(np.uint16)
        return {"joined with a remainder": stored.joined(params.view(BF16), remainder)}

    def of_stored(self) -> Arrays:
        """Of all that has no more than 24 bits."""
        halves, bits = np.arange(2**16, dtype=np.uint16), np.arange(2**24, dtype=np.uint32)
        params, correction = (bits >> 8).astype(np.uint16), bits.astype(np.uint8)
        with np.errstate(invalid="ignore"):
            return {
                "a bfloat16": halves.view(BF16).astype(np.float32),
                "a float16": halves.view(F16).astype(np.float32),
                "joined with a correction": stored.joined(params.view(BF16), correction),
            }


@jax.jit
def stored_numbers(start: jax.Array) -> dict[str, jax.Array]:
    """What the kernel stores of a chunk of float32 numbers, the first of these bits."""
    x = jax.lax.bitcast_convert_type(_bits_from(start), jnp.float32)
    zero, nothing = jnp.zeros(CHUNK, jnp.float32), jnp.zeros(CHUNK, jnp.bfloat16)
    from_mu = {"grads": nothing, "mu": x, "nu": nothing}
    table, keyed = PARAM_IS_MU[None, None], with_key(np.tile(PARAM_IS_MU, (1, 2, 1)))
    both = [{"params": zero.astype(dtype), **from_mu} for dtype in (BF16, F16)]
    nearest = traced_update(table, both)
    wide = traced_update(table.astype(np.float64), both)
    drawn = traced_update(keyed, both, stochastic=True)
    states = traced_update(
        with_key(np.tile(MU_IS_GRADIENT, (1, 2, 1))),
        [
            {"params": nothing, "grads": x, "mu": zero.astype(dtype), "nu": nothing}
            for dtype in (BF16, F16)
        ],
        stochastic=True,
    )
    masters = [
        {"params": zero.astype(dtype), "master": zero.astype(master), **from_mu}
        for dtype, master in ((BF16, "f4"), (F16, "f4"), (BF16, "u2"), (BF16, "u1"))
    ]
    of_bfloat16, of_float16, remainder, correction = traced_update(table, masters)
    (drawn_correction,) = traced_update(keyed[:, :1], masters[3:], stochastic=True)
    return {
        "bfloat16": nearest[0]["params"],
        "float16": nearest[1]["params"],
        "bfloat16 of float64": wide[0]["params"],
        "float16 of float64": wide[1]["params"],
        "bfloat16 beside its master": of_bfloat16["params"],
        "float16 beside its master": of_float16["params"],
        "master of a bfloat16": of_bfloat16["master"],
        "master of a float16": of_float16["master"],
        "bfloat16 before its remainder": remainder["params"],
        "remainder": remainder["master"],
        "bfloat16 before its correction": correction["params"],
        "correction": correction["master"],
        "drawn bfloat16": drawn[0]["params"],
        "drawn float16": drawn[1]["params"],
        "drawn bfloat16 of a state": states[0]["mu"],
        "drawn float16 of a state": states[1]["mu"],
        "bfloat16 before its drawn correction": drawn_correction["params"],
        "drawn correction": drawn_correction["master"],
    }


@jax.jit
def joined_pairs(start: jax.Array) -> dict[str, jax.Array]:
    """The numbers that the kernel reads from a chunk of pairs, the first of these bits."""
    bits = _bits_from(start)
    params = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return {"joined with a remainder": _read({"params": params, "master": bits.astype(jnp.uint16)})}


@jax.jit
def read_numbers() -> dict[str, jax.Array]:
    """The numbers that the kernel reads from all that has no more than 24 bits."""
    halves, bits = jnp.arange(2**16, dtype=jnp.uint16), jnp.arange(2**24, dtype=jnp.uint32)
    bfloat16, float16 = (jax.lax.bitcast_convert_type(halves, dtype) for dtype in (BF16, F16))
    params = jax.lax.bitcast_convert_type((bits >> 8).astype(jnp.uint16), jnp.bfloat16)
    return {
        "a bfloat16": _read({"params": bfloat16}),
        "a float16": _read({"params": float16}),
        "joined with a correction": _read({"params": params, "master": bits.astype(jnp.uint8)}),
    }


def _bits_from(start: jax.Array) -> jax.Array:
    return start + jnp.arange(CHUNK, dtype=jnp.uint32)


def _read(leaf: Arrays) -> jax.Array:
    zero = jnp.zeros(leaf["params"].shape, jnp.float32)
    whole = {**leaf, "grads": zero, "mu": zero, "nu": zero}
    return traced_update(MU_IS_PARAM[None, None], [whole])[0]["mu"]


def flushed(bits: np.ndarray) -> np.ndarray:
    """The numbers of these bits as XLA's threads see them: zero in the place of subnormal ones."""
    is_subnormal = (bits & 0x7F800000) == 0
    return np.where(is_subnormal, 0, bits).astype(np.uint32).view(np.float32)


def same(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Where they are the same, but for the sign of zero, which NaN it is, and subnormal float32.

    The identities add zero, which makes one zero of both; XLA's threads flush subnormal numbers;
    and which NaN an operation gives is no promise.
    """
    if found.dtype.kind == "u":
        return found == expected
    numbers = [x.astype(np.float32) for x in (found, expected)]
    if found.dtype != F16:
        numbers = [np.where(np.abs(x) < np.float32(2.0**-126), 0, x) for x in numbers]
    return (numbers[0] == numbers[1]) | (np.isnan(numbers[0]) & np.isnan(numbers[1]))


def compare(found: Arrays, expected: Arrays, first: int) -> None:
    """Raises ``AssertionError`` where they differ; ``first`` is that of the numbers' bits."""
    for name, x in found.items():
        bits = f"u{x.dtype.itemsize}"
        if not np.array_equal(x.view(bits), expected[name].view(bits)):
            are_same = same(x, expected[name])
            if not np.all(are_same):
                at = int(np.argmin(are_same))
                raise AssertionError(
                    f"{name} of {first + at:#010x} is {x[at]!r}; it must be {expected[name][at]!r}"
                )


def check_chunk(rules: Rules, start: int, stored_there: Arrays, joined_there: Arrays) -> None:
    """Compares a chunk with the rules, a block at a time."""
    for begin in range(0, CHUNK, BLOCK):
        place, first = slice(begin, begin + BLOCK), start + begin
        bits = np.arange(first, first + BLOCK, dtype=np.int64).astype(np.uint32)
        for found, expected in (
            (stored_there, rules.of_numbers(flushed(bits), place)),
            (joined_there, rules.of_pairs(bits)),
        ):
            compare({name: x[place] for name, x in found.items()}, expected, first)


class Digest:
    """A number that tells arrays apart by their bits and the order of these."""

    def __init__(self) -> None:
        self._weights = 2 * np.arange(CHUNK, dtype=np.uint64) + 1
        self.number = np.uint64(0)

    def add(self, x: np.ndarray) -> None:
        """Adds an array of no more than 8 bytes for each number of a chunk."""
        words = np.ascontiguousarray(x).view(np.uint64)
        with np.errstate(over="ignore"):
            number = self.number * np.uint64(0x9E3779B97F4A7C15)
            self.number = number + np.dot(words, self._weights[: len(words)])


def numbers(arrays: Mapping[str, jax.Array]) -> Arrays:
    """The arrays of numpy."""
    return {name: np.asarray(x) for name, x in arrays.items()}


def starts(part: int, parts: int) -> Iterator[int]:
    """The first number of each chunk of one of the parts, as bits.

    A chunk is an exponent. All positive ones are there, and one in eight of the negative ones: the
    sign is a bit that goes from one to the other as it is.
    """
    positive = range(0, 2**31, CHUNK)
    negative = range(2**31, 2**32, 8 * CHUNK)
    yield from [*positive, *negative][part::parts]


def run(part: int, parts: int, *, checks: bool) -> np.uint64:
    """The digest of all that the kernel stores and reads of one of the parts."""
    jax.config.update("jax_enable_x64", True)
    digest, rules, read = Digest(), Rules() if checks else None, numbers(read_numbers())
    if rules:
        compare(read, rules.of_stored(), 0)
    for start in starts(part, parts):
        results = [numbers(f(np.uint32(start))) for f in (stored_numbers, joined_pairs)]
        if rules:
            check_chunk(rules, start, *results)
        for x in (*results[0].values(), *results[1].values()):
            digest.add(x)
    for x in read.values():
        digest.add(x)
    return digest.number


if __name__ == "__main__":
    command, part, parts = sys.argv[1:]
    digest = run(int(part), int(parts), checks=command == "check")
    print(_native.instruction_set(), digest)
