"""Every float32 through every encoder and decoder of the update.

``python sweep.py check 0 2 7`` compares each stored number of the first of two parts with an
independent rule, where 7 is the seed by which the numbers fall into parts; with ``digest`` it only
computes them. Either prints a digest of all bits, so that of several instruction sets one is
checked, and the others need but print the same.

What the CUDA kernels' encoders and decoders give on the host is compared with what the CPU's give;
where that flushes subnormal numbers, with the rule.

The rule is computed for positive numbers. It stores a negative number as the positive one, with the
other sign: what is stored of negative ones is compared with that, and a part of it with the rule.

Calls whose coefficients make them an identity hand each number from an array of float32 to the
encoder, and from the decoder to an array of float32.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cuda_codec
import jax
import jax.numpy as jnp
import numpy as np
import storage_oracle as stored
import torch
from update_call import (
    MU_IS_GRADIENT,
    MU_IS_PARAM,
    PARAM_IS_MU,
    traced_update,
    with_key,
)

import nadam_xla.jax  # noqa: F401 - registers the handler
from nadam_xla import _native

CHUNK = 2**19  # of a call
BLOCK = 2**16  # of what is compared at a time, in the cache
SIGN = 2**31
BF16, F16 = stored.BFLOAT16, stored.FLOAT16
Arrays = Mapping[str, Any]


class Call(NamedTuple):
    """A call that stores numbers as parameters, and the names of what it stores."""

    name: str
    dtype: np.dtype
    name_of_master: str | None = None
    master: str | None = None
    of: type = np.float32
    stochastic: bool = False


CALLS = (
    Call("bfloat16", BF16),
    Call("float16", F16),
    Call("bfloat16 of float64", BF16, of=np.float64),
    Call("float16 of float64", F16, of=np.float64),
    Call("bfloat16 before its remainder", BF16, "remainder", "u2"),
    Call("bfloat16 before its correction", BF16, "correction", "u1"),
    Call("drawn bfloat16", BF16, stochastic=True),
    Call("drawn float16", F16, stochastic=True),
    Call("bfloat16 before its drawn correction", BF16, "drawn correction", "u1", stochastic=True),
)


def nearest(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """As PyTorch rounds, for numpy takes 100 ns for a number beyond the range of float16."""
    return torch.from_numpy(x).half().numpy() if dtype == F16 else stored.nearest(x, dtype)


class Rules:
    """What is to be stored."""

    def __init__(self) -> None:
        # The calls of all chunks have one key, so its draws are drawn once.
        of_states, of_params = (
            stored.draws(CHUNK, draw) for draw in (stored.OF_STATES, stored.OF_PARAMS)
        )
        self.of_states, self.of_params = of_states, of_params

    def of_numbers(self, x: np.ndarray, place: slice) -> Arrays:
        """Of float32 numbers that stand there in their chunk."""
        of_states, of_params = self.of_states[place], self.of_params[place]
        correction = stored.split(stored.to_24_bits(x), 8)
        drawn = stored.split(stored.to_24_bits(x, of_params), 8)
        remainder = stored.split(x, 16)
        bfloat16, float16 = nearest(x, BF16), nearest(x, F16)
        return {
            "bfloat16": bfloat16,
            "float16": float16,
            "bfloat16 of float64": bfloat16,
            "float16 of float64": float16,
            "bfloat16 before its remainder": remainder[0],
            "remainder": remainder[1],
            "bfloat16 before its correction": correction[0],
            "correction": correction[1],
            "drawn bfloat16": stored.stochastic(x, BF16, of_params, nearest),
            "drawn float16": stored.stochastic(x, F16, of_params, nearest),
            "drawn bfloat16 of a state": stored.stochastic(x, BF16, of_states, nearest),
            "drawn float16 of a state": stored.stochastic(x, F16, of_states, nearest),
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
    nothing = jnp.zeros(CHUNK, BF16)
    states = {"mu": x, "nu": nothing}  # each call overwrites those of the one before
    found = {}
    for call in CALLS:
        table = PARAM_IS_MU[None, None].astype(call.of)
        leaf = {"params": jnp.zeros(CHUNK, call.dtype), "grads": nothing, **states}
        if call.master:
            leaf["master"] = jnp.zeros(CHUNK, call.master)
        if call.stochastic:
            table = with_key(table)
        (results,) = traced_update(table, [leaf], stochastic=call.stochastic)
        states = {name: results[name] for name in states}
        found[call.name] = results["params"]
        if call.name_of_master:
            found[call.name_of_master] = results["master"]
    for dtype in (BF16, F16):
        leaf = {"params": nothing, "grads": x, "mu": jnp.zeros(CHUNK, dtype), "nu": nothing}
        table = with_key(MU_IS_GRADIENT[None, None])
        (results,) = traced_update(table, [leaf], stochastic=True)
        found[f"drawn {dtype} of a state"] = results["mu"]
    return found


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


def on_gpu(rules: Rules, start: int) -> list[Arrays]:
    """What the CUDA kernels' encoders and decoders give for a chunk."""
    bits = np.arange(start, start + CHUNK, dtype=np.int64).astype(np.uint32)
    params = (bits >> 16).astype(np.uint16).view(BF16)
    x = bits.view(np.float32)
    of_states, of_params = (draw.astype(np.uint16) for draw in (rules.of_states, rules.of_params))
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    found = {}
    for dtype in (BF16, F16):
        found[f"{dtype}"] = cuda_codec.narrowed(x, dtype)
        found[f"{dtype} of float64"] = cuda_codec.narrowed(wide, dtype)
        found[f"drawn {dtype}"] = cuda_codec.narrowed(x, dtype, of_params)
        found[f"drawn {dtype} of a state"] = cuda_codec.narrowed(x, dtype, of_states)
    for name, n, draws in (
        ("remainder", 16, None),
        ("correction", 8, None),
        ("drawn correction", 8, of_params),
    ):
        found[f"bfloat16 before its {name}"], found[name] = cuda_codec.split(x, n, draws)
    joined = cuda_codec.joined(params, bits.astype(np.uint16))
    return [found, {"joined with a remainder": joined}]


