"""Moments in codes of eight bits in the optimizer's state: which, at the start, and of others."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.tree_util import keystr

from nadam_xla.blockwise import CODES, is_quantized, scales_shape
from nadam_xla.jax.blockwise import Blockwise, Moment, dequantized, is_blockwise, quantized
from nadam_xla.jax.checks import PyTree, describe
from nadam_xla.jax.dtypes import cast
from nadam_xla.jax.specs import scales_sharding
from nadam_xla.storage import BLOCKWISE


def zeros_of(param: Any, moment: Moment, dtype: Any) -> Any:
    """A moment before the first step.

    Args:
        param: of which it is the moment.
        moment: which.
        dtype: in which it is computed.

    Returns:
        Codes and scales where they are worth while, or else an array of the dtype; sharded as the
        parameter.
    """
    if not has_codes(param):
        return jnp.zeros_like(param, dtype=dtype)
    codes = jnp.zeros_like(param, dtype=CODES[moment])
    return Blockwise(codes, _zero_scales(param))


def has_codes(param: Any) -> bool:
    """Whether a moment of this parameter, or of such a shape and dtype, is stored in codes."""
    return is_quantized(jnp.shape(param), str(jnp.result_type(param)))


def check_choice(name: Moment, tree: PyTree, dtype: Any) -> None:
    """Checks that those moments are in codes which the optimizer has so.

    Args:
        name: of the moments: ``mu_dtype`` and ``nu_dtype`` say how they are stored.
        tree: the moments.
        dtype: what was chosen.

    Raises:
        ValueError: the state was made with another choice.
    """
    other = "the state was made with another choice"
    wants_codes = is_blockwise_dtype(dtype)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_blockwise):
        at = f"state.{name}{keystr(path)}"
        if is_blockwise(leaf):
            if not wants_codes:
                raise ValueError(
                    f"{at} is in codes of eight bits, and {name}_dtype is {_in_words(dtype)}:"
                    f" {other}"
                )
        elif wants_codes and str(jnp.result_type(leaf)) == CODES[name]:
            raise ValueError(
                f"{at} is {describe(leaf)} without its Blockwise: something took the state apart,"
                " as flax.nnx.Optimizer does (nadam_xla.flax.nnx.Optimizer keeps it)"
            )
        elif wants_codes and has_codes(leaf):
            raise ValueError(
                f"{at} is {describe(leaf)}, and {name}_dtype is {BLOCKWISE!r}: {other}"
            )


def is_blockwise_dtype(dtype: Any) -> bool:
    """Whether ``mu_dtype`` or ``nu_dtype`` asks for codes of eight bits."""
    return isinstance(dtype, str) and dtype == BLOCKWISE


def decoded_moments(tree: PyTree) -> PyTree:
    """The moments as arrays, those in codes as the float32 that these stand for."""
    return jax.tree.map(
        lambda leaf: dequantized(leaf) if is_blockwise(leaf) else leaf, tree, is_leaf=is_blockwise
    )


def moments_like(tree: PyTree, like: PyTree, moment: Moment) -> PyTree:
    """Moments stored as others are: in codes, the nearest ones, or in their dtype.

    Args:
        tree: arrays, or moments in codes.
        like: of the same structure and shapes, maybe without values.
        moment: which.
    """

    def of_leaf(leaf: Any, like_leaf: Any) -> Any:
        if is_blockwise(leaf) and is_blockwise(like_leaf):
            return leaf
        wide = jnp.asarray(dequantized(leaf) if is_blockwise(leaf) else leaf)
        # Optax's second moments of complex parameters are complex, without an imaginary part.
        return quantized(wide, moment) if is_blockwise(like_leaf) else cast(wide, like_leaf.dtype)

    return jax.tree.map(of_leaf, tree, like, is_leaf=is_blockwise)


def _zero_scales(param: Any) -> jax.Array:
    scales = jnp.zeros(scales_shape(jnp.shape(param)), jnp.float32)
    sharding = getattr(param, "sharding", None)
    if isinstance(param, jax.core.Tracer) or not isinstance(sharding, NamedSharding):
        return scales
    placed: jax.Array = jax.device_put(scales, scales_sharding(param.shape, sharding))
    return placed


def _in_words(dtype: Any) -> str:
    return "None" if dtype is None else str(jnp.dtype(dtype))
