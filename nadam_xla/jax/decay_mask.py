"""Which leaves decay."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.checks import PyTree, check_structure, describe
from nadam_xla.jax.explicit_axes import stack

Mask: TypeAlias = PyTree | Callable[[PyTree], PyTree] | None


def chosen_leaves(mask: Mask, params: PyTree) -> list[jax.Array]:
    """The mask's boolean for each leaf of the parameters.

    Args:
        mask: a tree of booleans (0 and 1 are such) with the structure of the parameters or a prefix
            of it, or a function that makes one from them.
        params: the parameters.

    Raises:
        ValueError: the mask's structure is not that of the parameters, nor a prefix of it.
        TypeError: a leaf of the mask is no boolean scalar.
    """
    return [jnp.asarray(leaf, jnp.bool_) for leaf in booleans("mask", mask, params)]


def booleans(name: str, mask: PyTree | Callable[[PyTree], PyTree], params: PyTree) -> list[Any]:
    """The same as they stand in the mask.

    Args:
        name: of the mask.
        mask: as for :func:`chosen_leaves`.
        params: the parameters.
    """
    # A module with a __call__ is a callable too, but it is a tree of booleans.
    is_function = jax.tree_util.all_leaves([mask])
    tree = mask(params) if callable(mask) and is_function else mask
    check_structure(name, tree, "params", params, prefix=True)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not _is_boolean(leaf):
            raise TypeError(
                f"{name}{keystr(path)} is {describe(leaf)}; it must be a boolean, or 0 or 1"
            )
    leaves: list[Any] = jax.tree.leaves(jax.tree.broadcast(tree, params))
    return leaves


def _is_boolean(leaf: Any) -> bool:
    if isinstance(leaf, Integral):
        return leaf in (0, 1)
    return getattr(leaf, "dtype", None) == jnp.bool_ and jnp.shape(leaf) == ()


def masked(row: Coefficients, chosen: list[jax.Array]) -> Coefficients:
    """The row with a decay for each leaf: none for those that the mask did not choose."""
    if not chosen:
        return row
    decays = stack(chosen)
    return row._replace(decay=jnp.where(decays, row.decay, 0.0), l2=jnp.where(decays, row.l2, 0.0))