def read_on_gpu() -> Arrays:
    """The numbers that the CUDA kernels' decoders give for all that has no more than 24 bits."""
    halves, bits = np.arange(2**16, dtype=np.uint16), np.arange(2**24, dtype=np.uint32)
    params = (bits >> 8).astype(np.uint16).view(BF16)
    return {
        "a bfloat16": cuda_codec.widened(halves.view(BF16)),
        "a float16": cuda_codec.widened(halves.view(F16)),
        "joined with a correction": cuda_codec.joined(params, bits.astype(np.uint8)),
    }


def check_on_gpu(rules: Rules, start: int, on_cpu: Sequence[Arrays]) -> None:
    """Compares a chunk with that of the CPU, or with the rules where the CPU flushes numbers."""
    found = on_gpu(rules, start)
    if start & 0x7F800000:
        for of_gpu, of_cpu in zip(found, on_cpu, strict=True):
            compare(of_gpu, of_cpu, start)
    else:
        for begin in range(0, CHUNK, BLOCK):
            place = slice(begin, begin + BLOCK)
            check_block(rules, start + begin, place, found, flushes=False)


def check_chunk(
    rules: Rules, start: int, positive: Sequence[Arrays], negative: Sequence[Arrays]
) -> None:
    """Compares a chunk of positive numbers and that of the negative ones, a block at a time."""
    for begin in range(0, CHUNK, BLOCK):
        place = slice(begin, begin + BLOCK)
        check_block(rules, start + begin, place, positive)
        if begin == start // CHUNK * BLOCK % CHUNK:
            check_block(rules, start + SIGN + begin, place, negative)
        for of_positive, of_negative in zip(positive, negative, strict=True):
            expected = {name: with_other_sign(x[place]) for name, x in of_positive.items()}
            found = {name: x[place] for name, x in of_negative.items()}
            compare(found, expected, start + SIGN + begin)
    check_on_gpu(rules, start, positive)
    check_on_gpu(rules, start + SIGN, negative)


def check_block(
    rules: Rules, first: int, place: slice, results: Sequence[Arrays], *, flushes: bool = True
) -> None:
    """Compares a block with the rules, as threads see it that flush subnormal numbers or do not."""
    bits = np.arange(first, first + BLOCK, dtype=np.int64).astype(np.uint32)
    seen = flushed(bits) if flushes else bits.view(np.float32)
    expected = (rules.of_numbers(seen, place), rules.of_pairs(bits))
    for found, expected_there in zip(results, expected, strict=True):
        compare({name: x[place] for name, x in found.items()}, expected_there, first)


def with_other_sign(x: np.ndarray) -> np.ndarray:
    """The negative numbers; of what stands beside a parameter, what it was."""
    if x.dtype.kind == "u":
        return x
    bits = np.dtype(f"u{x.dtype.itemsize}")
    return (x.view(bits) ^ bits.type(1 << 8 * bits.itemsize - 1)).view(x.dtype)


class Digest:
    """A number that tells arrays apart by their bits and the order of these."""

    def __init__(self) -> None:
        self._weights = 2 * np.arange(2**23, dtype=np.uint64) + 1
        self.number = np.uint64(0)

    def add(self, x: np.ndarray) -> None:
        """Adds an array of at most 64 MiB."""
        words = np.ascontiguousarray(x).view(np.uint64)
        with np.errstate(over="ignore"):
            number = self.number * np.uint64(0x9E3779B97F4A7C15)
            self.number = number + np.dot(words, self._weights[: len(words)])


def numbers(arrays: Mapping[str, jax.Array]) -> Arrays:
    """The arrays of numpy."""
    return {name: np.asarray(x) for name, x in arrays.items()}


def starts(part: int, parts: int, seed: int) -> list[int]:
    """The first positive number of each chunk of one of the parts, as bits."""
    shuffled = np.random.default_rng(seed).permutation(np.arange(0, SIGN, CHUNK))
    return [int(start) for start in shuffled[part::parts]]


def run(part: int, parts: int, seed: int, *, checks: bool) -> np.uint64:
    """The digest of all that the kernel stores and reads of one of the parts."""
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    digest, rules, read = Digest(), Rules() if checks else None, numbers(read_numbers())
    if rules:
        compare(read, rules.of_stored(), 0)
        compare(read_on_gpu(), rules.of_stored(), 0)
    for start in starts(part, parts, seed):
        positive, negative = (
            [numbers(f(np.uint32(first))) for f in (stored_numbers, joined_pairs)]
            for first in (start, start + SIGN)
        )
        if rules:
            check_chunk(rules, start, positive, negative)
        for results in (*positive, *negative):
            for x in results.values():
                digest.add(x)
    for x in read.values():
        digest.add(x)
    return digest.number


if __name__ == "__main__":
    command, *which = sys.argv[1:]
    digest = run(*map(int, which), checks=command == "check")
    print(_native.instruction_set(), digest)
