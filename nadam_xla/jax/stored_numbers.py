"""How a number becomes what is stored, and back: kernels/storage.h in jax.numpy.

All of it is differentiable: what is stored has the derivative of the number that it stands for.
"""

import jax
import jax.numpy as jnp

_SIGN = 0x80000000
_INFINITY = 0x7F800000

REMAINDER_BITS = {jnp.dtype("uint16"): 16, jnp.dtype("uint8"): 8}
"""Of the dtypes of master weights that complete a bfloat16, how many bits it lacks are there."""


@jax.custom_jvp
def with_tangent_of(value: jax.Array, like: jax.Array) -> jax.Array:
    """The value, with the derivative of another one of its dtype."""
    del like
    return value


@with_tangent_of.defjvp
def _with_tangent_of_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[1]


def drawn(x: jax.Array, dtype: jax.typing.DTypeLike, draws: jax.Array) -> jax.Array:
    """One of the two stored numbers next to x, the nearer one the more often.

    Args:
        x: float32.
        dtype: bfloat16 or float16; others are rounded to the nearest.
        draws: of its shape, uint32 in [0, 2**16).
    """
    nearest = x.astype(dtype)
    if dtype == jnp.bfloat16:
        stored = _drawn_bfloat16(jax.lax.stop_gradient(x), draws)
    elif dtype == jnp.float16:
        stored = _drawn_float16(jax.lax.stop_gradient(x), draws)
    else:
        return nearest
    return with_tangent_of(stored, nearest)


def joined(params: jax.Array, remainder: jax.Array) -> jax.Array:
    """The float32 of a bfloat16 and the bits that it lacks: uint16, or the first eight as uint8."""
    bits = REMAINDER_BITS[remainder.dtype]
    upper = _bits_16(params).astype(jnp.uint32)
    signed = jax.lax.bitcast_convert_type(remainder, f"int{bits}").astype(jnp.int32)
    added = jax.lax.bitcast_convert_type(signed, jnp.uint32) << (16 - bits)
    is_stale = ((upper & 0x7FFF) == 0) & (signed < 0)
    together = jnp.where(is_stale, upper << 16, (upper << 16) + added)
    return with_tangent_of(_float(together), params.astype(jnp.float32))


def split(
    x: jax.Array, dtype: jax.typing.DTypeLike, draws: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """A float32 as a bfloat16 and the bits that it lacks, of this dtype.

    Args:
        x: float32.
        dtype: uint16 or uint8; of the latter x is rounded first.
        draws: None: to the nearest; otherwise of its shape, uint32 in [0, 2**16).
    """
    nearest = x.astype(jnp.bfloat16)
    kept = REMAINDER_BITS[jnp.dtype(dtype)]
    bits = _bits(jax.lax.stop_gradient(x))
    if kept == 8:
        bits = _to_24_bits(bits, draws)
    is_nan = (bits & ~jnp.uint32(_SIGN)) > _INFINITY
    upper = jnp.where(is_nan, bits >> 16 | 0x40, (bits + 0x8000) >> 16)
    remainder = jnp.where(is_nan, 0, bits >> (16 - kept) & ((1 << kept) - 1))
    params = jax.lax.bitcast_convert_type(upper.astype(jnp.uint16), jnp.bfloat16)
    return with_tangent_of(params, nearest), remainder.astype(dtype)


def _to_24_bits(bits: jax.Array, draws: jax.Array | None) -> jax.Array:
    magnitude = bits & ~jnp.uint32(_SIGN)
    is_finite = magnitude < _INFINITY
    nearest = jnp.where(is_finite, (bits + 0x7F + (bits >> 8 & 1)) & ~jnp.uint32(0xFF), bits)
    if draws is None:
        return nearest
    rounded = (magnitude + (draws & 0xFF)) & ~jnp.uint32(0xFF)
    return jnp.where(rounded < _INFINITY, bits & jnp.uint32(_SIGN) | rounded, nearest)


def _drawn_bfloat16(x: jax.Array, draws: jax.Array) -> jax.Array:
    bits = _bits(x)
    rounded = ((bits + draws) >> 16).astype(jnp.uint16)
    # From the largest finite one on: no infinity that is not the nearest.
    is_at_end = (bits & ~jnp.uint32(_SIGN)) >= 0x7F7F0000
    stored = jax.lax.bitcast_convert_type(rounded, jnp.bfloat16)
    return jnp.where(is_at_end, x.astype(jnp.bfloat16), stored)


def _drawn_float16(x: jax.Array, draws: jax.Array) -> jax.Array:
    first = 127 - 14  # the exponent of the smallest normal float16
    bits = _bits(x)
    magnitude = bits & ~jnp.uint32(_SIGN)
    is_large = magnitude >= (127 + 16) << 23
    exponent = jnp.maximum(jnp.where(is_large, first, magnitude >> 23), first)
    scale = _float((127 + 127 + 10 + 16 - exponent).astype(jnp.uint32) << 23)
    places = _float(jnp.where(is_large, 0, magnitude)) * scale  # in 2**-16 of the last place
    whole = jnp.where(places < 2.0**23, places + 0.5, places).astype(jnp.int32)
    of_last_place = (exponent - first).astype(jnp.uint32) << 10
    rounded = ((whole.astype(jnp.uint32) + draws) >> 16) + of_last_place
    sign = bits >> 16 & 0x8000
    stored = jax.lax.bitcast_convert_type((sign | rounded).astype(jnp.uint16), jnp.float16)
    return jnp.where(~is_large & (rounded < 0x7C00), stored, x.astype(jnp.float16))


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _bits_16(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), jnp.uint16)


def _float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
