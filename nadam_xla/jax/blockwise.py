"""Moments in codes of eight bits: kernels/blockwise.h in jax.numpy.

Of the float32 that a number gives, scaled by one product, the bits are rounded, and are the code:
exponent and first bits of the mantissa together are one whole number. To the magnitude of a first
moment a constant is added before, as in the mu-law of telephony (ITU-T G.711), so that codes near
zero are evenly spaced.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from nadam_xla.blockwise import BLOCK, CODES, scales_shape
from nadam_xla.jax.checks import PyTree, describe
from nadam_xla.jax.dtypes import computed_dtype, is_complex

Moment: TypeAlias = Literal["mu", "nu"]

_SMALLEST_SCALE = np.float32(2.0**-90)
_INFINITY = np.uint32(0x7F800000)
_SIGN = np.uint32(0x80000000)

# First moments: 2 + magnitude * (494 / scale), with 4 bits of mantissa.
_BOTTOM = np.float32(2)
_RANGE = np.float32(494)
_SIGNED_PLACE = 19
# Second moments: number * (2**32 / scale), with 3 bits of mantissa. The last code is that of 2**32.
_TOP = np.float32(2.0**32)
_LAST = 248
_UNSIGNED_PLACE = 20

_NEAREST = 1 << 15  # among the draws, of which there are 2**16


class Blockwise(NamedTuple):
    """A moment in codes, in the place of a leaf of ``mu`` or ``nu``.

    Attributes:
        codes: int8 in ``mu`` and uint8 in ``nu``, of the leaf's shape.
        scales: float32, of the leaf's shape but for the last axis, which has a number for each 256
            elements: the largest magnitude among them. Zero where all are zero; NaN where one is
            not finite, and then all of them are NaN.
    """

    codes: jax.Array
    scales: jax.Array


# The name and the order of the fields are written into exported programs: they stay.
jax.export.register_namedtuple_serialization(Blockwise, serialized_name="nadam_xla.jax.Blockwise")


def is_blockwise(node: Any) -> bool:
    """Whether this is a moment in codes."""
    return isinstance(node, Blockwise)


def quantized(x: jax.Array, moment: Moment) -> Blockwise:
    """The codes nearest to the numbers of a moment.

    Args:
        x: of any real floating dtype, with a last axis; of ``nu`` not negative.
        moment: which.
    """
    return encoded(x.astype(jnp.float32), moment, None)


def dequantized(node: Blockwise) -> jax.Array:
    """The float32 numbers that a moment in codes stands for."""
    return decoded(*node)


def encoded(x: jax.Array, moment: Moment, draws: jax.Array | None) -> Blockwise:
    """The codes of a moment.

    Args:
        x: float32, with a last axis.
        moment: which.
        draws: of its shape, uint32 in [0, 2**16): each rounds up where it is large enough; None: to
            the nearest.
    """
    x = jax.lax.stop_gradient(x)
    bits = _bits(_by_blocks(x))
    largest = jnp.max(bits & ~_SIGN, axis=-1, initial=0)
    floored = _float(jnp.maximum(largest, _bits(_SMALLEST_SCALE)))
    scales = jnp.where(largest == 0, np.float32(0), floored)
    scales = jnp.where(largest >= _INFINITY, np.float32(np.nan), scales)
    has_codes = (largest != 0) & (largest < _INFINITY)
    encode, top = (_signed, _RANGE) if moment == "mu" else (_unsigned, _TOP)
    inverses = top / jnp.where(has_codes, floored, np.float32(1))
    given = None if draws is None else _by_blocks(draws)
    codes = encode(_by_blocks(x), inverses[..., None], given)
    codes = jnp.where(has_codes[..., None], codes, 0)
    return Blockwise(_in_rows(codes, x.shape[-1]).astype(CODES[moment]), scales)


def decoded(codes: jax.Array, scales: jax.Array) -> jax.Array:
    """The float32 numbers of codes and scales."""
    blocks = _by_blocks(codes)
    if codes.dtype == jnp.int8:
        wide = blocks.astype(jnp.int32)
        magnitude = jnp.abs(wide).astype(jnp.uint32) << _SIGNED_PLACE
        above = _float(_bits(_BOTTOM) + magnitude) - _BOTTOM
        scaled = jnp.where(wide < 0, -above, above)
        factors = scales * (np.float32(1) / _RANGE)
    else:
        wide = blocks.astype(jnp.uint32)
        scaled = _float((wide + _unsigned_zero()) << _UNSIGNED_PLACE)
        scaled = jnp.where(wide == 0, np.float32(0), scaled)
        factors = scales * (np.float32(1) / _TOP)
    return _in_rows(scaled * factors[..., None], codes.shape[-1])


def _signed(x: jax.Array, inverses: jax.Array, draws: jax.Array | None) -> jax.Array:
    # The sign is taken off in bits, so that no compiler makes one operation of product and sum.
    magnitude = _float(_bits(x * inverses) & ~_SIGN)
    bits = _bits(magnitude + _BOTTOM) - _bits(_BOTTOM) + _added(draws, _SIGNED_PLACE)
    codes = (bits >> _SIGNED_PLACE).astype(jnp.int32)
    return jnp.where(_bits(x) >= _SIGN, -codes, codes)


def _unsigned(x: jax.Array, inverses: jax.Array, draws: jax.Array | None) -> jax.Array:
    bits = _bits(x * inverses) + _added(draws, _UNSIGNED_PLACE)
    first = _unsigned_zero() + np.uint32(1)
    codes = jnp.maximum(bits >> _UNSIGNED_PLACE, first) - _unsigned_zero()
    return jnp.where((_bits(x) > 0) & (_bits(x) < _SIGN), codes, 0)


def _unsigned_zero() -> np.uint32:
    """Where zero would stand."""
    return np.uint32((int(_TOP.view(np.uint32)) >> _UNSIGNED_PLACE) - _LAST)


def _added(draws: jax.Array | None, place: int) -> jax.Array | np.uint32:
    """What is added below the last place: half of it, or one of 2**16 parts."""
    return np.uint32(_NEAREST << place - 16) if draws is None else draws << (place - 16)


def _by_blocks(x: jax.Array) -> jax.Array:
    """``[..., blocks, 256]``, with zeros behind the end of each row."""
    *leading, columns = x.shape
    blocks = -(-columns // BLOCK)
    missing = blocks * BLOCK - columns
    padded = jnp.pad(x, [*[(0, 0)] * len(leading), (0, missing)]) if missing else x
    return padded.reshape(*leading, blocks, BLOCK)


def _in_rows(blocks: jax.Array, columns: int) -> jax.Array:
    *leading, of_row, _ = blocks.shape
    return blocks.reshape(*leading, of_row * BLOCK)[..., :columns]


def _bits(x: Any) -> Any:
    return x.view(np.uint32) if isinstance(x, np.generic) else _bitcast(x, jnp.uint32)


def _float(bits: jax.Array) -> jax.Array:
    return _bitcast(bits, jnp.float32)


def _bitcast(x: jax.Array, dtype: Any) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, dtype)


# ---- trees ---------------------------------------------------------------------------------------


def as_numbers(tree: PyTree) -> PyTree:
    """The tree with what stands for float32 numbers in the place of each moment in codes."""

    def of(node: Any) -> Any:
        if not is_blockwise(node):
            return node
        return jax.ShapeDtypeStruct(jnp.shape(node.codes), jnp.float32)

    return jax.tree.map(of, tree, is_leaf=is_blockwise)


def check_blockwise(moment: Moment, tree: PyTree, params: PyTree) -> None:
    """Checks the moments in codes of a tree.

    Args:
        moment: which, and the name of the tree.
        tree: of arrays and moments in codes.
        params: a tree of as many leaves, to which they belong.

    Raises:
        TypeError: codes or scales are of another dtype, or codes those of a parameter that is
            complex or float64.
        ValueError: scales do not have the shape that their codes ask for.
    """
    paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_blockwise)
    for (path, node), param in zip(paths, jax.tree.leaves(params), strict=True):
        if not is_blockwise(node):
            continue
        at = f"{moment}{keystr(path)}"
        if is_complex(param) or computed_dtype(param) != jnp.float32:
            raise TypeError(
                f"{at} is in codes of eight bits, and params{keystr(path)} is {describe(param)};"
                " codes are for parameters that are computed in float32"
            )
        _check_codes(at, node, CODES[moment])


def _check_codes(at: str, node: Blockwise, codes: str) -> None:
    for field, dtype in (("codes", codes), ("scales", "float32")):
        array = getattr(node, field)
        if str(getattr(array, "dtype", None)) != dtype:
            raise TypeError(f"{at}.{field} is {describe(array)}; it must be of {dtype}")
    shape = jnp.shape(node.codes)
    if not shape:
        raise ValueError(f"{at}.codes is a scalar; blocks lie along a last axis")
    if jnp.shape(node.scales) != scales_shape(shape):
        raise ValueError(
            f"{at}.scales is {describe(node.scales)}; of codes of the shape {shape} it must have"
            f" the shape {scales_shape(shape)}, one for each {BLOCK} of the last axis"
        )


def decoded_streams(given: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    """The arrays of a stream, those of a moment in codes as the numbers that these stand for."""
    scales = given.get(f"{name}_scales")
    if scales is None:
        return given[name]
    return [decoded(*pair) for pair in zip(given[name], scales, strict=True)]
